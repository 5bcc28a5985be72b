"""The shipped recipes equal the original implementation, by its golden numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.parity import CASES, Case, case, pooled_shares
from vqtk.io.original import map_original
from vqtk.models._walk import Walk

pytestmark = [pytest.mark.original, pytest.mark.parametrize("name", CASES, scope="module")]


@pytest.fixture(scope="module")
def golden(name: str) -> Case:
    return case(name)


@pytest.fixture(scope="module")
def shared_model(golden: Case) -> Any:
    """The recipe as it is, in float64: nothing in a walk, or in decoding, changes a model but its gradients."""
    return golden.model()


@pytest.fixture
def model(shared_model: Any) -> Any:
    shared_model.zero_grad()
    return shared_model


def close(actual: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-7, atol: float = 1e-9) -> None:
    torch.testing.assert_close(actual.detach(), expected, rtol=rtol, atol=atol)


def quantities_match(walk: Walk, expected: dict[str, float], rel: float = 1e-7) -> None:
    for key in ("choice", "final", "all"):
        assert getattr(walk, key).item() == pytest.approx(expected[key], rel=rel), key
    shares = pooled_shares(walk)
    assert torch.special.entr(shares).sum().item() == pytest.approx(expected["entropy"], rel=1e-5, abs=1e-6)
    assert (shares > 0).sum() == expected["used"]


def objective_of(walk: Walk) -> torch.Tensor:
    return walk.choice + 0.01 * walk.all


def gradients_match(model: Any, golden: Case, expected: dict[str, float]) -> None:
    names = map_original(model, {key: torch.empty(shape) for key, shape, *_ in golden.numbers["state"]})
    keys = _keys_in_our_order(model, golden)
    assert set(keys) == set(expected)
    parameters = dict(model.named_parameters())
    for key, name in zip(keys, names, strict=True):
        assert parameters[name].grad.norm().item() == pytest.approx(expected[key], rel=1e-7, abs=1e-9), (key, name)


def _keys_in_our_order(model: Any, golden: Case) -> list[str]:
    """Which original key each of our parameters comes from: told by sending numbered tensors through the mapping."""
    numbered = {}
    for index, (key, shape, *_) in enumerate(golden.numbers["state"]):
        numbered[key] = torch.full(shape, float(index))
    order = [int(value.flatten()[0]) for value in map_original(model, numbered).values()]
    return [golden.numbers["state"][index][0] for index in order]


def test_grids_codes_and_reconstructions_in_float64(golden: Case, model: Any) -> None:
    with torch.no_grad():
        walk = model.walk(golden.tensors["input"])
        close(walk.grid, golden.tensors["losses"])
        assert torch.equal(walk.codes, golden.tensors["codes"])
        assert torch.equal(model.encode(golden.tensors["input"]), golden.tensors["codes"])
        close(walk.reconstruction, golden.tensors["reconstruction"])
        close(model.decode(walk.codes), golden.tensors["reconstruction"])
        quantities_match(walk, golden.numbers["quantities"])


def test_decodes_and_prefix_decodes(golden: Case, model: Any) -> None:
    codes = golden.tensors["random_codes"]
    half = golden.numbers["stages"] // 2
    with torch.no_grad():
        close(model.decode(codes), golden.tensors["decoded"])
        close(model.decode(codes[:, :half]), golden.tensors["decoded_half"])
        close(model.decode_stages(codes)[:, half - 1], golden.tensors["decoded_half"])


def test_float32_is_within_its_tolerance(golden: Case) -> None:
    model = golden.model(dtype=torch.float32)
    target = golden.tensors["input"]
    target = target.float() if target.is_floating_point() else target
    with torch.no_grad():
        close(model.walk(target).grid, golden.tensors["losses"].float(), rtol=1e-4, atol=0)
        close(model.decode(golden.tensors["random_codes"]), golden.tensors["decoded"].float(), 5e-3, 5e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("checkpoint", [False, True], ids=["plain", "checkpointed"])
def test_gradient_norms(golden: Case, model: Any, checkpoint: bool) -> None:
    objective_of(model(golden.tensors["input"], recompute=99 if checkpoint else 0)).backward()
    gradients_match(model, golden, golden.numbers["grad_norms"])


@pytest.mark.thorough
def test_gradient_norms_with_grad_decay(golden: Case) -> None:
    decayed = golden.numbers["grad_decay"]
    model = golden.model(f"model.grad_decay={decayed['value']}")
    objective_of(model(golden.tensors["input"])).backward()
    gradients_match(model, golden, decayed["grad_norms"])


def test_active_stages(golden: Case) -> None:
    active = golden.numbers["active_stages"]
    model = golden.model(f"model.active_stages={active['value']}")
    with torch.no_grad():
        quantities_match(model(golden.tensors["input"]), active["quantities"])
