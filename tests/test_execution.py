"""Compiled, captured and exported, a model computes what it computes plainly, and a stage is data to it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.parity import ROOT
from tests.test_training import assert_same
from tests.test_update import EXPLORING, assert_near, batch, trainer
from tests.tiny import experiment, few, resume, rows, shipped, train, weights
from vqtk.errors import VqtkError, VqtkWarning
from vqtk.models._compiled import CompiledStage
from vqtk.nn.graph import Captured, CapturedCalls
from vqtk.nn.stage import leaves_of
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import load_recipe
from vqtk.training.execution import has_bfloat16, resolve
from vqtk.training.loop import Trainer

RECIPES = ROOT / "recipes"


class Rerun:
    """Stands for CUDA's graphs: what was recorded is done again, from the same inputs into the same outputs."""

    def __init__(self) -> None:
        self.recorded = 0

    def warm_up(self, function: Callable[[], Any]) -> None:
        for _ in range(3):
            function()

    def record(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        self.recorded += 1
        output = function()

        def replay() -> None:
            for place, value in zip(leaves_of(output), leaves_of(function()), strict=True):
                place.copy_(value)

        return replay, output


class Refusing(Rerun):
    """Records nothing, as CUDA does where something waits for the device."""

    def record(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        function()
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


def capture(it: Trainer, recorder: Rerun) -> None:
    """Capture updates as on CUDA, where the optimiser says that its step can be."""
    for group in it.optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True
    it.capture(recorder)


VARIANTS = {
    "plain": [],
    "exploring": [EXPLORING],
    "sampled options": ["train.objective.sampled=2"],
    "recomputed": ["train.gradient_checkpointing=true"],
    "unequal pieces": ["train.micro_batch=3"],
    "averaged and clipped": ["train.ema=0.9", "train.clip_norm=0.01", "train.clip_value=0.01"],
    "sgd": ["train.optimizer={name: sgd, weight_decay: 0.1}"],
    "muon": ["train.optimizer={name: muon, weight_decay: 0.1}"],
    "schedule_free": ["train.optimizer=schedule_free"],
    "adamw, a part of the stages": ["train.optimizer={name: adamw, weight_decay: 0.1}", "model.active_stages=1"],
}


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_a_captured_update_is_a_plain_one(overrides: list[str], tmp_path: Path) -> None:
    plain, captured = (trainer(tmp_path, "model.segment=1", *overrides) for _ in range(2))
    recorder = Rerun()
    capture(captured, recorder)
    for seed in (0, 2, 4):
        for one in (plain, captured):
            one.update([batch(seed), batch(seed + 1)], updates=5)
        assert captured.metrics() == plain.metrics()
        assert torch.equal(captured.usage(), plain.usage())
    for (name, p), q in zip(plain.model.named_parameters(), captured.model.parameters(), strict=True):
        assert torch.equal(p, q), name
    with plain.evaluated() as one, captured.evaluated() as other:
        assert_same(dict(one.state_dict()), dict(other.state_dict()))
    recorded = {"train.micro_batch=3": 3, "train.optimizer=schedule_free": 1}
    assert recorder.recorded == next((recorded[one] for one in overrides if one in recorded), 2)


def test_options_are_revived_after_a_captured_update() -> None:
    recipe = load_recipe(RECIPES / "mnist_ddn.yaml", ["model.stages=2", "model.options=4", "model.refiner.pace=0"])
    plain, captured = (Trainer(recipe, build_model(recipe)) for _ in range(2))
    capture(captured, Rerun())
    for seed in range(4):
        for one in (plain, captured):
            one.update([batch(seed)], updates=5)
    assert_same(*(dict(one.model.state_dict()) for one in (plain, captured)))


def test_an_update_that_cannot_be_captured_is_computed_plainly_and_says_so(tmp_path: Path) -> None:
    plain, refused = (trainer(tmp_path) for _ in range(2))
    capture(refused, Refusing())
    with pytest.warns(VqtkWarning, match=r"cannot be captured as a graph \(operation not permitted .*so none is used"):
        refused.update([batch(0), batch(1)], updates=5)
    plain.update([batch(0), batch(1)], updates=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused.update([batch(2)], updates=5)
    plain.update([batch(2)], updates=5)
    assert_near(plain, refused, 0)


def test_a_captured_function_is_recorded_once_for_each_signature() -> None:
    recorder, seen = Rerun(), []

    def double(values: Tensor, by: float) -> Tensor:
        seen.append(values.data_ptr())
        return values * by

    captured = Captured(double, recorder)
    first, second = torch.arange(3.0), torch.arange(3.0) + 5
    kept = captured(first, 2.0)
    assert torch.equal(captured(second, 2.0), second * 2)
    assert torch.equal(kept, first * 2)
    assert torch.equal(captured(second, 3.0), second * 3)
    assert torch.equal(captured(torch.ones(2), 2.0), torch.full((2,), 2.0))
    assert recorder.recorded == 3
    assert first.data_ptr() not in seen
    with torch.autocast("cpu", torch.bfloat16):
        captured(first, 2.0)
    assert recorder.recorded == 4, "what is captured in one precision must not answer in another"


class _Blind(TorchDispatchMode):
    """Refuses operations that wait for the device: those whose result the host must see, or whose shape it decides."""

    WAITING = ("_local_scalar_dense", "bincount", "nonzero", "masked_select", "_unique2", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket.__name__ not in self.WAITING, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        [EXPLORING],
        ["train.gradient_checkpointing=true"],
        ["train.objective.sampled=2"],
        ["train.ema=0.9", "train.clip_norm=0.01", "train.clip_value=0.1", "train.optimizer=sgd"],
        ["train.optimizer=muon"],
    ],
    ids=str,
)
def test_nothing_in_an_update_waits_for_the_device(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = trainer(tmp_path, "train.accumulate=2", *overrides)

    def refuse(self: Tensor, *_: object) -> None:
        raise AssertionError("an update looks at a number")

    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"):
        monkeypatch.setattr(Tensor, name, refuse)
    with _Blind():
        it.update([batch(0), batch(1)], updates=5)
        usage = it.usage()
    monkeypatch.undo()
    assert usage.sum() == 2 * 8 * 2


# ── compiled ─────────────────────────────────────────────────────────────────────────────────────


PER_STAGE = "model.refiner.head={name: conv_per_stage, layers: [{width: 4, upsample: 2, repeat: 2}], kernel: 3}"


@pytest.mark.thorough
@pytest.mark.parametrize("head", [[], [PER_STAGE]], ids=["conv", "conv_per_stage"])
def test_a_stage_is_data_to_compiled_code(head: list[str], tmp_path: Path) -> None:
    from torch._dynamo.utils import counters  # Here, for importing it takes seconds.

    overrides = ["model.stages=7", "model.segment=4", *head]
    model = trainer(tmp_path, *overrides, dtype=torch.float64).model
    target, codes = batch(dtype=torch.float64), model.random_codes(8)
    expected = model.walk(target)
    (expected.choice + expected.all).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    decoded = model.decode(codes)
    model.zero_grad()
    torch._dynamo.reset()
    counters.clear()
    model.compiled = CompiledStage(model.loss, len(target), backend="aot_eager")
    found = model.walk(target)
    (found.choice + found.all).backward()
    torch.testing.assert_close(found.grid, expected.grid)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients.get(name, torch.zeros_like(parameter)), msg=name)
    assert counters["stats"]["unique_graphs"] == 3  # The network, the grid, the choice.
    torch.testing.assert_close(model.decode(codes), decoded)
    assert counters["stats"]["unique_graphs"] == 4
    assert not counters["graph_break"]


def test_what_cannot_be_compiled_is_computed_plainly_and_says_so(tmp_path: Path) -> None:
    model = trainer(tmp_path).model
    expected = model.walk(batch()).grid

    def broken(*_: object) -> None:
        raise NotImplementedError("no such kernel")

    model.compiled = CompiledStage(model.loss, 8, backend=broken)  # type: ignore[arg-type]
    with pytest.warns(VqtkWarning, match="propose cannot be compiled .*no such kernel.*runs uncompiled"):
        found = model.walk(batch()).grid
    torch.testing.assert_close(found, expected)


@pytest.fixture(scope="module")
def compiled_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    splits = few(shipped(tmp_path_factory.mktemp("home")))
    folder = tmp_path_factory.mktemp("compiled")
    whole = experiment(folder, splits, "train.compile=inductor", "train.updates=6")
    return whole, rows(train(whole, folder)), splits


def test_a_compiled_run_is_resumed_bit_for_bit(compiled_run: Any, tmp_path: Path) -> None:
    whole, logged, splits = compiled_run
    if not whole.trainer.execution.inductor:
        pytest.skip("there is no C++ compiler here")
    stopped = experiment(tmp_path, splits, "train.compile=inductor", "train.updates=6", stop_after=3)
    directory = train(stopped, tmp_path)
    resumed, _ = resume(directory.path, splits)
    assert resumed.trainer.execution.inductor
    assert_same(weights(resumed), weights(whole))
    assert rows(directory) == [*logged[:1], *logged[-2:]]


def test_a_compiled_run_goes_where_a_plain_one_goes(compiled_run: Any, tmp_path: Path) -> None:
    whole, _, splits = compiled_run
    plain = experiment(tmp_path, splits, "train.compile=off", "train.updates=6")
    train(plain, tmp_path)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(whole)[name], value, rtol=1e-3, atol=1e-5, msg=name)


# ── exported ─────────────────────────────────────────────────────────────────────────────────────


class Calls(nn.Module):
    """A model whose `forward` is one of a model's calls."""

    def __init__(self, model: Any, name: str):
        super().__init__()
        self.model, self.name = model, name

    def forward(self, given: Tensor) -> Tensor:
        return getattr(self.model, self.name)(given)


def test_encoding_and_decoding_are_captured_when_a_size_comes_back(tmp_path: Path) -> None:
    model, recorder = trainer(tmp_path).model.eval(), Rerun()
    expected = [(model.encode(batch(seed)), model.decode_stages(model.encode(batch(seed)))) for seed in range(3)]
    model.captured_calls = CapturedCalls(recorder)
    for seed, (codes, after) in enumerate(expected):
        assert torch.equal(model.encode(batch(seed)), codes)
        assert torch.equal(model.decode_stages(codes), after)
        walk, (grids, best, reached) = model.walk(batch(seed)), model.scored(batch(seed))
        assert torch.equal(grids, walk.grid)
        assert torch.equal(reached, walk.reconstruction)
        assert torch.equal(best, codes)
        with torch.no_grad():
            assert torch.equal(model.decode(codes), after[:, -1])
        assert recorder.recorded == (0 if seed == 0 else 4)
    with pytest.raises(VqtkError, match="codes from 0 to 99"):
        model.decode(torch.tensor([[0, 99]]))
    assert model.decode(expected[0][0]).requires_grad
    refused = CapturedCalls(Refusing())
    for _ in range(3):
        assert torch.equal(refused(model._encoded, batch(0), 0), expected[0][0])


@pytest.mark.parametrize("overrides", [[], ["model.loss=gaussian"]], ids=["mse", "gaussian"])
def test_encode_and_decode_are_exported(overrides: list[str], tmp_path: Path) -> None:
    model = trainer(tmp_path, *overrides).model.eval()
    target = batch()
    with torch.no_grad():
        encode = torch.export.export(Calls(model, "encode"), (target,)).module()
        codes = encode(target)
        assert torch.equal(codes, model.encode(target))
        decode = torch.export.export(Calls(model, "decode"), (codes,)).module()
        torch.testing.assert_close(decode(codes), model.decode(codes))


def test_a_walk_is_one_graph(tmp_path: Path) -> None:
    model = trainer(tmp_path).model
    walk = torch.compile(lambda target: model.walk(target).choice, fullgraph=True, backend="eager")
    torch.testing.assert_close(walk(batch()), model.walk(batch()).choice)


# ── what `auto` takes ────────────────────────────────────────────────────────────────────────────


def test_a_short_run_on_a_cpu_is_computed_plainly(tmp_path: Path) -> None:
    execution = trainer(tmp_path).execution
    assert (execution.inductor, execution.graph, execution.precision) == (False, False, "float32")


def test_a_manifest_keeps_how_a_run_is_computed(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "mnist.yaml")
    model = build_model(recipe)
    recorded = resolve(recipe, model).recorded()
    changed = {**recorded, "recompute": 4, "precision": "bfloat16"}
    assert resolve(recipe, model, recorded=changed).recorded() == changed
    elsewhere = resolve(recipe, model, recorded={**recorded, "graph": True, "recompute": 4})
    assert (elsewhere.graph, elsewhere.recompute) == (False, 4)  # Graphs were CUDA's, and this is a CPU.
    for damaged in ({**recorded, "recompute": "all"}, {"graph": True}, {**recorded, "more": 1}):
        assert resolve(recipe, model, recorded=damaged).recorded() == recorded


def test_auto_precision_is_what_the_machine_multiplies_in(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(RECIPES / "mnist.yaml", ["train.precision=auto"])
    model = build_model(recipe)
    for there, precision, compiled in ((False, "float32", False), (True, "bfloat16", True)):
        monkeypatch.setattr("vqtk.training.execution.has_bfloat16", lambda device, there=there: there)
        monkeypatch.setattr("vqtk.training.execution._no_compiler", lambda device: None)
        found = resolve(recipe, model)
        assert (found.precision, found.inductor) == (precision, compiled)
    assert isinstance(has_bfloat16(torch.device("cpu")), bool)


def test_what_a_device_cannot_do_is_said_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(RECIPES / "mnist.yaml", ["train.compile=inductor+graph"])
    monkeypatch.setattr("vqtk.training.execution._no_compiler", lambda device: "there is no C++ compiler")
    found = resolve(recipe, build_model(recipe))
    assert (found.inductor, found.graph) == (False, False)
    assert any("graphs need CUDA" in note for note in found.notes)
    assert any("there is no C++ compiler, so the update is not compiled" in note for note in found.notes)
