"""The contract of data sets: examples match the spec, and are the same every time. Missing data are skipped."""

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


def holds_examples_that_match_its_spec(case: Case) -> None:
    """In both splits, examples have the shape, type and range of the spec, and finite training units; labels fit."""
    dataset, splits = _loaded(case)
    for name, split in (("train", splits.train), ("test", splits.test)):
        case.place = f"split {name}"
        if not len(split):
            case.fail("it has no examples.", "Raise a DataError that says what is missing and what to do.")
        examples = split[_some(split)]
        _check_items(case, examples, dataset.spec)
        units = dataset.spec.normalise(examples.clone())
        if tuple(units.shape) != tuple(examples.shape) or not units.double().isfinite().all():
            case.fail("its examples are not finite in training units.", "Correct `mean` and `std` of the spec.")
        _check_labels(case, split)


def returns_examples_by_index(case: Case) -> None:
    """An index returns the same example in any order, and again."""
    _, splits = _loaded(case)
    for name, split in (("train", splits.train), ("test", splits.test)):
        case.place = f"split {name}"
        indices = _some(split)
        examples = split[indices]
        if len(examples) != len(indices):
            case.fail(f"it returns {len(examples)} examples for {len(indices)} indices.", "Return one for each.")
        if not torch.equal(split[indices.flip(0)], examples.flip(0)) or not torch.equal(split[indices], examples):
            case.fail(
                "an index does not always return the same example.", "Use no random numbers when examples are read."
            )


def reads_the_same_examples_every_time(case: Case) -> None:
    """Reading again gives the same fingerprint, which the manifest of a run records."""
    _, splits = _loaded(case)
    first, again = splits.fingerprint(), _load(case)[1].fingerprint()
    if first != again:
        changed = ", ".join(key for key in first if first[key] != again.get(key))
        case.fail(f"a second reading differs in {changed}.", "Sort listings, and draw from a fixed seed.")


def describes_how_it_is_read(case: Case) -> None:
    """`plan` is a line of words; `count` a number of examples, or None; `note` a line or None."""
    dataset, splits = _loaded(case)
    root = data_root()
    plan, count = dataset.plan(root), dataset.count(root)
    if not isinstance(plan, str) or not plan.strip():
        case.fail(f"`plan` is {plan!r}.", "Describe in words how examples are read, or leave it to the base class.")
    if count is not None and (not isinstance(count, int) or count < 1):
        case.fail(f"`count` is {count!r}, but there are examples.", "Return their number, or None.")
    if not splits.source or (splits.note is not None and not splits.note.strip()):
        case.fail("`source` or `note` is empty.", "Name the source of the examples; a note is a line, or None.")


CHECKS: list[Clause] = [
    holds_examples_that_match_its_spec,
    returns_examples_by_index,
    reads_the_same_examples_every_time,
    describes_how_it_is_read,
]


def _loaded(case: Case) -> tuple[Any, Splits]:
    return case.kept(("loaded", data_root()), lambda: _load(case))


def _load(case: Case) -> tuple[Any, Splits]:
    """Return the data set and its examples. Raises: SkipTest, with the reason, if they are not available."""
    dataset = case.made()
    root = data_root()
    try:
        return dataset, dataset.load(root)
    except DataError as error:
        raise SkipTest(f"{case.component}: its data are not available: {' '.join(str(error).split())}") from None


def _some(split: Split) -> Tensor:
    """Return a few indices from the first to the last."""
    return torch.linspace(0, len(split) - 1, min(_LOOKED_AT, len(split))).round().long()


def _check_items(case: Case, examples: Tensor, spec: DataSpec) -> None:
    if tuple(examples.shape[1:]) != tuple(spec.shape):
        case.fail(
            f"its examples have shape {tuple(examples.shape[1:])}, and its spec has {tuple(spec.shape)}.",
            "Correct one of them.",
        )
    if spec.kind == "image" and examples.dtype != torch.uint8:
        case.fail(
            f"its images are {examples.dtype}.", "Store uint8 in [0, 255]; the spec converts them to training units."
        )
    if spec.kind in ("points", "signals") and not examples.is_floating_point():
        case.fail(f"its {spec.kind} are {examples.dtype}.", "Store floating-point numbers in training units.")
    highest = {"text": (spec.classes or 1) - 1, "voxels": 1}.get(spec.kind)
    if highest is None:
        return
    lowest, most = examples.min().item(), examples.max().item()
    if lowest < 0 or most > highest or (examples.is_floating_point() and (examples != examples.round()).any()):
        case.fail(
            f"its examples have values from {lowest} to {most}; expected integers from 0 to {highest} for {spec.kind}.",
            "Correct the examples or the spec.",
        )


def _check_labels(case: Case, split: Split) -> None:
    labels = split.labels
    if labels is None:
        return
    if tuple(labels.shape) != (len(split),) or labels.is_floating_point() or labels.min() < 0:
        case.fail(
            f"its labels are {labels.dtype} of shape {tuple(labels.shape)}, for {len(split)} examples.",
            "Set one integer ≥ 0 for each example, or None.",
        )
