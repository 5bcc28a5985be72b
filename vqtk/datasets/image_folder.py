"""Any folder of images as a data set."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt, Lt

from vqtk.datasets._base import Dataset, Splits
from vqtk.datasets._images import Images, load_images
from vqtk.datasets._index import IMAGE_SUFFIXES, indexed
from vqtk.datasets._layout import layout_of
from vqtk.datasets._paths import existing, required, shown
from vqtk.datasets._pixels import read_image
from vqtk.errors import DataError
from vqtk.nn.types import DataSpec, Side
from vqtk.registry import datasets


@datasets.register("image_folder")
class ImageFolder(Dataset):
    """The images in a folder and its sub-folders, cropped and scaled to `size` × `size`.

    `path` is absolute, or below the data root or the working directory. `crop: centre` takes the largest centred
    square, `none` squeezes the image. The fraction `test` of the files is held out, chosen by their names, so that
    adding files moves none; sub-folders that are splits, such as `train` and `test` or `val`, are used instead if there
    are any. If all images are in sub-folders, these are their labels. Transparent parts become white.

    Shapes: examples (3, size, size), or (1, size, size) if grey, uint8; training units from -1 to 1.
    Raises: DataError if there are no images, or more than a tenth of them cannot be read; fewer are skipped.
    """

    path: str

    def __init__(
        self,
        *,
        path: str,
        size: Side = 64,
        crop: Literal["centre", "none"] = "centre",
        colours: Literal["rgb", "grey"] = "rgb",
        test: Annotated[float, Gt(0), Lt(1)] = 0.1,
    ):
        self.path, self.size, self.crop, self.colours, self.test = path, size, crop, colours, test

    @property
    def spec(self) -> DataSpec:
        """What a model must know of the examples."""
        channels = 1 if self.colours == "grey" else 3
        return DataSpec("image", (channels, self.size, self.size), mean=0.5, std=0.5)

    def count(self, root: Path) -> int | None:
        """Return the number of images in the folder; None if it does not exist."""
        folder = existing(self.path, root)
        if folder is None or not folder.is_dir():
            return None
        layout = layout_of(indexed(folder, "images"), share=self.test)
        return len(layout.train) + len(layout.test)

    def load(self, root: Path) -> Splits:
        """Read the images in the folder."""
        folder = required(self.path, root, expected="a folder of images")
        if not folder.is_dir():
            raise DataError(f"data.path is {self.path!r}; {folder} is a file. Expected a folder of images.")
        files = indexed(folder, "images")
        if not files:
            raise DataError(f"{folder} holds no images. Expected {', '.join(sorted(IMAGE_SUFFIXES))}, at any depth.")
        layout = layout_of(files, share=self.test).check(folder, self.test)
        parts = [Images(part.below(folder), layout.labels(part)) for part in (layout.train, layout.test)]
        read = partial(read_image, size=self.size, crop=self.crop, colours=self.colours)
        train, test, skipped = load_images(*parts, read=read, shape=self.spec.shape)
        note = " ".join(filter(None, [*layout.notes, skipped]))
        return Splits(train, test, source=shown(folder), note=note or None, labels=layout.shown_names())
