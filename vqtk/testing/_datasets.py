"""The contract of data sets: items are what the spec says, and the same each time. Absent data are skipped."""

from __future__ import annotations

from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor

from vqtk.datasets import Split, Splits, data_root
from vqtk.errors import DataError
from vqtk.nn.types import DataSpec
from vqtk.testing._case import Case, Clause

_LOOKED_AT = 16


def holds_items_as_its_spec_says(case: Case) -> None:
    """Both splits: shape, type and range of the items, a label for each or none, finite training units."""
    dataset, splits = _loaded(case)
    for name, split in (("train", splits.train), ("test", splits.test)):
        case.place = f"split {name}"
        if not len(split):
            case.fail("it holds no items.", "Raise a DataError that says what is missing and what to do.")
        items = split[_some(split)]
        _check_items(case, items, dataset.spec)
        units = dataset.spec.normalise(items.clone())
        if tuple(units.shape) != tuple(items.shape) or not units.double().isfinite().all():
            case.fail("its items are not finite in training units.", "Correct `mean` and `std` of the spec.")
        _check_labels(case, split)


def gives_items_by_their_indices(case: Case) -> None:
    """The same item for an index, in whichever order, and nothing is changed by looking."""
    _, splits = _loaded(case)
    for name, split in (("train", splits.train), ("test", splits.test)):
        case.place = f"split {name}"
        indices = _some(split)
        items = split[indices]
        if len(items) != len(indices):
            case.fail(f"{len(items)} items for {len(indices)} indices.", "Give one for each.")
        if not torch.equal(split[indices.flip(0)], items.flip(0)) or not torch.equal(split[indices], items):
            case.fail("an index does not always give the same item.", "Draw nothing at random when items are read.")


def reads_the_same_items_each_time(case: Case) -> None:
    """A second reading has the same fingerprint, which the manifest of a run records."""
    _, splits = _loaded(case)
    first, again = splits.fingerprint(), _load(case)[1].fingerprint()
    if first != again:
        changed = ", ".join(key for key in first if first[key] != again.get(key))
        case.fail(f"a second reading differs in {changed}.", "Sort what is listed, and draw from a fixed seed.")


def says_how_it_is_read(case: Case) -> None:
    """`plan` is a line of words; `count` a number of items, or None; `note` a line or None."""
    dataset, splits = _loaded(case)
    root = data_root()
    plan, count = dataset.plan(root), dataset.count(root)
    if not isinstance(plan, str) or not plan.strip():
        case.fail(f"`plan` is {plan!r}.", "Say in words how the items are read, or leave it to the base class.")
    if count is not None and (not isinstance(count, int) or count < 1):
        case.fail(f"`count` is {count!r}, and there are items.", "Return how many there are, or None.")
    if not splits.source or (splits.note is not None and not splits.note.strip()):
        case.fail("`source` or `note` is empty.", "Say where the items came from; a note is a line, or None.")


CHECKS: list[Clause] = [
    holds_items_as_its_spec_says,
    gives_items_by_their_indices,
    reads_the_same_items_each_time,
    says_how_it_is_read,
]


def _loaded(case: Case) -> tuple[Any, Splits]:
    return case.kept(("loaded", data_root()), lambda: _load(case))


def _load(case: Case) -> tuple[Any, Splits]:
    """Return the data set, and its items where they are at hand. Raises: SkipTest, with the reason."""
    dataset = case.made()
    root = data_root()
    try:
        return dataset, dataset.load(root)
    except DataError as error:
        raise SkipTest(f"{case.component}: its data are not at hand: {' '.join(str(error).split())}") from None


def _some(split: Split) -> Tensor:
    """Return a few indices from the first to the last."""
    return torch.linspace(0, len(split) - 1, min(_LOOKED_AT, len(split))).round().long()


def _check_items(case: Case, items: Tensor, spec: DataSpec) -> None:
    if tuple(items.shape[1:]) != tuple(spec.shape):
        case.fail(
            f"its items have shape {tuple(items.shape[1:])}, and its spec says {tuple(spec.shape)}.",
            "Correct either.",
        )
    if spec.kind == "image" and items.dtype != torch.uint8:
        case.fail(f"its images are {items.dtype}.", "Store uint8 in [0, 255]; the spec makes training units of them.")
    if spec.kind in ("points", "signals") and not items.is_floating_point():
        case.fail(f"its {spec.kind} are {items.dtype}.", "Store floating-point numbers in training units.")
    highest = {"text": (spec.classes or 1) - 1, "voxels": 1}.get(spec.kind)
    if highest is None:
        return
    lowest, most = items.min().item(), items.max().item()
    if lowest < 0 or most > highest or (items.is_floating_point() and (items != items.round()).any()):
        case.fail(
            f"its items hold values from {lowest} to {most}, and its spec says {spec.kind}: integers from 0 to "
            f"{highest}.",
            "Correct either.",
        )


def _check_labels(case: Case, split: Split) -> None:
    labels = split.labels
    if labels is None:
        return
    if tuple(labels.shape) != (len(split),) or labels.is_floating_point() or labels.min() < 0:
        case.fail(
            f"its labels are {labels.dtype} of shape {tuple(labels.shape)}, for {len(split)} items.",
            "Give one integer ≥ 0 for each item, or None.",
        )
