"""Pack a folder of images into shards: tar files in the layout of WebDataset."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from vqtk.datasets._index import IMAGE_SUFFIXES, indexed
from vqtk.datasets._layout import layout_of
from vqtk.datasets._listing import Listing
from vqtk.datasets._paths import shown
from vqtk.errors import DataError, VqtkError
from vqtk.files import new_folder
from vqtk.process import generator

LABELS_FILE = "labels.txt"
"""The names of the labels, one on each line, beside the shards; other readers ignore it."""
_OVERHEAD = 2048
"""Bytes of a shard beside those of an image: two headers, the label and what fills the last block."""


@dataclass(frozen=True)
class PackedImages:
    """What was packed: the numbers of training and test examples and of shards, and lines about how it was divided."""

    train: int
    test: int
    shards: int
    notes: list[str]


def pack_images(folder: Path, output: Path, *, share: float, shard_bytes: int) -> PackedImages:
    """Write the images of a folder, unchanged, to shards `train-*.tar` and `test-*.tar` in a new folder.

    They are divided and labelled as `image_folder` does, and come in a random order that is always the same, so that
    examples of one class do not lie together.

    Raises: DataError if there are no images; VqtkError if `output` exists; OSError.
    """
    if output.exists():
        raise VqtkError(f"{shown(output)} exists. Give a new folder with --out, or remove it.")
    listing = indexed(folder, "images")
    if not listing:
        raise DataError(f"{shown(folder)} holds no images. Expected {', '.join(sorted(IMAGE_SUFFIXES))}, at any depth.")
    layout = layout_of(listing, share=share).check(folder, share)
    shards = 0
    with new_folder(output.absolute().parent) as temporary:
        for name, part in (("train", layout.train), ("test", layout.test)):
            order = torch.randperm(len(part), generator=generator(0, "pack", name)).numpy()
            chosen = part.below(folder).select(order)
            labels = layout.labels(chosen)
            for number, examples in enumerate(_cuts(chosen.sizes, shard_bytes)):
                _write_shard(temporary / f"{name}-{number:06d}.tar", chosen, labels, examples)
                shards += 1
        names = layout.shown_names()
        if names:
            (temporary / LABELS_FILE).write_text("".join(f"{one}\n" for one in names), encoding="utf-8")
        temporary.rename(output)
    return PackedImages(len(layout.train), len(layout.test), shards, layout.notes)


def _cuts(sizes: np.ndarray, most: int) -> Iterator[range]:
    """Yield the examples of each shard: as many as fit, at least one."""
    ends = np.cumsum(sizes + _OVERHEAD)
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield range(start, stop)
        start = stop


def _write_shard(path: Path, files: Listing, labels: np.ndarray | None, numbers: range) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in numbers:
            file = files[number]
            with file.open("rb") as content:
                header = tarfile.TarInfo(f"{number:09d}{file.suffix.lower()}")
                header.size = os.fstat(content.fileno()).st_size
                tar.addfile(header, content)
            if labels is not None:
                text = str(labels[number]).encode()
                header = tarfile.TarInfo(f"{number:09d}.cls")
                header.size = len(text)
                tar.addfile(header, BytesIO(text))
