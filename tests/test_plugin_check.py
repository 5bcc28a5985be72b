"""`vqtk plugin check`: what is right passes, and every kind of component is asked what matters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest import SkipTest

import pytest

from tests.running import vqtk_main
from vqtk.errors import RegistryError
from vqtk.registry import REGISTRIES
from vqtk.testing import ContractError, contract, plugin_contract

SOUND = '''\
from pathlib import Path
from torch import Tensor
from vqtk.datasets._base import Dataset, Splits
from vqtk.errors import DataError
from vqtk.nn.types import DataSpec
from vqtk.registry import Condition, conditions, datasets
from torch import nn

@conditions.register("mine")
class Mine(nn.Module):
    """Features as they are."""

    def __init__(self, width: int, stages: int):
        super().__init__()

    def forward(self, features: Tensor, stage: int) -> Tensor:
        return features

@datasets.register("mine")
class Absent(Dataset):
    """Data that are not there."""

    spec = DataSpec("image", (1, 4, 4))

    def load(self, root: Path) -> Splits:
        raise DataError("there is nothing to read")
'''
LOSS = """\
from vqtk.losses.mse import MSE
from vqtk.registry import losses

@losses.register("wrong", dimensions=(1,))
class Wrong(MSE):
    "A loss."
"""
WINDOWED = """\
from torch.nn import functional as F
from vqtk.losses.mse import MSE
from vqtk.registry import losses

@losses.register("windowed", {data}dimensions=(2,))
class Windowed(MSE):
    "The squared error of means over windows of 11 pixels squared."

    def forward(self, proposals, target):
        error = (proposals - target[:, None]).flatten(0, 1)
        window = error.new_full((error.shape[1], 1, 11, 11), 1 / 121)
        means = F.conv2d(error, window, groups=error.shape[1])
        return means.square().flatten(1).mean(1).unflatten(0, proposals.shape[:2])

    def grid(self, x, deltas, target):
        proposals = (x[:, None] + deltas).expand(len(target), *deltas.shape[1:])
        return self(proposals, target)

    def take(self, x, deltas, target, grid, codes):
        from vqtk.losses._base import Loss
        return Loss.take(self, x, deltas, target, grid, codes)
"""
SELECTOR = """\
import torch
from vqtk.selectors._base import Selector
from vqtk.registry import selectors

@selectors.register("wrong")
class Wrong(Selector):
    "A selector."
"""
REFINER = """\
import torch
from torch import nn
from vqtk.refiners._base import Refiner
from vqtk.registry import refiners

@refiners.register("wrong", dimensions=(2,))
class Wrong(Refiner):
    "A refiner."
    def __init__(self, in_width, size, stages, options, out_channels):
        super().__init__()
        self.options, self.map = options, nn.Conv2d(in_width, out_channels, 1)
        self.scales, self.seen = nn.Parameter(torch.ones(stages)), []
    def initial_state(self, like):
        return {"x": 0 * like}
    def propose(self, x, stage, state):
        deltas = self.map(x * self.scales[stage] + state["x"])
        return torch.stack([deltas * (k + 1) for k in range(self.options)], 1), state
    def advance(self, carry, codes, x):
        return {"x": carry["x"] + x}
"""
SEARCH = """\
import torch
from vqtk.searches.greedy import Greedy
from vqtk.registry import searches

@searches.register("wrong")
class Wrong(Greedy):
    "A search."
"""
OBJECTIVE = """\
from dataclasses import replace
from vqtk.objectives.stages import Stages
from vqtk.registry import objectives

@objectives.register("wrong")
class Wrong(Stages):
    "An objective."
    def __call__(self, batch, *, draws, recompute):
        passed = super().__call__(batch, draws=draws, recompute=recompute)
"""
DATASET = """\
import torch
from vqtk.datasets._base import Dataset, Splits
from vqtk.datasets._split import Held
from vqtk.nn.types import DataSpec
from vqtk.registry import datasets

@datasets.register("wrong")
class Wrong(Dataset):
    "Data."
    spec = DataSpec("image", (1, 4, 4))
    def load(self, root):
        items, labels = torch.zeros(9, 1, 4, 4, dtype=torch.uint8), torch.arange(9)
"""
GUIDE = """\
from vqtk.guides._base import Guide
from vqtk.registry import guides

@guides.register("wrong")
class Wrong(Guide):
    "A guide."
    def __call__(self, proposals, observed):
        return (proposals - observed[:, None]).square().flatten(2).mean(2)
"""
MODEL = """\
import torch
from vqtk.models.vqdraw import VQDraw
from vqtk.registry import models

class Cut(VQDraw):
    pass

models.register("wrong", example=dict(models.get("vqdraw").example))(Cut)
"""


def body(*lines: str) -> str:
    return "".join(f"    {line}\n" for line in lines)


WRONG: dict[str, tuple[str, str, str]] = {
    "a loss over the batch": (
        LOSS + body("def forward(self, p, t):", "    return super().forward(p, t) * p.mean()"),
        "scores each option independently",
        "depends on what else is in the batch",
    ),
    "a loss that writes to its proposals": (
        LOSS + body("def forward(self, p, t):", "    return super().forward(p.mul_(2), t)"),
        "is deterministic and does not modify its inputs",
        "changes its input `proposals` in place",
    ),
    "a selection of another loss": (
        LOSS + body("def forward(self, p, t):", "    return 2 * super().forward(p, t)"),
        "agrees with materialised proposals",
        "the grid of `grid` differs from that of materialised proposals",
    ),
    "a loss that detaches": (
        LOSS
        + body("def forward(self, p, t):", "    return super().forward(p.detach() + 0 * p, t)")
        + body("def grid(self, x, d, t):", "    return super(MSE, self).grid(x, d, t)")
        + body("def take(self, x, d, t, g, c):", "    return super(MSE, self).take(x, d, t, g, c)"),
        "has a gradient that matches finite differences",
        "differs from finite differences",
    ),
    "a selector of the default generator": (
        SELECTOR + body("def __call__(self, grid, draws):", "    return torch.randint(grid.shape[1], (len(grid),))"),
        "depends only on the grid and its draws",
        "something else when called again",
    ),
    "a selector over the batch": (
        SELECTOR + body("def __call__(self, grid, draws):", "    return (grid - grid.mean(0)).argmin(1)"),
        "selects for each example independently",
        "depends on the other examples of the batch",
    ),
    "a selector beyond the options": (
        SELECTOR + body("def __call__(self, grid, draws):", "    return grid.argmin(1) + 1"),
        "returns one option for each example",
        "codes from 1 to 4. Codes must be from 0 to 3",
    ),
    "a state without a batch": (
        REFINER.replace("0 * like", "like[0]"),
        "keeps a state of batch first tensors",
        "a tensor of shape (2, 4, 8), for 3 examples",
    ),
    "a state that is no tree": (
        REFINER.replace("0 * like", '0 * like, "seen": {1}'),
        "keeps a state of batch first tensors",
        "a state with a set in it",
    ),
    "a state that is written to": (
        REFINER.replace('carry["x"] + x', 'carry["x"].add_(x)'),
        "does not modify the state or the codes",
        "`advance` changes its input `carry` in place",
    ),
    "a refiner that counts its calls": (
        REFINER.replace("        deltas =", "        self.seen.append(1)\n        deltas = len(self.seen) *"),
        "trains identically with recomputed activations",
        "with gradient checkpointing the gradient of",
    ),
    "a refiner whose counts are not saved": (
        REFINER.replace("        deltas =", "        deltas = len(self.seen) *")
        + body("def after_update(self, optimizer, usage):", "    self.seen.append(1)"),
        "is unchanged by saving and loading",
        "differs after saving and loading",
    ),
    "a refiner that overflows in bfloat16": (
        REFINER.replace("        deltas =", "        deltas = float('inf') * (x.dtype == torch.float32) +"),
        "works under autocast",
        "under autocast to bfloat16 its output is not finite",
    ),
    "a refiner that a compiler sees through": (
        REFINER.replace("        deltas =", "        deltas = (1 + torch.compiler.is_compiling()) *"),
        "compiles",
        "compiled, it returns something else",
    ),
    "a search of random codes": (
        SEARCH + body("def __call__(self, model, target):", "    return torch.randint(4, (len(target), model.stages))"),
        "encodes each example independently",
        "encoding again returns other codes",
    ),
    "codes that miss an item": (
        OBJECTIVE + "        return replace(passed, codes=passed.codes[1:])\n",
        "returns a loss terms and codes",
        "Return int64 of shape (3, 4)",
    ),
    "an objective cut off from its model": (
        OBJECTIVE + "        return replace(passed, loss=passed.loss.detach().requires_grad_())\n",
        "trains every parameter of its model",
        "on a VQDraw: the parameter `bias`",
    ),
    "labels for half of the items": (
        DATASET + "        return Splits(Held(items, labels[:5]), Held(items), source='here')\n",
        "holds examples that match its spec",
        "split train: its labels are torch.int64 of shape (5,), for 9 examples",
    ),
    "items of another shape": (
        DATASET + "        return Splits(Held(items), Held(items[..., :3]), source='here')\n",
        "holds examples that match its spec",
        "split test: its examples have shape (1, 4, 3), and its spec has (1, 4, 4)",
    ),
    "data that differ each time": (
        DATASET + "        return Splits(Held(items), Held(torch.randint_like(items, 9)), source='here')\n",
        "reads the same examples every time",
        "a second reading differs in sha256",
    ),
    "a guide over the batch": (
        GUIDE.replace("proposals - ", "len(proposals) * proposals - "),
        "scores each option of each example independently",
        "depends on what else is in the batch",
    ),
    "a guide that hides numbers": (
        GUIDE + body("hidden = property(lambda self: 1.0 * self.kept, lambda self, kept: setattr(self, 'kept', kept))"),
        "marks what is hidden and shows what is seen",
        "`hidden` is torch.float32",
    ),
    "a model whose trial leaves something out": (
        MODEL.replace("    pass", '    "A model."\n    def trial(self, target):\n        return self.bias.sum()'),
        "uses every parameter in a trial",
        "receives no gradient, over a trial",
    ),
}


@pytest.mark.parametrize("which", WRONG)
def test_what_is_wrong_is_told_by_the_check_for_it(which: str, tmp_path: Path) -> None:
    source, name, told = WRONG[which]
    path = tmp_path / "wrong.py"
    path.write_text(source)
    (check,) = (check for check in plugin_contract(path) if check.name == name)
    with pytest.raises(ContractError) as raised:
        check()
    assert told in str(raised.value)
    assert str(raised.value).startswith(f"{check.component} ({path}:")


@pytest.mark.parametrize("source", [REFINER, GUIDE], ids=["refiner", "guide"])
def test_what_the_wrong_ones_are_made_from_is_right(source: str, tmp_path: Path) -> None:
    path = tmp_path / "right.py"
    path.write_text(source)
    for check in plugin_contract(path):
        check()


@pytest.fixture
def sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VQTK_DATA", str(tmp_path))
    path = tmp_path / "sound.py"
    path.write_text(SOUND)
    return path


Printed = Callable[[], tuple[str, str]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    return lambda: tuple(capsys.readouterr())  # type: ignore[return-value]


def test_a_sound_plugin_passes_and_what_could_not_be_tried_is_skipped(
    sound: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    before = {kind: list(registry.entries()) for kind, registry in REGISTRIES.items()}
    assert vqtk_main(monkeypatch, "plugin", "check", sound) == 0
    out, err = printed()
    rows = [line.split() for line in out.splitlines() if line.startswith(("condition mine ", "dataset mine "))]
    assert {row[-1] for row in rows if row[0] == "condition"} == {"ok"}
    assert {row[-1] for row in rows if row[0] == "dataset"} == {"skipped"}
    assert "its data are not available: there is nothing to read" in out
    assert not err
    assert before == {kind: list(registry.entries()) for kind, registry in REGISTRIES.items()}


def test_json_holds_every_check_and_a_failure_still_exits_with_2(
    sound: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed
) -> None:
    sound.write_text(SOUND.replace("return features", "return features.relu_()"))
    assert vqtk_main(monkeypatch, "plugin", "check", sound, "--json") == 2
    out, err = printed()
    report = json.loads(out)
    assert report["plugin"] == str(sound)
    assert not report["ok"]
    outcomes = {row["check"]: row for row in report["checks"] if row["component"] == "condition mine"}
    assert outcomes["does not modify its input"]["outcome"] == "failed"
    assert "in place" in outcomes["does not modify its input"]["message"]
    assert outcomes["does not modify its input"]["origin"] == f"{sound}:9"
    assert outcomes["returns the same each time"]["outcome"] == "ok"
    assert err.startswith("error: ")


def test_the_checks_of_a_plugin_are_tests_that_pytest_can_run(sound: Path) -> None:
    checks = plugin_contract(sound)
    assert "condition mine: does not modify its input" in map(str, checks)
    for check in checks:
        if check.component == "condition mine":
            check()
        else:
            with pytest.raises(SkipTest, match="there is nothing to read"):
                check()


def test_a_component_can_be_tried_with_other_settings() -> None:
    names = {"width": 6, "kernel": 3}
    for check in contract("block", "conv", example=names)[:3]:
        check()
    with pytest.raises(ContractError, match=r"widht: unknown key\. Did you mean 'width'"):
        contract("block", "conv", example={"widht": 6})[0]()


@pytest.mark.parametrize(("kind", "name", "told"), [("blok", "conv", "'block'"), ("block", "covn", "'conv'")])
def test_a_component_that_is_not_there_is_told_with_the_nearest(kind: str, name: str, told: str) -> None:
    with pytest.raises(RegistryError, match=f"Did you mean {told}"):
        contract(kind, name)


def test_a_file_that_is_no_plugin_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed) -> None:
    assert vqtk_main(monkeypatch, "plugin", "check", tmp_path / "absent.py") == 2
    assert "there is no such file. Expected a .py file, or a folder with an __init__.py" in printed()[1]


def test_a_loss_with_a_window_is_tried_on_the_data_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "windowed.py").write_text(WINDOWED.format(data='data={"name": "celeba", "size": 16}, '))
    for check in plugin_contract(tmp_path / "windowed.py")[:5]:
        check()
    (tmp_path / "anywhere.py").write_text(WINDOWED.format(data=""))
    with pytest.raises(ContractError, match="register it with such data: `data="):
        plugin_contract(tmp_path / "anywhere.py")[1]()
