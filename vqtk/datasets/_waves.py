"""Read untrusted .wav files as mono samples at one rate, bounding what they claim before spending memory on it."""

from __future__ import annotations

import io
import struct
import warnings
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from vqtk.datasets._paths import because, check_regular, check_size, shown
from vqtk.datasets._split import HELD_AT_MOST
from vqtk.errors import DataError

RATES = range(1_000, 768_001)
"""The rates of files, in Hz."""


def wave_claims(path: Path) -> tuple[int, int] | None:
    """Return the rate of a .wav file and the number of its samples per channel, from its header; None if damaged."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            riff, _, kind = struct.unpack("<4sI4s", file.read(12))
            if riff != b"RIFF" or kind != b"WAVE":
                return None
            rate = frame = 0
            while len(head := file.read(8)) == 8:
                name, size = struct.unpack("<4sI", head)
                if name == b"fmt ":
                    _, _, rate, _, frame, _ = struct.unpack("<HHIIHH", file.read(16))
                    size -= 16
                elif name == b"data" and frame:
                    return rate, min(size, path.stat().st_size - file.tell()) // frame
                file.seek(size + size % 2, 1)
    except (OSError, struct.error, DataError):
        pass
    return None


def read_wave(path: Path, rate: int) -> np.ndarray:
    """Return the samples of a .wav file (t,), float32 from -1 to 1, resampled to a rate; channels are averaged.

    Raises: DataError if it is damaged, too long, or in a format that is not read.
    """
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    try:
        check_regular(path)
        check_size(path, HELD_AT_MOST, advice="Cut it into parts.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of chunks that are not samples, such as titles.
            own, samples = wavfile.read(io.BytesIO(path.read_bytes()))
        if own not in RATES:
            raise ValueError(f"its rate is {own:,} Hz")
        values: Any = _from_minus_one_to_one(samples)
        if 4 * len(values) * rate / own > HELD_AT_MOST:
            raise ValueError(f"at {rate:,} Hz it has more than {HELD_AT_MOST:,} bytes")
        if own != rate:
            common = gcd(own, rate)
            values = resample_poly(values, rate // common, own // common)
    except DataError:
        raise
    except Exception as error:  # Damaged headers raise anything.
        raise DataError(
            f"{shown(path)} cannot be read as sound ({because(error)}). Expected a complete .wav file of 8 to 32 bits."
        ) from None
    if not np.isfinite(values).all():
        raise DataError(f"{shown(path)} has samples that are not finite.")
    return np.asarray(values, dtype=np.float32)


def _from_minus_one_to_one(samples: np.ndarray) -> np.ndarray:
    """Return samples (t,) or (t, channels) as mono float32; 8 bits are unsigned, more are signed."""
    values: np.ndarray = samples.astype(np.float32)
    if samples.dtype == np.uint8:
        values = (values - 128) / 128
    elif samples.dtype.kind == "i":
        values = values / -np.float32(np.iinfo(samples.dtype).min)
    return values if values.ndim == 1 else values.mean(1, dtype=np.float32)
