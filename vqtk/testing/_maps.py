"""What the contract asks of maps: backbones, blocks, conditions, heads and refiners."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vqtk.nn.stage import leaves_of
from vqtk.testing._case import (
    ITEMS,
    OPTIONS,
    STAGES,
    WIDTH,
    Case,
    Clause,
    Untouched,
    apart,
    check_gradients,
    compiled,
    draw,
    named,
    near,
)

CHANNELS = 2
"""Channels of a reconstruction, which a refiner takes and yields and a head yields."""
CODES = (torch.arange(ITEMS)[:, None] + torch.arange(STAGES)) % OPTIONS
"""The options that items take at each stage, on a refiner's way through the stages: (n, stages)."""


def yields_finite_features_of_the_shape_that_it_says(case: Case) -> None:
    """The shape by `width` and `size` (a head: options, channels, `size`), at every stage."""
    for module, features in tried_maps(case):
        expected = _shape(case, module, features)
        for stage, found in enumerate(outputs(case, module, features, CODES)):
            if tuple(found.shape) != expected:
                case.fail(
                    f"at stage {stage} it yields shape {tuple(found.shape)} for input {tuple(features.shape)}; "
                    f"expected {expected}, {_meaning(case)}.",
                    "Correct what `forward` (or `propose`) computes, or what the component says of it.",
                )
            if not found.isfinite().all():
                case.fail(f"at stage {stage} what it yields is not finite.", "Look for a division, root or log at 0.")


def every_parameter_receives_a_gradient(case: Case) -> None:
    """From the sum over all stages."""
    for module, features in tried_maps(case):
        yielded = torch.stack(outputs(case, module, features.requires_grad_(), CODES))
        (yielded * draw(*yielded.shape, seed=1)).sum().backward()
        check_gradients(case, module, over=f"all {STAGES} stages")


def yields_the_same_each_time(case: Case) -> None:
    """In training and in evaluation mode, whatever the default random generator's state."""
    for module, features in tried_maps(case):
        for training in (True, False):
            module.train(training)
            first, second = (outputs(case, module, features, CODES) for _ in range(2))
            if not all(map(torch.equal, first, second)):
                cause = named(module, nn.modules.dropout._DropoutNd)
                case.fail(
                    f"it yields something else when called again in {_mode(training)} mode"
                    f"{f'; {cause} draws at random' if cause else ''}.",
                    "A component draws nothing at random when it is called, nor keeps what it was called with: leave "
                    "exploration to the selector.",
                )


def leaves_its_input_as_it_is(case: Case) -> None:
    """Neither features nor a reconstruction are changed in place."""
    for module, features in tried_maps(case):
        inputs = Untouched(case, features=features)
        outputs(case, module, features, CODES)
        inputs.check("propose" if case.registry.kind == "refiner" else "forward")


def treats_each_item_alone(case: Case) -> None:
    """What it yields for an item does not depend on the others of the batch, in either mode."""
    for module, features in tried_maps(case):
        cause = named(module, nn.modules.batchnorm._BatchNorm)
        advice = (
            f"Likely because of {cause}, which mixes the items of a batch. Use GroupNorm or LayerNorm."
            if cause
            else "Look for a mean, norm, sort or reshape over the first axis."
        )
        for training in (True, False):
            module.train(training)
            together = outputs(case, module, features, CODES)
            for item in range(ITEMS):
                part = slice(item, item + 1)
                try:
                    alone = outputs(case, module, features[part], CODES[part])
                except Exception as error:
                    if not cause:
                        raise
                    case.fail(f"it fails on a single item in {_mode(training)} mode: {error}", advice)
                for stage, (one, of_all) in enumerate(zip(alone, together, strict=True)):
                    if not near(one, of_all[part]):
                        case.fail(
                            f"what item {item} gives at stage {stage} depends on the other items of its batch, in "
                            f"{_mode(training)} mode: {apart(one, of_all[part])}.",
                            advice,
                        )


def depends_on_the_stage_where_it_says_so(case: Case) -> None:
    """A component that is `staged` yields something else at each stage for the same input."""
    if not case.entry.staged:
        return
    for module, features in tried_maps(case):
        at = [_at(module, features, stage) for stage in range(STAGES)]
        for stage in range(1, STAGES):
            if torch.equal(at[0], at[stage]):
                case.fail(
                    f"it is said to depend on the stage, and yields the same at stages 0 and {stage}.",
                    "Apply the condition, as in `self.condition(features, stage)`, or register it with `staged=False`.",
                )


def works_under_autocast(case: Case) -> None:
    """In bfloat16, forwards and backwards, as `train.precision: bfloat16` asks."""
    for module, features in tried_maps(case):
        module.float()
        with torch.autocast("cpu", torch.bfloat16):
            yielded = torch.stack(outputs(case, module, features.float(), CODES))
        if not yielded.isfinite().all():
            case.fail("under autocast to bfloat16 what it yields is not finite.", "Compute that part in float32.")
        if yielded.requires_grad:
            yielded.float().sum().backward()


def compiles(case: Case) -> None:
    """Under `torch.compile` it yields what it yields without."""
    for module, features in tried_maps(case):
        found, expected = compiled(case, partial(_at, module))(features, STAGES - 1), _at(module, features, STAGES - 1)
        if not near(found, expected, tolerance=1e-6):
            case.fail(
                f"compiled, it yields something else at stage {STAGES - 1}: {apart(found, expected)}.",
                "Keep what depends on values out of Python's own control flow.",
            )
        break


CHECKS: list[Clause] = [
    yields_finite_features_of_the_shape_that_it_says,
    every_parameter_receives_a_gradient,
    yields_the_same_each_time,
    leaves_its_input_as_it_is,
    treats_each_item_alone,
    depends_on_the_stage_where_it_says_so,
    works_under_autocast,
    compiles,
]


def tried_maps(case: Case) -> Iterator[tuple[Any, Tensor]]:
    """Yield a module and its input (n, channels, *size), in each number of dimensions."""
    for size in case.sizes():
        width = CHANNELS if case.registry.kind == "refiner" else WIDTH
        deltas = (width, size, STAGES, OPTIONS, CHANNELS)
        supplied = {"condition": (width, STAGES), "head": deltas, "refiner": deltas}
        yield case.made(*supplied.get(case.registry.kind, deltas[:3])), draw(ITEMS, width, *size)


def outputs(case: Case, module: Any, features: Tensor, codes: Tensor) -> list[Tensor]:
    """Return what a map yields at each stage; a refiner's state advances along the codes (n, stages)."""
    if case.registry.kind != "refiner":
        return [module(features, stage) for stage in range(STAGES)]
    after, state = [], module.initial_state(features)
    for stage, chosen in enumerate(codes.unbind(1)):
        deltas, carry = module.propose(features, stage, state)
        state = module.advance(carry, chosen, features)
        after.append(deltas)
    return after


def _at(module: Any, features: Tensor, stage: int) -> Tensor:
    if hasattr(module, "propose"):
        return module.propose(features, stage, module.initial_state(features))[0]
    return module(features, stage)


def _shape(case: Case, module: Any, features: Tensor) -> tuple[int, ...]:
    kind, size = case.registry.kind, tuple(features.shape[2:])
    needed = {"backbone": ("width", "size"), "block": ("width", "size"), "head": ("size",)}.get(kind, ())
    for name in needed:
        if not hasattr(module, name):
            case.fail(f"it does not say its `{name}`.", f"Set `self.{name}` to that of what it yields.")
    if kind in ("head", "refiner"):
        return (ITEMS, OPTIONS, CHANNELS, *getattr(module, "size", size))
    return (ITEMS, getattr(module, "width", WIDTH), *getattr(module, "size", size))


def _meaning(case: Case) -> str:
    kind = case.registry.kind
    return {
        "condition": "that of the input",
        "head": "(items, options, out_channels, *its `size`)",
        "refiner": "(items, options, out_channels, *its `size`, by default that of the input)",
    }.get(kind, "(items, its `width`, *its `size`)")


def _mode(training: bool) -> str:
    return "training" if training else "evaluation"


def chooses_what_it_would_have_yielded_for_that_option(case: Case) -> None:
    """`choose`, the decoder's path, gives the chosen options' deltas of the full path; for each option."""
    for module, x in tried_maps(case):
        for first in range(OPTIONS):
            state = module.initial_state(x) if case.registry.kind == "refiner" else None
            for stage in range(STAGES):
                codes = (CODES[:, stage] + first) % OPTIONS
                every, carry, chosen, kept = _both(case, module, x, stage=stage, state=state, codes=codes)
                expected = every[torch.arange(ITEMS), codes]
                if not near(chosen, expected):
                    case.fail(
                        f"at stage {stage} `choose` yields other deltas than the full path has for the chosen "
                        f"options {codes.tolist()}: {apart(chosen, expected)}.",
                        "Encoder and decoder would not agree. Compute the same, or leave `choose` to the base class.",
                    )
                if case.registry.kind == "refiner":
                    state = _advanced(case, module, carry, kept, stage=stage, codes=codes, x=x)


def keeps_a_state_of_tensors_with_an_entry_for_each_item(case: Case) -> None:
    """A state is None, or a tensor, tuple, list or dict of such, whose first axis is the batch."""
    for module, x in tried_maps(case):
        state = module.initial_state(x)
        _check_state(case, state, "initial_state")
        for stage in range(STAGES):
            _, carry = module.propose(x, stage, state)
            state = module.advance(carry, CODES[:, stage], x)
            _check_state(case, state, f"advance at stage {stage}")


def leaves_state_and_codes_as_they_are(case: Case) -> None:
    """Neither `choose` nor `advance` changes what it is given in place, state and carry included."""
    for module, x in tried_maps(case):
        state = module.initial_state(x)
        for stage in range(STAGES):
            inputs = Untouched(case, x=x, state=state, codes=CODES)
            _, carry = module.propose(x, stage, state)
            inputs.check("propose")
            module.choose(x, stage, state, CODES[:, stage])
            inputs.check("choose")
            carried = Untouched(case, x=x, carry=carry, codes=CODES)
            state = module.advance(carry, CODES[:, stage], x)
            carried.check("advance")


HEAD_CHECKS: list[Clause] = [chooses_what_it_would_have_yielded_for_that_option]
REFINER_CHECKS: list[Clause] = [
    chooses_what_it_would_have_yielded_for_that_option,
    keeps_a_state_of_tensors_with_an_entry_for_each_item,
    leaves_state_and_codes_as_they_are,
]


def _both(
    case: Case, module: Any, x: Tensor, *, stage: int, state: Any, codes: Tensor
) -> tuple[Tensor, Any, Tensor, Any]:
    """Return all deltas and their carry, the chosen ones and theirs."""
    inputs = Untouched(case, x=x, codes=codes)
    if case.registry.kind == "head":
        found = module(x, stage), None, module.choose(x, stage, codes), None
    else:
        found = *module.propose(x, stage, state), *module.choose(x, stage, state, codes)
    inputs.check("choose")
    return found


def _advanced(case: Case, module: Any, carry: Any, kept: Any, *, stage: int, codes: Tensor, x: Tensor) -> Any:
    state, same = module.advance(carry, codes, x), module.advance(kept, codes, x)
    if len(leaves_of(state)) != len(leaves_of(same)) or not all(map(near, leaves_of(same), leaves_of(state))):
        case.fail(
            f"at stage {stage} `advance` gives another state after `choose` than after `propose`.",
            "Encoder and decoder would not agree. Let both leave the same for `advance`, where the chosen option is "
            "concerned.",
        )
    return state


def _check_state(case: Case, state: Any, source: str) -> None:
    if isinstance(state, (tuple, list)) and type(state) in (tuple, list):
        for part in state:
            _check_state(case, part, source)
    elif type(state) is dict:
        for part in state.values():
            _check_state(case, part, source)
    elif isinstance(state, Tensor):
        if state.dim() == 0 or len(state) != ITEMS:
            case.fail(
                f"`{source}` gives a state with a tensor of shape {tuple(state.shape)}, for {ITEMS} items.",
                "The first axis of every tensor of a state is the batch.",
            )
    elif state is not None:
        case.fail(
            f"`{source}` gives a state with a {type(state).__name__} in it.",
            "A state is None, a tensor, or a tuple, list or dict of states.",
        )
