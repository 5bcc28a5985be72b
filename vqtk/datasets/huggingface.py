"""The image data sets of the Hugging Face hub, by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt, Lt

from vqtk.datasets._base import Splits
from vqtk.datasets._indexed import OtherImages
from vqtk.datasets._layout import drawn_rows, splits_by_folder
from vqtk.datasets._official import quietly
from vqtk.datasets._paths import because, existing
from vqtk.errors import DataError, nearest
from vqtk.nn.types import Side
from vqtk.registry import datasets


@datasets.register("huggingface", example={"dataset": "./pictures", "size": 8})
class HuggingFace(OtherImages):
    """A data set of images on the Hugging Face hub, or in a local folder of it, cropped and scaled to `size` × `size`.

    `dataset` is its name, such as ylecun/mnist, or a folder, absolute or below the data root, that `save_to_disk` wrote
    or that holds parquet files; `config` selects one of several. `column` holds the images, and `label` the labels, if
    there is such a column. Its splits train and test are used, or validation instead of test; without them the
    fraction `test` of the examples is held out, drawn with a fixed seed. Needs the extra vqtk[huggingface]; no code of
    a data set is executed.

    Shapes: examples (3, size, size), or (1, size, size) if grey, uint8; training units from -1 to 1.
    Raises: DataError if there is no such data set or column, or it cannot be downloaded.
    """

    def __init__(
        self,
        *,
        dataset: str,
        config: str | None = None,
        column: str = "image",
        label: str = "label",
        size: Side = 32,
        crop: Literal["centre", "none"] = "centre",
        colours: Literal["rgb", "grey"] = "rgb",
        test: Annotated[float, Gt(0), Lt(1)] = 0.1,
    ):
        super().__init__(size=size, crop=crop, colours=colours)
        self.dataset, self.config, self.column, self.label, self.test = dataset, config, column, label, test

    def load(self, root: Path) -> Splits:
        """Read the images, or download them to the cache of the hub."""
        found = self._opened(root)
        train, test, note = self._divided(found)
        names = getattr(train.features.get(self.label), "names", None)
        parts = []
        for name, part in (("train", train), ("test", test)):
            label = part[self.label][:].__getitem__ if self.label in part.column_names else None
            images = partial(_image_of, part.select_columns([self.column]), self.column)
            parts.append(self.split(len(part), images, label, f"{self.dataset} {name}"))
        labels = tuple(names) if names and parts[0].labels is not None else None
        return Splits(parts[0], parts[1], source=f"huggingface {self.dataset}", note=note, labels=labels)

    def _opened(self, root: Path) -> dict[str, Any]:
        """Return the splits by name. Raises: DataError."""
        try:
            import datasets as library
        except ImportError:
            raise DataError("the data set huggingface needs a package: pip install 'vqtk[huggingface]'.") from None
        folder = existing(self.dataset, root)
        if folder is None and self.dataset.startswith((".", "/", "~")):
            raise DataError(
                f"data.dataset is {self.dataset!r}, and there is no such folder below {root} or the working directory. "
                "Expected one that `save_to_disk` wrote, or the name of a data set, such as ylecun/mnist."
            )
        name = self.dataset if folder is None else str(folder)
        saved = folder is not None and any((folder / one).is_file() for one in ("state.json", "dataset_dict.json"))
        try:
            with quietly():
                if saved:
                    found = library.load_from_disk(name)
                else:
                    found = library.load_dataset(name, self.config, cache_dir=str(root / "huggingface"))
        except Exception as error:  # Whatever its readers and the network raise.
            raise DataError(
                f"data.dataset is {self.dataset!r}, which cannot be read from the Hugging Face hub ({because(error)}). "
                "Check the name and data.config; without a network, give a folder that `save_to_disk` wrote."
            ) from None
        splits = dict(found) if isinstance(found, dict) else {"": found}
        for part in splits.values():
            if self.column not in part.column_names:
                near = nearest(self.column, part.column_names)
                raise DataError(
                    f"data.column is {self.column!r}, and {self.dataset} has {', '.join(part.column_names)}. "
                    f"{near}Expected the column of the images."
                )
        return splits

    def _divided(self, found: dict[str, Any]) -> tuple[Any, Any, str | None]:
        """Return the rows to train and to test on, and a line about splits that are not used."""
        own = splits_by_folder([Path(name) / "all" for name in found])
        if own:
            (train, *_), (test, *_), notes = own
            return found[train.parts[0]], found[test.parts[0]], " ".join(notes)
        rows = found.get("train", next(iter(found.values())))
        held = drawn_rows(len(rows), self.test)
        train_rows, test_rows = (rows.select(np.flatnonzero(which)) for which in (~held, held))
        return train_rows, test_rows, None


def _image_of(part: Any, column: str, index: int) -> Any:
    return part[index][column]
