"""The bits that codes take on disk, and the rate and distortion of JPEG, WebP and AVIF on the same images."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from math import log, log2, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqtk.codec.stream import CodeFile, CodeWriter
from vqtk.coders import coder_of
from vqtk.datasets import Split
from vqtk.evaluate.evaluation import Evaluation, Track, untracked
from vqtk.metrics import decibels
from vqtk.models import Model
from vqtk.sampling.prior import Markov

FORMATS = ("JPEG", "WEBP", "AVIF")
QUALITIES = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
MOST_IMAGES = 200
"""Images that the formats are measured on: each is compressed once for every quality."""
FAIR_SIDE = 64
"""The side below which the headers of image formats outweigh the image."""


def codec_figures(
    model: Model,
    evaluation: Evaluation,
    split: Split,
    items: Tensor,
    *,
    fitted: Callable[[], Markov],
    track: Track = untracked,
) -> dict[str, Any]:
    """Return the sizes of files of codes, and for images the image formats beside them, as JSON values.

    Arguments:
        model: the model.
        evaluation: its evaluation on examples of a split, with their codes.
        split: the split.
        items: the indices of the examples.
        fitted: returns the prior of the coders that need one.
        track: shows the progress.

    Raises: VqtkError if constriction is not installed.
    """
    names = ["packed", "uniform", "frequencies", "markov"]
    names += ["autoregressive"] if getattr(model, "prior", None) is not None else []
    coders = [_sizes(model, evaluation.codes, name, fitted) for name in track(names, "coders")]
    found: dict[str, Any] = {"examples": len(items), "coders": coders}
    if model.data.kind != "image" or model.data.shape[0] not in (1, 3):
        return {**found, "formats": [], "note": "Image formats hold images of 1 or 3 channels alone."}
    measured = evaluation.stages()
    curves = {
        key: [(row[key] * 8, stage["psnr_db"]) for row, stage in zip(coders[0]["stages"], measured, strict=True)]
        for key in ("bytes", "payload")
        if None not in [stage.get("psnr_db") for stage in measured]
    }
    raw = split[items[torch.linspace(0, len(items) - 1, min(MOST_IMAGES, len(items))).long()]].cpu()
    images = [_as_image(image) for image in raw]
    formats = [_format_figures(name, images, curves) for name in track(_supported(), "image formats")]
    side = max(model.data.shape[1:])
    small = (
        f"Images of {side} pixels are not a fair ground: most of an image file is its header. Compare the rates "
        "without headers, and even those with care."
    )
    missing = [name for name in FORMATS if name not in _supported()]
    notes = [*([small] if side < FAIR_SIDE else []), *(f"This Pillow has no {name}." for name in missing)]
    return {**found, "images": len(images), "formats": formats, "note": " ".join(notes)}


def _sizes(model: Model, codes: Tensor, name: str, fitted: Callable[[], Markov]) -> dict[str, Any]:
    """Return the bits per example of a file of codes, read from the file, and of its first stages."""
    coder = coder_of(name, model, fitted=fitted)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes.vqd"
        with CodeWriter(path, model, coder, named=False, array=True) as writer:
            writer.add(codes)
        shares, size = CodeFile(path).shares, path.stat().st_size
    n, around = len(codes), size - shares.payload
    payloads = np.cumsum(shares.stages)
    stages = [{"bytes": (around + int(part)) / n, "payload": int(part) / n} for part in payloads]
    return {
        "name": name,
        "file_bytes": size,
        "prior_bytes": shares.tables,
        "bits_per_example": 8 * size / n,
        "payload_bits_per_example": 8 * shares.payload / n,
        "entropy_bits_per_example": coder.nats(codes) / log(2) / n,
        "bits_per_dim": 8 * size / n / prod(model.data.shape),
        "stages": stages,
    }


# ── image formats ────────────────────────────────────────────────────────────────────────────────


def _supported() -> list[str]:
    from PIL import features

    return [name for name in FORMATS if features.check({"JPEG": "jpg"}.get(name, name.lower()))]


def _format_figures(name: str, images: list[Any], curves: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Return the curve of an image format, and the BD-rate of the model against it, with and without headers."""
    points = [_measured(name, images, quality) for quality in QUALITIES]
    rates = {
        f"bd_rate_{key}": bd_rate(curve, [(8 * point[key], point["psnr_db"]) for point in points if point["psnr_db"]])
        for key, curve in curves.items()
    }
    return {"name": name, "points": points, **rates}


def _measured(name: str, images: list[Any], quality: int) -> dict[str, Any]:
    """Return bytes per image at a quality, those without the header, and the PSNR of the mean squared error.

    The header is the size of an image of one grey value, which has hardly anything else.
    """
    from PIL import Image

    sizes, errors = [], []
    for image in images:
        written = _written(image, name, quality)
        with Image.open(io.BytesIO(written)) as opened:
            decoded = np.asarray(opened.convert(image.mode), dtype=np.float64)
        errors.append(np.square((decoded - np.asarray(image)) / 255).mean())
        sizes.append(len(written))
    flat = len(_written(Image.new(images[0].mode, images[0].size, "grey"), name, quality))
    size = float(np.mean(sizes))
    error = float(np.mean(errors))
    return {
        "quality": quality,
        "bytes": size,
        "payload": max(size - flat, 0.0),
        "mse_pixels": error,
        "psnr_db": decibels(error),
    }


def _written(image: Any, name: str, quality: int) -> bytes:
    written = io.BytesIO()
    image.save(written, name, quality=quality, **({"optimize": True} if name == "JPEG" else {}))
    return written.getvalue()


def _as_image(raw: Tensor) -> Any:
    from PIL import Image

    values = raw.movedim(0, 2).contiguous().numpy()
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def bd_rate(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> float | None:
    """Return by how many percent the rate of one curve differs from another's, averaged over their common PSNR.

    Negative if the first needs fewer bits. None if the curves share no range of PSNR, or have fewer than two points.

    Arguments:
        one: pairs of rate and PSNR.
        other: those of the curve compared with.

    Source: Bjøntegaard 2001, VCEG-M33, with monotone interpolation instead of a cubic polynomial.
    """
    from scipy.interpolate import PchipInterpolator

    curves = [_rising(one), _rising(other)]
    if min(map(len, curves)) < 2:
        return None
    low, high = max(curve[0][1] for curve in curves), min(curve[-1][1] for curve in curves)
    if low >= high:
        return None
    own, theirs = (
        PchipInterpolator([psnr for _, psnr in curve], [log2(rate) for rate, _ in curve]).integrate(low, high)
        for curve in curves
    )
    return 100 * (2 ** float((own - theirs) / (high - low)) - 1)


def _rising(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points by rate, without those whose PSNR is no higher than a cheaper one's."""
    kept: list[tuple[float, float]] = []
    for rate, psnr in sorted(point for point in curve if point[0] > 0):
        if not kept or psnr > kept[-1][1]:
            kept.append((rate, psnr))
    return kept
