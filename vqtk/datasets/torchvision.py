"""The image data sets of torchvision, by name."""

from __future__ import annotations

import inspect
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vqtk.datasets._base import Splits
from vqtk.datasets._indexed import OtherImages
from vqtk.datasets._official import quietly
from vqtk.datasets._paths import because
from vqtk.errors import DataError, nearest
from vqtk.nn.types import Side
from vqtk.registry import datasets


@datasets.register("torchvision", example={"dataset": "KMNIST", "size": 28, "colours": "grey"})
class Torchvision(OtherImages):
    """A data set of torchvision by its class, such as KMNIST, cropped and scaled to `size` × `size`.

    It must have a train and a test split, or a validation split in its place, and give images. It is downloaded to
    the data root as torchvision does, with its checksums. `vqtk` reads CIFAR-10, SVHN, CelebA and MNIST itself.

    Shapes: examples (3, size, size), or (1, size, size) if grey, uint8; training units from -1 to 1.
    Raises: DataError if there is no such data set, or it cannot be downloaded or read.
    """

    def __init__(
        self,
        *,
        dataset: str,
        size: Side = 32,
        crop: Literal["centre", "none"] = "centre",
        colours: Literal["rgb", "grey"] = "rgb",
    ):
        super().__init__(size=size, crop=crop, colours=colours)
        self.dataset = dataset

    def load(self, root: Path) -> Splits:
        """Read the images under `root`, or download them there."""
        train, test = (self._made(root, train=train) for train in (True, False))
        parts = [
            self.split(len(part), partial(_image_of, part), _labels_of(part), f"{self.dataset} {name}")
            for name, part in (("train", train), ("test", test))
        ]
        names = getattr(train, "classes", None)
        labels = tuple(map(str, names)) if names and parts[0].labels is not None else None
        return Splits(parts[0], parts[1], source=f"torchvision {self.dataset} in {root}", labels=labels)

    def _made(self, root: Path, *, train: bool) -> Any:
        component = _component(self.dataset)
        takes = inspect.signature(component).parameters
        settings: dict[str, Any] = {"root": root}
        splits: list[str | None] = ["train"] if train else ["test", "val", "valid"]
        if "train" in takes:
            settings["train"], splits = train, []
        elif "split" not in takes:
            raise DataError(
                f"data.dataset is {self.dataset!r}, which has no splits train and test. For a folder: image_folder."
            )
        error: Exception | None = None
        for split in splits or [None]:
            chosen = {**settings, **({"split": split} if split else {})}
            for download in [{}, {"download": True}] if "download" in takes else [{}]:
                try:
                    with quietly():
                        return component(**chosen, **download)
                except Exception as raised:
                    error = raised
        assert error
        for left in (root / self.dataset / "raw", root / self.dataset):
            with suppress(OSError):
                left.rmdir()  # Empty: torchvision makes them before it downloads.
        raise DataError(
            f"torchvision's {self.dataset} is not in {root}, and could not be downloaded ({because(error)}). Put its "
            "files there as torchvision does, or set VQTK_DATA or --data-dir to the folder of the data sets."
        )


def _component(name: str) -> Any:
    """Return a data set of torchvision. Raises: DataError with the nearest name."""
    import torchvision.datasets as library

    base = library.VisionDataset
    every = {one: getattr(library, one) for one in library.__all__}
    known = [one for one, found in every.items() if inspect.isclass(found) and issubclass(found, base)]
    if name not in known:
        raise DataError(f"data.dataset is {name!r}; torchvision has no such data set. {nearest(name, known)}".rstrip())
    return every[name]


def _image_of(part: Any, index: int) -> Any:
    return part[index][0]


def _labels_of(part: Any) -> Any:
    """Return a function of an index to its label, without reading images; None if the data set keeps no labels."""
    found = next((getattr(part, name) for name in ("targets", "labels", "_labels") if hasattr(part, name)), None)
    if found is None or len(found) != len(part):
        return None
    return lambda index: int(found[index])
