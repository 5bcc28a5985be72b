"""Tar files of images as a data set."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import torch

from vqtk.datasets._base import Splits
from vqtk.datasets._images import check_sample
from vqtk.datasets._layout import drawn_rows, splits_by_folder
from vqtk.datasets._packing import LABELS_FILE
from vqtk.datasets._paths import check_size, existing, required, shown
from vqtk.datasets._pixels import image_in
from vqtk.datasets._shards import ShardedExamples, read_shard
from vqtk.datasets._split import Part, Split
from vqtk.datasets.image_folder import ImageFolder
from vqtk.errors import DataError, printable
from vqtk.nn.types import Count
from vqtk.registry import Inherited, datasets

_NAMES_AT_MOST = 1 << 24
_EXPECTED = "a folder of tar files of images, as `vqtk pack` and WebDataset write them"


@datasets.register("shards")
class Shards(ImageFolder):
    """The images in a folder of tar files, as `vqtk pack` and WebDataset write them, read from disk when needed.

    The files of an example have the same name up to the first dot: an image and, optionally, `.cls` with its label, a
    whole number. Shards named train-… and test-… or val-… are the splits; otherwise the fraction `test` of the
    examples is held out. Training reads `block` consecutive examples at a time, in random order, and shuffles those of
    64 blocks.

    Shapes: examples (3, size, size), or (1, size, size) if grey, uint8; training units from -1 to 1.
    Raises: DataError if a tar file is damaged, there is none, or more than a tenth of a sample cannot be read.
    """

    def __init__(self, *, block: Count = 128, **settings: Inherited):
        super().__init__(**settings)
        self.block = block

    def count(self, root: Path) -> int | None:
        """Return the number of examples; None if the folder does not exist."""
        folder = existing(self.path, root)
        if folder is None or not folder.is_dir():
            return None
        return sum(len(read_shard(path).sizes) for path in sorted(folder.glob("*.tar")))

    def plan(self, root: Path) -> str:
        """Return in words how the examples are read."""
        examples = self.count(root)
        found = "none found yet" if examples is None else f"{examples:,} examples"
        return f"read from disk by worker processes, in blocks of {self.block:,}, {found}"

    def load(self, root: Path) -> Splits:
        """Read the headers of the shards."""
        folder = required(self.path, root, expected=_EXPECTED)
        shards = sorted(folder.glob("*.tar")) if folder.is_dir() else []
        if not shards:
            raise DataError(f"{shown(folder)} holds no .tar file. Expected {_EXPECTED}.")
        own = splits_by_folder([Path(re.split("[-_.]", path.name)[0]) / path.name for path in shards])
        if own is None:
            whole = self._examples(shards, folder)
            check_sample([whole], what="examples")
            test = torch.from_numpy(drawn_rows(len(whole), self.test))
            parts: list[Split] = [Part(whole, which.nonzero()[:, 0]) for which in (~test, test)]
        else:
            found = [self._examples([folder / path.name for path in part], folder) for part in own[:2]]
            check_sample(found, what="examples")
            parts = [*found]
        train, held_out = parts
        note = " ".join(own[2]).replace("by folder", "by shard") if own else None
        return Splits(train, held_out, source=shown(folder), note=note, labels=_label_names(folder, parts))

    def _examples(self, paths: list[Path], folder: Path) -> ShardedExamples:
        shards = [shard for shard in map(read_shard, paths) if len(shard.sizes)]
        if not shards:
            raise DataError(f"{shown(folder)}: {len(paths):,} shards, such as {paths[0].name}, hold no images.")
        read = partial(image_in, size=self.size, crop=self.crop, colours=self.colours)
        return ShardedExamples(shards, read, block=self.block)


def _label_names(folder: Path, splits: list[Split]) -> tuple[str, ...] | None:
    """Return the names of the labels; None without names. Raises: DataError if there are fewer names than labels."""
    path = folder / LABELS_FILE
    labels = [split.labels for split in splits if split.labels is not None]
    if len(labels) < len(splits) or not path.is_file():
        return None
    check_size(path, _NAMES_AT_MOST, advice="Expected the name of a label on each line.")
    names = path.read_text(encoding="utf-8", errors="replace").splitlines()
    most = max(int(one.max()) for one in labels)
    if most >= len(names):
        raise DataError(
            f"{shown(path)} has {len(names):,} names, and there is a label {most:,}. Expected one for each."
        )
    return tuple(printable(name) for name in names)
