"""Examples given from Python: a tensor, an array, a torch or Hugging Face data set; checked and put into one form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vqtk.datasets._base import Splits, megabytes
from vqtk.datasets._layout import drawn_rows
from vqtk.datasets._split import HELD_AT_MOST, Held
from vqtk.errors import DataError, VqtkError
from vqtk.nn.types import DataSpec

Units = Literal["training"] | tuple[float, float] | None
HELD_OUT = 0.1
"""The fraction of examples to test on, if no test split is given."""
_COLOURS = (1, 3)
_EXPECTED = (
    "a tensor or array (n, …), a torch Dataset, a Hugging Face data set, or a mapping {'train': …, 'test': …} of these"
)


def given_splits(data: Any, *, like: DataSpec, units: Units = None) -> tuple[DataSpec, Splits]:
    """Return data given from Python as splits, and their spec.

    Arguments:
        data: a tensor or array (n, …), a torch `Dataset` or Hugging Face data set, or a mapping of `train` and
            `test` to these. Without `test`, a tenth is held out, drawn with a fixed seed.
        like: the spec of the recipe's own data: its kind, its units of pixels, its vocabulary.
        units: how values are scaled. Pixels are whole numbers from 0 to 255, or of the range (black, white) given here.
            Signals and points are normalised by mean and std of each channel, unless they are in `training` units.

    Raises: DataError if the data do not fit, or their units are not known.
    """
    parts = dict(data) if isinstance(data, Mapping) else {"train": data}
    held_out = next((name for name in ("test", "validation") if name in parts), None)
    if "train" not in parts:
        raise DataError(f"data has the parts {', '.join(map(str, parts))}; expected `train`, and optionally `test`.")
    collected = {name: _collected(parts[name], name) for name in ("train", held_out) if name}
    shaped = {name: (_shaped(values, like, name), labels) for name, (values, labels) in collected.items()}
    if held_out is None:
        shaped = _divided(*shaped["train"])
    notes: list[str] = []
    splits = [Held(_stored(values, like, units, name, notes), labels) for name, (values, labels) in shaped.items()]
    train, test = splits
    if train.items.shape[1:] != test.items.shape[1:]:
        sizes = f"{tuple(train.items.shape[1:])} and {tuple(test.items.shape[1:])}"
        raise DataError(f"data: the examples of the two splits have the shapes {sizes}. Give both the same.")
    recorded = normalise(train, test) if like.kind in ("signals", "points") and units != "training" else None
    spec = replace(like, shape=tuple(train.items.shape[1:]), characters=None)
    if spec.shape != like.shape:
        notes.append(
            f"The examples have the shape {spec.shape}, and those of the recipe {like.shape}: the model fits yours."
        )
    return spec, Splits(train, test, source="Python", note=" ".join(dict.fromkeys(notes)) or None, units=recorded)


def normalise(train: Held, test: Held, *, every: bool = False) -> dict[str, list[float]]:
    """Convert values to training units by the mean and std of the train split, and return these for each channel.

    With `every`, one mean and std are those of all values.
    """
    axes = [axis for axis in range(train.items.ndim) if every or axis != 1]
    values = train.items.double()
    mean, std = values.mean(axes, keepdim=True), values.std(axes, correction=0, keepdim=True)
    std = torch.where(std > 0, std, 1.0)  # A constant channel stays constant.
    for split in (train, test):
        split.items = ((split.items.double() - mean) / std).float()
    return {"mean": mean.flatten().tolist(), "std": std.flatten().tolist()}


# ── collections ──────────────────────────────────────────────────────────────────────────────────


def _collected(part: Any, name: str) -> tuple[Tensor, Tensor | None]:
    """Return the examples of a part as a tensor (n, …), and its labels (n,), if it has any."""
    if isinstance(part, (Tensor, np.ndarray)):
        values, labels = torch.as_tensor(part).detach().cpu(), None
    else:
        values, labels = _items(part, name)
    if values.ndim < 2 or not len(values):
        raise DataError(f"data, part {name}: its shape is {tuple(values.shape)}. Expected (n, …) with n ≥ 1.")
    return values, labels


def _items(part: Any, name: str) -> tuple[Tensor, Tensor | None]:
    if not hasattr(part, "__len__") or not hasattr(part, "__getitem__"):
        raise DataError(f"data, part {name}: it is a {type(part).__name__}. Expected {_EXPECTED}.")
    if not len(part):
        raise DataError(f"data, part {name}: it is empty. Expected at least one example.")
    keys = _columns(part[0], name) if isinstance(part[0], Mapping) else None
    first = _value(_example(part[0], keys)[0], name)
    size = len(part) * first.nbytes
    if size > HELD_AT_MOST:
        raise DataError(
            f"data, part {name}: {len(part):,} examples take {megabytes(size)}, and at most {megabytes(HELD_AT_MOST)} "
            "are held in memory. Give fewer, or write them to files and use the data set image_folder or vectors."
        )
    values, labels = np.empty((len(part), *first.shape), first.dtype), list[Any]()
    for index in range(len(part)):
        example, label = _example(part[index], keys)
        value = _value(example, name)
        if value.shape != first.shape or value.dtype != first.dtype:
            raise DataError(
                f"data, part {name}: example {index:,} is {value.dtype} of shape {value.shape}, and the first is "
                f"{first.dtype} of shape {first.shape}. Bring them to one size and mode."
            )
        values[index] = value
        labels.append(label)
    return torch.from_numpy(values), _labels(labels)


def _labels(found: list[Any]) -> Tensor | None:
    """Return labels (n,) if all are whole numbers; None otherwise, such as for the targets of a regression."""
    scalars = [one.item() if isinstance(one, (Tensor, np.generic)) and not one.ndim else one for one in found]
    return torch.tensor(scalars) if all(isinstance(one, int) and one >= 0 for one in scalars) else None


def _columns(row: Mapping[str, Any], name: str) -> tuple[str, str | None]:
    """Return the keys of the example and of the label in a row of a Hugging Face data set."""
    plain = (str, bytes, int, float, type(None))
    suited = [key for key, value in row.items() if not isinstance(value, plain)]
    if len(suited) != 1:
        raise DataError(
            f"data, part {name}: its columns are {', '.join(row)}. Expected one with the examples, and optionally "
            "`label`: choose them with data.select_columns([…])."
        )
    return suited[0], next((key for key in ("label", "labels") if key in row), None)


def _example(item: Any, keys: tuple[str, str | None] | None) -> tuple[Any, Any]:
    if keys:
        return item[keys[0]], item[keys[1]] if keys[1] else None
    if isinstance(item, (tuple, list)) and len(item) == 2 and not isinstance(item[0], (int, float)):
        return item[0], item[1]
    return item, None


def _value(example: Any, name: str) -> np.ndarray:
    value = example.detach().cpu().numpy() if isinstance(example, Tensor) else np.asarray(example)
    if value.dtype.kind not in "buif":
        raise DataError(f"data, part {name}: an example is a {type(example).__name__}. Expected numbers, or an image.")
    return value


def _divided(values: Tensor, labels: Tensor | None) -> dict[str, tuple[Tensor, Tensor | None]]:
    if len(values) < 2:
        raise DataError("data holds a single example. Expected examples to train on and to test on.")
    test = torch.from_numpy(drawn_rows(len(values), HELD_OUT))
    return {
        name: (values[chosen], None if labels is None else labels[chosen])
        for name, chosen in (("train", ~test), ("test", test))
    }


# ── shapes and units ─────────────────────────────────────────────────────────────────────────────


def _shaped(values: Tensor, like: DataSpec, name: str) -> Tensor:
    """Return examples with the axes of their kind: (n, channels, h, w) of images, whose channels may come last."""
    found = tuple(values.shape)
    if like.kind == "image":
        if values.ndim == 3:
            return values[:, None]
        if values.ndim == 4 and found[1] in (*_COLOURS, like.shape[0]):
            return values
        if values.ndim == 4 and found[3] in _COLOURS:
            return values.permute(0, 3, 1, 2)
    elif values.ndim == len(like.shape) + 1:
        return values
    elif values.ndim == len(like.shape) and like.shape[0] == 1:  # One channel needs no axis.
        return values[:, None]
    shape = f"(n, …) like {like.shape}"
    if like.kind == "image":
        shape = "(n, channels, h, w), (n, h, w, channels) or (n, h, w)"
    raise DataError(f"data, part {name}: its shape is {found}, and the recipe is for {like.kind}: expected {shape}.")


def _stored(values: Tensor, like: DataSpec, units: Units, name: str, notes: list[str]) -> Tensor:
    """Return examples as a split stores them: uint8 of images and voxels, int64 of text, float32 of others."""
    if values.is_floating_point() and not values.isfinite().all():
        raise DataError(f"data, part {name}: it has values that are not finite numbers. Remove or correct them.")
    if like.kind == "image":
        return _pixels(values, like, units, name, notes)
    if isinstance(units, tuple):
        raise DataError(f"units={units}: a range is for pixels; expected None or 'training' for {like.kind}.")
    if like.kind in ("signals", "points"):
        return values.float()
    most = 1 if like.kind == "voxels" else (like.classes or 1) - 1
    lowest, highest = values.min().item(), values.max().item()
    if not (0 <= lowest <= highest <= most) or (values != values.long()).any():
        raise DataError(
            f"data, part {name}: its values are from {lowest:g} to {highest:g}; expected whole numbers from 0 to "
            f"{most} for {like.kind}."
        )
    return values.to(torch.uint8 if like.kind == "voxels" else torch.int64)


def _pixels(values: Tensor, like: DataSpec, units: Units, name: str, notes: list[str]) -> Tensor:
    lowest, highest = values.min().item(), values.max().item()
    if units is None and values.dtype == torch.bool:
        units = (0, 1)
    if units is None:
        return _whole_pixels(values, like, name, lowest, highest)
    black, white = (-like.mean / like.std, (1 - like.mean) / like.std) if units == "training" else units
    slack = 1e-4 * (white - black)
    if not black < white or lowest < black - slack or highest > white + slack:
        raise DataError(
            f"data, part {name}: its values are from {lowest:g} to {highest:g}, and units={units} says that black is "
            f"{black:g} and white {white:g}. Give the range that the values have."
        )
    scaled = (values.double() - black) / (white - black) * 255
    pixels = scaled.round().clamp(0, 255)
    error = (scaled - pixels).abs().max().item()
    if error > 0.02:
        notes.append(f"Pixels are stored in 256 levels: values were rounded by up to {error:.2f} of a level.")
    return pixels.to(torch.uint8)


def _whole_pixels(values: Tensor, like: DataSpec, name: str, lowest: float, highest: float) -> Tensor:
    try:
        like.normalise(values[:1].clone())
    except VqtkError as error:
        raise DataError(f"data, part {name}: {error} Or give the values of black and white: units=(0, 1).") from None
    if lowest < 0 or highest > 255:
        raise DataError(
            f"data, part {name}: its pixels are from {lowest:g} to {highest:g}. Expected 0 to 255; give the values of "
            f"black and white, as in units=(0, {highest:g})."
        )
    if highest <= 1:
        raise DataError(
            f"data, part {name}: its pixels are at most {highest:g} of 255, so all images are black. If 1 is white, "
            "say so: units=(0, 1)."
        )
    return values.to(torch.uint8)
