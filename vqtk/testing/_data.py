"""The contracts of data sets, augmentations and metrics; what cannot be had, such as data or weights, is skipped.

Data sets: examples match the spec, and are the same every time. Augmentations: the same generator changes examples in
the same way. Metrics: their units and direction are stated, and
examples that are measured in parts have the same values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any
from unittest import SkipTest

import torch
from torch import Tensor

from vqtk.augmentations import Augmentation
from vqtk.datasets import Split, Splits, data_root
from vqtk.errors import DataError
from vqtk.metrics import (
    CurveMetric,
    LossMetric,
    Metric,
    ReconstructionMetric,
    Retrieval,
    RetrievalMetric,
    SampleMetric,
    UsageMetric,
)
from vqtk.nn.types import DataSpec
from vqtk.recipe.build import synthetic
from vqtk.recipe.node import Node, Problems
from vqtk.recipe.schema import Scope, parse
from vqtk.testing._case import EXAMPLES, Case, Clause, Untouched, apart, draw, near
from vqtk.testing._surroundings import own_data

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


DATASET_CHECKS: list[Clause] = [
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


# ── augmentations ────────────────────────────────────────────────────────────────────────────────

_KINDS = {
    "image": DataSpec("image", (3, 32, 32), mean=0.5, std=0.25),
    "text": DataSpec("text", (6,), classes=5),
    "voxels": DataSpec("voxels", (1, 4, 4, 4)),
    "points": DataSpec("points", (3,)),
    "signals": DataSpec("signals", (1, 16)),
}
"""Data of each kind; images are as large as the windows and networks of common metrics need."""


def is_an_augmentation_of_kinds_of_data(case: Case) -> None:
    """It is an `Augmentation`, and its `kinds` are kinds of data."""
    component = case.entry.component
    if not issubclass(component, Augmentation):
        case.fail(f"it is a {component.__name__}.", "Extend `vqtk.augmentations.Augmentation`.")
    wrong = [kind for kind in component.kinds if kind not in _KINDS]
    if wrong or not component.kinds:
        case.fail(f"its `kinds` is {component.kinds}.", f"Name kinds of data: {', '.join(_KINDS)}.")


def returns_examples_like_those_given_and_does_not_modify_them(case: Case) -> None:
    """Changed examples have the shape and the type of those that it is given, and stay within their range."""
    for given in _stored(case):
        untouched = Untouched(case, examples=given)
        found = case.new()(given, torch.Generator().manual_seed(0))
        untouched.check("__call__")
        if (found.shape, found.dtype) != (given.shape, given.dtype):
            case.fail(
                f"it returns {found.dtype} of shape {tuple(found.shape)}, for {given.dtype} of shape "
                f"{tuple(given.shape)}.",
                "Return examples as they are stored.",
            )
        highest = {torch.uint8: 255, torch.int64: int(given.max())}.get(given.dtype)
        outside = highest is not None and bool(((found < 0) | (found > highest)).any())
        if outside or not found.double().isfinite().all():
            case.fail("it returns values that no example has.", "Clamp them to the range of the examples.")


def draws_by_its_generator_alone(case: Case) -> None:
    """The same generator changes examples in the same way, so that a resumed run sees the same ones."""
    for given in _stored(case):
        augmentation, found = case.new(), []
        for seed in (0, 1):
            torch.default_generator.manual_seed(seed)
            found.append(augmentation(given, torch.Generator().manual_seed(0)))
        if not torch.equal(*found):
            case.fail(
                "the same generator leads to other examples.",
                "Draw with `generator=generator`, and keep no state from call to call.",
            )


AUGMENTATION_CHECKS: list[Clause] = [
    is_an_augmentation_of_kinds_of_data,
    returns_examples_like_those_given_and_does_not_modify_them,
    draws_by_its_generator_alone,
]


def _stored(case: Case) -> Iterator[Tensor]:
    """Yield examples as stored, for each kind of data that the augmentation changes."""
    for kind in case.entry.component.kinds:  # type: ignore[attr-defined]
        case.place = f"on {kind}"
        data, drawn = own_data(case) or _KINDS[kind], torch.Generator().manual_seed(0)
        if kind in ("points", "signals"):
            yield torch.randn(EXAMPLES, *data.shape, generator=drawn)
        else:
            high, dtype = {"image": (256, torch.uint8), "voxels": (2, torch.uint8)}.get(
                kind, (data.classes or 1, torch.int64)
            )
            yield torch.randint(high, (EXAMPLES, *data.shape), generator=drawn).to(dtype)


# ── metrics ──────────────────────────────────────────────────────────────────────────────────────


def states_its_units_and_which_direction_is_better(case: Case) -> None:
    """`units` is text, `better` is `lower` or `higher`, and `kinds` are kinds of data."""
    component = case.entry.component
    units, better = getattr(component, "units", None), getattr(component, "better", None)
    if not isinstance(units, str) or not units.strip():
        case.fail("it does not state its units.", 'Set `units`, as in `units = "dB"`.')
    if better not in ("lower", "higher"):
        case.fail(f"its `better` is {better!r}.", 'Set `better = "lower"` or `better = "higher"`.')
    wrong = [kind for kind in component.kinds if kind not in _KINDS]  # type: ignore[attr-defined]
    if wrong:
        case.fail(f"its `kinds` has {wrong[0]!r}.", f"Name kinds of data: {', '.join(_KINDS)}.")


def is_finite_and_does_not_modify_its_inputs(case: Case) -> None:
    """Its value is one finite number, for an example each if it compares reconstructions, and the same again."""
    for metric, inputs in _measured(case):
        untouched = Untouched(
            case, **{f"input {index}": one for index, one in enumerate(inputs) if torch.is_tensor(one)}
        )
        with torch.no_grad():
            found = [torch.as_tensor(_value(metric, inputs), dtype=torch.float64) for _ in range(2)]
        untouched.check("measure")
        expected = (len(inputs[1]),) if isinstance(metric, ReconstructionMetric) else ()
        if tuple(found[0].shape) != expected:
            case.fail(f"`measure` returns shape {tuple(found[0].shape)}; expected {expected}.", "Average over values.")
        if not found[0].isfinite().all():
            case.fail("its value is not finite.", "Look for a division, root or logarithm at 0, or an overflow.")
        if not torch.equal(*found):
            case.fail("it returns another value when called again.", "A metric must not be random.")


def prefers_an_equal_reconstruction_and_measures_a_batch_in_parts_alike(case: Case) -> None:
    """If it compares reconstructions: no reconstruction is better than the example, and examples are independent."""
    for metric, inputs in _measured(case):
        if not isinstance(metric, ReconstructionMetric):
            return
        shown, target = inputs
        with torch.no_grad():
            whole, equal = metric.measure(shown, target).double(), metric.measure(target, target).double()
            parts = torch.cat([metric.measure(shown[:1], target[:1]), metric.measure(shown[1:], target[1:])]).double()
        if not near(parts, whole, tolerance=1e-5):
            case.fail(
                f"an example's value depends on what else is in the batch: {apart(parts, whole)}.",
                "Reduce only over the values of one example.",
            )
        best = [metric.total(value) for value in equal.tolist()]
        others = [metric.total(value) for value in whole.tolist()]
        sign = 1 if metric.better == "higher" else -1
        for one, other in zip(best, others, strict=True):
            if one is not None and (other is None or sign * one < sign * other - 1e-9):
                case.fail(
                    f"an equal reconstruction has the value {one:g}, and another one {other}, which is better by its "
                    f"`better = {metric.better!r}`.",
                    "Correct `better`, or the sign of the values.",
                )


METRIC_CHECKS: list[Clause] = [
    states_its_units_and_which_direction_is_better,
    is_finite_and_does_not_modify_its_inputs,
    prefers_an_equal_reconstruction_and_measures_a_batch_in_parts_alike,
]


def _measured(case: Case) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield the metric with what it is computed from, for each kind of data that it applies to."""
    for kind in case.entry.component.kinds or list(_KINDS):  # type: ignore[attr-defined]
        case.place = f"on {kind}"
        metric = _metric(case, own_data(case) or _KINDS[kind])
        yield metric, _inputs(case, metric)
        if case.entry.data is not None:
            return


def _metric(case: Case, data: DataSpec) -> Any:
    """Return the metric of data. Raises: SkipTest if what it needs cannot be had, such as the weights of a network."""
    problems = Problems()
    chosen = parse(Node.of(case.spec, "its settings"), Annotated[Any, case.registry], "", Scope(problems))
    problems.raise_any()
    try:
        return chosen.entry.component(data, **chosen.settings)
    except DataError as reason:
        raise SkipTest(str(reason)) from None


def _inputs(case: Case, metric: Metric) -> tuple[Any, ...]:
    """Return the arguments of `measure` for a kind of metric."""
    if isinstance(metric, ReconstructionMetric):
        target = synthetic(metric.data, EXAMPLES)
        other = synthetic(metric.data, EXAMPLES).flip(0)
        return (other if metric.data.kind == "text" else 0.7 * target + 0.3 * other), target
    if isinstance(metric, UsageMetric):
        return (torch.tensor([[3, 0, 1, 2], [6, 0, 0, 0]]),)
    if isinstance(metric, LossMetric):
        return ([0.5, 0.25], 1.5)
    if isinstance(metric, CurveMetric):
        return ([2.0, 4.0, 6.0], [0.5, 0.3, 0.2])
    if isinstance(metric, RetrievalMetric):
        return (Retrieval(torch.arange(200).view(2, 100) == 3, 0.5),)
    if isinstance(metric, SampleMetric):
        return draw(8, 3), draw(9, 3, seed=1)
    case.fail(
        "it extends none of the kinds of metrics.",
        "Extend ReconstructionMetric, UsageMetric, SampleMetric or another class of vqtk.metrics.",
    )


def _value(metric: Any, inputs: tuple[Any, ...]) -> Any:
    return metric.measure(*inputs, **({"low": 3.0, "high": 6.0} if isinstance(metric, CurveMetric) else {}))
