"""Read examples of a given shape from the arrays of a file: one, several, or windows of a longer recording."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vqtk.datasets._paths import because
from vqtk.datasets._stored import claimed_shapes, read_array, read_arrays
from vqtk.errors import DataError
from vqtk.nn.types import Size

LABELS = "labels"
"""The key of labels in a .npz file: alone, or after the name of a part and an underscore."""


@dataclass(frozen=True)
class Fit:
    """How an array holds examples: their number, whether they are windows of a recording, and the steps left over."""

    count: int
    windows: bool = False
    left_over: int = 0


@dataclass(frozen=True)
class Examples:
    """Examples (n, *shape), float32, their labels (n,) if there are any, and how their array held them."""

    values: np.ndarray
    labels: np.ndarray | None
    held: Fit


def read_examples(path: Path, shape: Size) -> dict[str, Examples]:
    """Return the examples of each array in a .npz file by its key, or of a .npy file under an empty key.

    Raises: DataError that says what is wrong with the file.
    """
    try:
        if path.suffix == ".npy":
            return {"": _examples(read_array(path), None, shape)}
        stored = read_arrays(path, *claimed_shapes(path))
        keys = _keys(list(stored))
        labels = {key: stored.get(LABELS if len(keys) == 1 else f"{key}_{LABELS}") for key in keys}
        return {key: _examples(stored[key], labels[key], shape) for key in keys}
    except DataError:
        raise
    except Exception as error:  # What NumPy raises depends on how the file is damaged.
        reason = str(error) if type(error) is ValueError else because(error)
        raise DataError(f"{path}: {' '.join(reason.split())}.") from None


def count_examples(path: Path, shape: Size) -> int:
    """Return the number of examples that a file's headers claim. Raises: ValueError, OSError, DataError, BadZipFile."""
    shapes = claimed_shapes(path)
    return sum(fit_of(shapes[key], shape).count for key in _keys(list(shapes)))


def fit_of(found: Size, shape: Size) -> Fit:
    """Return how an array holds examples of a shape. Raises: ValueError that says which shapes were expected."""
    held = _fit(found, shape)
    if held is None:
        swapped = len(shape) == 2 and len(found) >= 2 and _fit((*found[:-2], found[-1], found[-2]), shape)
        advice = "; swap its last two axes, since time comes last" if swapped else ""
        longer = f", or a recording ({shape[0]}, longer time)" if len(shape) == 2 else ""
        several = f"several (n, {', '.join(map(str, shape))})"
        raise ValueError(f"its array is {found}, and data.shape is {list(shape)}: expected {several}{longer}{advice}")
    if not held.count:
        raise ValueError(f"its array {found} holds no examples")
    return held


def _fit(found: Size, shape: Size) -> Fit | None:
    alone = (shape,) if shape[0] > 1 else (shape, shape[1:])
    if found in alone and found:
        return Fit(1)
    if found and found[1:] in alone:
        return Fit(found[0])
    if len(shape) == 2 and len(found) <= 2 and found[-1:] > shape[-1:] and (*found[:-1], shape[1]) in alone:
        return Fit(found[-1] // shape[1], windows=True, left_over=found[-1] % shape[1])
    return None


def _keys(stored: list[str]) -> list[str]:
    return [key for key in stored if key != LABELS and not key.endswith(f"_{LABELS}")]


def _examples(array: np.ndarray, labels: np.ndarray | None, shape: Size) -> Examples:
    """Return the examples of an array. Raises: ValueError if it does not fit, or a value is not a finite number."""
    held = fit_of(array.shape, shape)
    if array.dtype.kind not in "buif":
        raise ValueError(f"its values are of type {array.dtype}; expected real numbers")
    if held.windows:
        channels = array[..., : held.count * shape[1]].reshape(shape[0], held.count, shape[1])
        array = channels.swapaxes(0, 1)
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(array.reshape(held.count, *shape), dtype=np.float32)
    odd = ~np.isfinite(values).reshape(held.count, -1).all(1)
    if odd.any():
        raise ValueError(
            f"{odd.sum():,} of its {held.count:,} examples have values that are not finite, the first is {odd.argmax()}"
        )
    if labels is not None and (labels.shape != (held.count,) or labels.dtype.kind not in "ui" or labels.min() < 0):
        raise ValueError(
            f"its labels are {labels.dtype} of shape {labels.shape}; expected a whole number ≥ 0 for each of its "
            f"{held.count:,} examples"
        )
    return Examples(values, None if labels is None else labels.astype(np.int64), held)
