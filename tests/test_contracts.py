"""Every component keeps to the contract of its registry, and the contract asks it what matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contracts import checks, draw
from tests.parity import SHARED
from tests.tiny import offline
from vqtk.nn.stage import tree_map
from vqtk.registry import REGISTRIES
from vqtk.selectors.epsilon import Epsilon
from vqtk.testing import Check, ContractError, contract


@pytest.mark.parametrize("check", checks(), ids=str)
def test_every_component_keeps_to_its_contract(check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offline(monkeypatch, tmp_path)
    if (SHARED / "data").is_dir():
        monkeypatch.setenv("VQTK_DATA", str(SHARED / "data"))
    check()


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_registry_has_a_contract_whose_checks_say_what_they_check(kind: str) -> None:
    names = [check.name for check in contract(kind, next(iter(REGISTRIES[kind].entries())))]
    assert len(names) == len(set(names)) >= 3
    assert all(len(name.split()) >= 3 or name == "compiles" for name in names)


def test_an_epsilon_of_one_is_uniform_and_of_zero_is_argmin() -> None:
    grid = draw(8000, 8)

    def select(epsilon: float) -> Tensor:
        selector = Epsilon(epsilon=epsilon)
        return selector(grid, selector.draw(8000, 3, 8, torch.Generator().manual_seed(0), progress=0.5)[:, 1])

    counts = select(1.0).bincount(minlength=8)
    assert (counts - 1000).abs().max() < 5 * (8000 / 8 * 7 / 8) ** 0.5
    assert torch.equal(select(0.0), grid.argmin(1))
    half = select(0.5) == grid.argmin(1)
    assert half.double().mean().item() == pytest.approx(0.5 + 0.5 / 8, abs=0.03)


def test_a_beam_that_mixes_up_the_states_of_its_codes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = [one for one in contract("search", "beam") if one.name.startswith("carries the states")]
    check()

    def first_rows(index_select: Any, state: Any) -> Any:
        return tree_map(lambda value: value[:1].expand(len(index_select(value)), *value.shape[1:]), state)

    monkeypatch.setattr("vqtk.searches.beam.tree_map", first_rows)
    with pytest.raises(ContractError, match="returns other codes where a refiner has a state"):
        check()
