"""The contract of what yields deltas, heads and refiners: the chosen option alone, and a refiner's state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vqtk.nn.stage import leaves_of
from vqtk.testing._case import ITEMS, OPTIONS, STAGES, Case, Clause, Untouched, apart, near
from vqtk.testing._maps import CODES, tried_maps


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
