"""The contracts of maps: backbones, blocks, conditions, heads and refiners."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from vqtk.heads import Factors
from vqtk.nn.stage import leaves_of, tree_map
from vqtk.testing._case import (
    EXAMPLES,
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
"""The channels of a reconstruction, which are the input of a refiner and the output of refiners and heads."""
CODES = (torch.arange(EXAMPLES)[:, None] + torch.arange(STAGES)) % OPTIONS
"""The options that examples take at each stage (n, stages), to advance a refiner's state."""


def returns_finite_values_of_the_declared_shape(case: Case) -> None:
    """At every stage, the shape is given by `width` and `size` (of a head: options, channels, `size`)."""
    for module, features in tried_maps(case):
        expected = _shape(case, module, features)
        for stage, found in enumerate(outputs(case, module, features, CODES)):
            if tuple(found.shape) != expected:
                case.fail(
                    f"at stage {stage} it returns shape {tuple(found.shape)} for input {tuple(features.shape)}; "
                    f"expected {expected}, {_meaning(case)}.",
                    "Correct what `forward` (or `propose`) computes, or the shape that the component declares.",
                )
            if not found.isfinite().all():
                case.fail(f"at stage {stage} its output is not finite.", "Look for a division, root or log at 0.")


def gives_every_parameter_a_gradient(case: Case) -> None:
    """The gradient of a sum over all stages reaches every parameter."""
    for module, features in tried_maps(case):
        found = torch.stack(outputs(case, module, features.requires_grad_(), CODES))
        (found * draw(*found.shape, seed=1)).sum().backward()
        check_gradients(case, module, over=f"all {STAGES} stages")


def returns_the_same_each_time(case: Case) -> None:
    """The output is the same again, in training and in evaluation mode, whatever the state of the default generator."""
    for module, features in tried_maps(case):
        for training in (True, False):
            module.train(training)
            first, second = (outputs(case, module, features, CODES) for _ in range(2))
            if not all(map(torch.equal, first, second)):
                cause = named(module, nn.modules.dropout._DropoutNd)
                case.fail(
                    f"it returns something else when called again in {_mode(training)} mode"
                    f"{f'; {cause} is random' if cause else ''}.",
                    "A component must not be random, nor remember earlier calls: leave exploration to the selector.",
                )


def does_not_modify_its_input(case: Case) -> None:
    """Features, or a refiner's reconstruction, are not modified in place."""
    for module, features in tried_maps(case):
        inputs = Untouched(case, features=features)
        outputs(case, module, features, CODES)
        inputs.check("propose" if case.registry.kind == "refiner" else "forward")


def treats_each_example_independently(case: Case) -> None:
    """The output for an example does not depend on the others in the batch, in both modes."""
    for module, features in tried_maps(case):
        cause = named(module, nn.modules.batchnorm._BatchNorm)
        advice = (
            f"Likely because of {cause}, which mixes the examples of a batch. Use GroupNorm or LayerNorm."
            if cause
            else "Look for a mean, norm, sort or reshape over the first axis."
        )
        for training in (True, False):
            module.train(training)
            together = outputs(case, module, features, CODES)
            for example in range(EXAMPLES):
                part = slice(example, example + 1)
                try:
                    alone = outputs(case, module, features[part], CODES[part])
                except Exception as error:
                    if not cause:
                        raise
                    case.fail(f"it fails on a single example in {_mode(training)} mode: {error}", advice)
                for stage, (one, of_all) in enumerate(zip(alone, together, strict=True)):
                    if not near(one, of_all[part]):
                        case.fail(
                            f"the output for example {example} at stage {stage} depends on the other examples of its "
                            f"batch, in {_mode(training)} mode: {apart(one, of_all[part])}.",
                            advice,
                        )


def depends_on_the_stage_if_it_declares_so(case: Case) -> None:
    """The output of a component that is registered as `staged` differs between stages for the same input."""
    if not case.entry.staged:
        return
    for module, features in tried_maps(case):
        at = [_at(module, features, stage) for stage in range(STAGES)]
        for stage in range(1, STAGES):
            if torch.equal(at[0], at[stage]):
                case.fail(
                    f"it is registered as dependent on the stage, but returns the same at stages 0 and {stage}.",
                    "Apply the condition, as in `self.condition(features, stage)`, or register it with `staged=False`.",
                )


def works_under_autocast(case: Case) -> None:
    """Forward and backward passes work in bfloat16, as with `train.precision: bfloat16`."""
    for module, features in tried_maps(case):
        module.float()
        with torch.autocast("cpu", torch.bfloat16):
            found = torch.stack(outputs(case, module, features.float(), CODES))
        if not found.isfinite().all():
            case.fail("under autocast to bfloat16 its output is not finite.", "Compute that part in float32.")
        if found.requires_grad:
            found.float().sum().backward()


def compiles(case: Case) -> None:
    """The output is the same under `torch.compile`."""
    for module, features in tried_maps(case):
        expected = _at(module, features, STAGES - 1)  # First: its own error says more than that of torch.compile.
        found = compiled(case, partial(_at, module))(features, STAGES - 1)
        if not near(found, expected, tolerance=1e-6):
            case.fail(
                f"compiled, it returns something else at stage {STAGES - 1}: {apart(found, expected)}.",
                "Avoid Python control flow on values.",
            )
        break


CHECKS: list[Clause] = [
    returns_finite_values_of_the_declared_shape,
    gives_every_parameter_a_gradient,
    returns_the_same_each_time,
    does_not_modify_its_input,
    treats_each_example_independently,
    depends_on_the_stage_if_it_declares_so,
    works_under_autocast,
    compiles,
]


def tried_maps(case: Case) -> Iterator[tuple[Any, Tensor]]:
    """Yield a module and its input (n, channels, *size), in each number of dimensions."""
    for size in case.sizes():
        width = CHANNELS if case.registry.kind == "refiner" else WIDTH
        deltas = (width, size, STAGES, OPTIONS, CHANNELS)
        supplied = {"condition": (width, STAGES), "head": deltas, "refiner": deltas}
        yield case.made(*supplied.get(case.registry.kind, deltas[:3])), draw(EXAMPLES, width, *size)


def outputs(case: Case, module: Any, features: Tensor, codes: Tensor) -> list[Tensor]:
    """Return the output of a map at each stage; a refiner's state advances by the codes (n, stages)."""
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
            case.fail(f"it has no attribute `{name}`.", f"Set `self.{name}` to that of its output.")
    if kind in ("head", "refiner"):
        return (EXAMPLES, OPTIONS, CHANNELS, *getattr(module, "size", size))
    return (EXAMPLES, getattr(module, "width", WIDTH), *getattr(module, "size", size))


def _meaning(case: Case) -> str:
    kind = case.registry.kind
    return {
        "condition": "that of the input",
        "head": "(examples, options, out_channels, *its `size`)",
        "refiner": "(examples, options, out_channels, *its `size`, by default that of the input)",
    }.get(kind, "(examples, its `width`, *its `size`)")


def _mode(training: bool) -> str:
    return "training" if training else "evaluation"


def chooses_the_same_deltas_as_it_proposes(case: Case) -> None:
    """`choose`, which decoding uses, returns the same delta for each option as the full computation."""
    for module, x in tried_maps(case):
        for first in range(OPTIONS):
            state = module.initial_state(x) if case.registry.kind == "refiner" else None
            for stage in range(STAGES):
                codes = (CODES[:, stage] + first) % OPTIONS
                every, carry, chosen, kept = _both(case, module, x, stage=stage, state=state, codes=codes)
                expected = every[torch.arange(EXAMPLES), codes]
                if not near(chosen, expected):
                    case.fail(
                        f"at stage {stage} `choose` returns other deltas for options {codes.tolist()} than the full "
                        f"computation: {apart(chosen, expected)}.",
                        "Encoding and decoding would disagree. Compute the same, or leave `choose` to the base class.",
                    )
                if case.registry.kind == "refiner":
                    state = _advanced(case, module, carry, kept, stage=stage, codes=codes, x=x)


def has_the_same_deltas_as_factors(case: Case) -> None:
    """The `factors` of a head, if it has any, give the deltas, their products with a residual, and their norms."""
    for module, x in tried_maps(case):
        scale, shape = draw(1, seed=2)[0], (CHANNELS, *module.size)
        residual, bias = draw(EXAMPLES, *shape, seed=3), draw(OPTIONS, *shape, seed=4)
        for stage in range(STAGES):
            with patch.object(Factors, "pay", lambda *sizes: True):
                if not module.has_factors(EXAMPLES):
                    continue
            factors = module.factors(x, stage, scale)
            deltas = module.scaled(x, stage, scale)
            codes = CODES[:, stage]
            found = [factors.chosen(codes), factors.cross(residual, bias), factors.squares(bias)]
            biased = (deltas + bias).flatten(2)
            expected = [
                deltas[torch.arange(EXAMPLES), codes],
                (biased * residual.flatten(1)[:, None]).sum(2),
                biased.square().sum(2),
            ]
            for part, one, other in zip(("deltas", "products", "norms"), found, expected, strict=True):
                if not near(one, other):
                    case.fail(
                        f"at stage {stage} the {part} of its `factors` are not those of its deltas: "
                        f"{apart(one, other)}.",
                        "An encoder would choose by other deltas. Compute the same, or let `factors` return None.",
                    )


def chooses_by_a_judge_what_it_proposes(case: Case) -> None:
    """`choose_by` scores the deltas of `propose`, and returns those that are chosen, with the gradient of `choose`."""
    for module, x in tried_maps(case):
        state = module.initial_state(x)
        residual = draw(EXAMPLES, CHANNELS, *_shape(case, module, x)[3:], seed=3)
        for stage in range(STAGES):
            codes = CODES[:, stage]
            settled, grid, _, kept = module.choose_by(x, stage, state, partial(_judged, residual, codes))
            every, carry, chosen, _ = _both(case, module, x, stage=stage, state=state, codes=codes)
            expected, _ = _judged(residual, codes, every)
            if not near(settled, chosen) or not near(grid, expected):
                case.fail(
                    f"at stage {stage} `choose_by` returns other deltas or scores than `propose` and `choose`: "
                    f"{apart(settled, chosen)}; {apart(grid, expected)}.",
                    "Encoding and decoding would disagree. Compute the same, or leave `choose_by` to the base class.",
                )
            own = [weight for weight in module.parameters() if weight.requires_grad]
            gradients = [
                torch.autograd.grad((one * residual).sum(), own, allow_unused=True) for one in (settled, chosen)
            ]
            for one, other in zip(*gradients, strict=True):
                if (one is None) != (other is None) or not (one is None or near(one, other)):
                    case.fail(
                        f"at stage {stage} the gradient of what `choose_by` returns is not that of `choose`.",
                        "Give the chosen deltas the gradient that decoding has, and no others one.",
                    )
            state = tree_map(Tensor.detach, _advanced(case, module, carry, kept, stage=stage, codes=codes, x=x))


def keeps_a_state_of_batch_first_tensors(case: Case) -> None:
    """A state is None, a tensor, or a tuple, list or dict of states; the first axis of every tensor is the batch."""
    for module, x in tried_maps(case):
        state = module.initial_state(x)
        _check_state(case, state, "initial_state")
        for stage in range(STAGES):
            _, carry = module.propose(x, stage, state)
            state = module.advance(carry, CODES[:, stage], x)
            _check_state(case, state, f"advance at stage {stage}")


def does_not_modify_the_state_or_the_codes(case: Case) -> None:
    """`propose`, `choose` and `advance` do not modify their inputs in place, including state and carry."""
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


HEAD_CHECKS: list[Clause] = [chooses_the_same_deltas_as_it_proposes, has_the_same_deltas_as_factors]
REFINER_CHECKS: list[Clause] = [
    chooses_the_same_deltas_as_it_proposes,
    chooses_by_a_judge_what_it_proposes,
    keeps_a_state_of_batch_first_tensors,
    does_not_modify_the_state_or_the_codes,
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


def _judged(residual: Tensor, codes: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared errors of the deltas, and given codes."""
    return (deltas - residual[:, None]).square().flatten(2).sum(2), codes


def _advanced(case: Case, module: Any, carry: Any, kept: Any, *, stage: int, codes: Tensor, x: Tensor) -> Any:
    state, same = module.advance(carry, codes, x), module.advance(kept, codes, x)
    if len(leaves_of(state)) != len(leaves_of(same)) or not all(map(near, leaves_of(same), leaves_of(state))):
        case.fail(
            f"at stage {stage} `advance` returns another state after `choose` than after `propose`.",
            "Encoding and decoding would disagree. Let both pass `advance` the same about the chosen option.",
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
        if state.dim() == 0 or len(state) != EXAMPLES:
            case.fail(
                f"`{source}` returns a state with a tensor of shape {tuple(state.shape)}, for {EXAMPLES} examples.",
                "The first axis of every tensor of a state must be the batch.",
            )
    elif state is not None:
        case.fail(
            f"`{source}` returns a state with a {type(state).__name__} in it.",
            "A state must be None, a tensor, or a tuple, list or dict of states.",
        )
