"""Read an image file as 8-bit pixels without transparency, cropped and scaled; ambiguous values are refused."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vqtk.datasets._paths import because, check_regular, shown
from vqtk.errors import DataError

_LARGE = 1 << 24
"""The number of pixels from which images are decoded one at a time, whatever the number of threads."""
_ONE_AT_A_TIME = Lock()
_STRIP = 8
"""The aspect ratio beyond which an image's ends, which the crop removes in any case, are cut before scaling."""

# The warning is for images of half the pixels that Pillow itself refuses.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_image(path: Path, *, size: int, crop: str = "centre", colours: str = "rgb") -> Tensor:
    """Return an image as uint8 (3, size, size), or (1, size, size) if `colours` is `grey`.

    The crop `centre` scales the shorter side to `size` and cuts the longer one; `none` scales both. Scaling is bilinear
    and antialiased. Images are rotated by their EXIF orientation, transparent parts become white, and an animation
    gives its first frame. Values of 16 bits are scaled to 8; grey values of 32 bits must be in [0, 255].

    Raises: DataError if the file is not a complete image, or the range of its values is not known.
    """
    check_regular(path)
    return _decoded(path, shown(path), size=size, crop=crop, colours=colours)


def image_in(content: bytes, name: str, *, size: int, crop: str = "centre", colours: str = "rgb") -> Tensor:
    """Return an image from the bytes of a file, as `read_image` does; `name` is for messages."""
    return _decoded(BytesIO(content), name, size=size, crop=crop, colours=colours)


def _decoded(source: Path | BytesIO, name: str, *, size: int, crop: str, colours: str) -> Tensor:
    try:
        with Image.open(source) as opened, _alone(opened):
            _check_covered(opened)
            return fitted(opened, size=size, crop=crop, colours=colours)
    except Image.DecompressionBombError as error:
        reason = str(error).partition(",")[0].lower()
        raise DataError(f"{name} is too large an image ({reason}). Scale it down.") from None
    except UnidentifiedImageError:
        raise DataError(f"{name} cannot be read as an image: its format is not known.") from None
    except Exception as error:
        raise DataError(f"{name} cannot be read as an image ({because(error)}).") from None


def fitted(opened: Image.Image, *, size: int, crop: str = "centre", colours: str = "rgb") -> Tensor:
    """Return an open image as `read_image` does. Raises: ValueError if the range of its values is not known."""
    from torchvision.transforms import functional  # Importing torchvision takes as long as importing torch.

    image = _eight_bits(opened)
    image = _shortened(image) if crop == "centre" else image
    image = image.convert("L" if colours == "grey" else "RGB")
    scaled = functional.resize(image, [size] if crop == "centre" else [size, size])
    return functional.pil_to_tensor(functional.center_crop(scaled, [size, size]))


def _check_covered(image: Image.Image) -> None:
    """Raise ValueError if a TIFF lacks some of its strips, whose pixels would be black."""
    if image.format != "TIFF":  # The frame of a GIF may be smaller than its canvas.
        return
    areas = [(right - left) * (lower - upper) for _, (left, upper, right, lower), *_ in getattr(image, "tile", [])]
    if areas and sum(areas) < image.width * image.height:
        raise ValueError(f"it has {sum(areas):,} of {image.width * image.height:,} pixels")


def _alone(image: Image.Image) -> AbstractContextManager[object]:
    """Return a context in which no other large image is decoded, if this one is large: it bounds the memory."""
    return _ONE_AT_A_TIME if image.width * image.height >= _LARGE else nullcontext()


def _shortened(image: Image.Image) -> Image.Image:
    """Return a long strip without its ends: scaled with them, it could take any amount of memory."""
    width, height = image.size
    most = _STRIP * min(image.size)
    left, top = (max(0, side - most) // 2 for side in image.size)
    return image.crop((left, top, width - left, height - top)) if left or top else image


def _eight_bits(opened: Image.Image) -> Image.Image:
    """Return an image upright, without transparency, and with at most 8 bits per value; `convert` would clip more.

    Raises: ValueError if the range of its values is not known.
    """
    deep = _raw_mode(opened)
    image = ImageOps.exif_transpose(opened)
    if image.mode == "F":
        raise ValueError("its values are floating-point, and their range is not known")
    if image.mode.startswith("I"):
        return _of_whole_numbers(np.asarray(image), image.info.get("transparency"), bits=_bits(image.mode, deep))
    if image.mode == "LAB":
        return image.convert("RGB")
    if "transparency" in image.info:
        image.info["transparency"] = _scaled(image.info["transparency"], deep)
    if "A" in image.getbands() or "transparency" in image.info:
        upper = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", upper.size, "white"), upper)
    return image


def _of_whole_numbers(values: np.ndarray, transparent: int | None, *, bits: int) -> Image.Image:
    """Return grey values (h, w) of 16 bits as 8 bits; those of 32 bits only if they are in [0, 255]."""
    if bits == 32 and (values.min() < 0 or values.max() > 0xFF):
        raise ValueError(
            f"its values have 32 bits, from {values.min()} to {values.max()}, and their range is not known. Expected 0 "
            "to 255, or 8 or 16 bits per value"
        )
    pixels = (values if bits == 32 else values >> 8).astype(np.uint8)
    if transparent is not None:
        pixels[values == transparent] = 0xFF
    return Image.fromarray(pixels)


def _bits(mode: str, raw: str) -> int:
    """Return the number of bits per value in a mode of whole numbers; Pillow's `I` may hold the 16 of a PNG file."""
    return 16 if mode.startswith("I;16") or raw == "I;16B" else 32


def _raw_mode(image: Image.Image) -> str:
    """Return the storage mode of a PNG file, such as `L;2`; an empty string for other files."""
    tiles = getattr(image, "tile", [])
    if image.format != "PNG" or not tiles:
        return ""
    mode = tiles[0][3]
    return mode if isinstance(mode, str) else str(mode[0])


def _scaled(transparent: object, raw: str) -> object:
    """Return the transparent value of a PNG file, which has the file's number of bits, scaled to the 8 of the pixels.

    The lower ones of 16 bits are dropped, as they are for pixels.
    """
    if isinstance(transparent, tuple):
        return tuple(value >> 8 for value in transparent) if raw.endswith(";16B") else transparent
    times = {"L;2": 0x55, "L;4": 0x11}.get(raw)
    return transparent * times if times and isinstance(transparent, int) else transparent
