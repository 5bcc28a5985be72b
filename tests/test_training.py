"""Training repeats itself bit for bit: run again, or stopped and resumed, even from a damaged run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import experiment, few, resume, rows, shipped, train, weights
from vqtk.datasets._base import Splits
from vqtk.errors import CheckpointError, DataError
from vqtk.evaluate.references import start_at_centres
from vqtk.io.weights import load_weights, read_weights, save_weights
from vqtk.recipe.build import build_model
from vqtk.runs.budget import _final, durations, settings_within
from vqtk.runs.checkpoints import _read_state
from vqtk.training.loop import Trainer

EXPLORING = "model.selector={name: epsilon, epsilon: 0.3}"
VARIANTS = {
    "plain": [],
    "exploring": [EXPLORING],
    "accumulating": ["train.accumulate=2"],
    "gradient checkpointing": ["train.gradient_checkpointing=true"],
    "averaged and clipped": ["train.ema=0.9", "train.clip_norm=0.01", "train.accumulate=2"],
    "schedule_free": ["train.optimizer=schedule_free", "train.schedule={name: constant, warmup: 3}"],
    "in micro-batches": ["train.micro_batch=5", "train.optimizer.name=adamw", "train.schedule.name=cosine"],
    "all of these, in segments": [
        *(EXPLORING, "train.accumulate=2", "train.gradient_checkpointing=true", "train.micro_batch=5"),
        "model.segment=1",
    ],
    "along a beam, with options redrawn": [
        "train.objective.path={name: beam, width: 2}",
        "model.stage_biases=true",
        "train.init=kmeans",
        "train.revive={name: redraw, window: 4}",
        "train.micro_batch=5",
    ],
}
SHORT, SAVED_EVERY_UPDATE = "train.updates=6", "train.checkpoint_minutes=1e-9"


@pytest.fixture(autouse=True, scope="module")
def _short_kmeans() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqtk.evaluate.references.STEPS", 10)
        yield


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return few(shipped(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, splits: Splits
) -> Callable[..., tuple[dict[str, Tensor], list[Any], Any]]:
    """Weights, metrics and test figures of a run with these overrides that nothing interrupted; done once."""
    done: dict[tuple[str, ...], tuple[dict[str, Tensor], list[Any], Any]] = {}

    def of(*overrides: str) -> tuple[dict[str, Tensor], list[Any], Any]:
        if overrides not in done:
            folder = tmp_path_factory.mktemp("uninterrupted")
            whole = experiment(folder, splits, *overrides)
            directory = train(whole, folder)
            summary = json.loads((directory.path / "summary.json").read_text())
            done[overrides] = weights(whole), rows(directory), summary["test"]
        return done[overrides]

    return of


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_two_runs_of_one_seed_are_the_same_and_of_two_seeds_are_not(
    uninterrupted: Callable[..., Any], tmp_path: Path, splits: Splits
) -> None:
    first, logged, _ = uninterrupted()
    again, other = experiment(tmp_path, splits), experiment(tmp_path, splits, "seed=1")
    directory = train(again, tmp_path)
    train(other, tmp_path)
    assert_same(weights(again), first)
    assert rows(directory) == logged
    assert [row["update"] for row in logged] == [1, 10, 10, 20, 20]
    assert not torch.equal(weights(other)["bias"], first["bias"])


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_a_resumed_run_equals_an_uninterrupted_one(
    overrides: list[str], uninterrupted: Callable[..., Any], tmp_path: Path, splits: Splits
) -> None:
    stopped = experiment(tmp_path, splits, *overrides, stop_after=10)
    directory = train(stopped, tmp_path)
    assert stopped.trainer.done == 10
    assert not (directory.path / "summary.json").exists()

    resumed, note = resume(directory.path, splits)
    whole, logged, test = uninterrupted(*overrides)
    assert note is None
    assert_same(weights(resumed), whole)
    assert rows(directory) == logged
    assert json.loads((directory.path / "summary.json").read_text())["test"] == test


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "weights cut short": ("*03.safetensors", lambda path: path.write_bytes(path.read_bytes()[:500])),
    "weights empty": ("*03.safetensors", lambda path: path.write_bytes(b"")),
    "state cut short": ("*03.trainer.pt", lambda path: path.write_bytes(path.read_bytes()[:-200])),
    "state empty": ("*03.trainer.pt", lambda path: path.write_bytes(b"")),
    "state overwritten": ("*03.trainer.pt", lambda path: path.write_bytes(b"not a checkpoint " * 100)),
    "state absent": ("*03.trainer.pt", Path.unlink),
}


@pytest.mark.parametrize(("which", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    which: str,
    damage: Callable[[Path], object],
    uninterrupted: Callable[..., Any],
    tmp_path: Path,
    splits: Splits,
) -> None:
    directory = train(experiment(tmp_path, splits, SHORT, SAVED_EVERY_UPDATE, stop_after=3), tmp_path)
    damaged = next((directory.path / "checkpoints").glob(which))
    damage(damaged)

    resumed, note = resume(directory.path, splits)
    whole, logged, _ = uninterrupted(SHORT)
    assert note is not None
    assert damaged.name in note
    assert "back to update 2" in note
    assert_same(weights(resumed), whole)
    assert rows(directory) == logged


def test_no_flipped_byte_loads_silently(tmp_path: Path, splits: Splits) -> None:
    """Wherever it is: in the tensors, the header, the recipe, the checksum itself, or the trainer's state."""
    directory = train(experiment(tmp_path, splits, SHORT, SAVED_EVERY_UPDATE, stop_after=3), tmp_path)
    weights, drawn = directory.path / "checkpoints/update_00000003.safetensors", torch.Generator().manual_seed(0)
    state = weights.with_suffix(".trainer.pt")
    state_sha256 = read_weights(weights)[1]["trainer_sha256"]

    def read_state(path: Path) -> object:
        return _read_state(path, state_sha256)

    for path, read in ((weights, read_weights), (state, read_state)):
        whole = path.read_bytes()
        head = (8 + torch.randint(min(4000, len(whole) - 8), (50,), generator=drawn)).tolist()
        for where in [*torch.randint(len(whole), (100,), generator=drawn).tolist(), *head]:
            flipped = bytearray(whole)
            flipped[where] ^= 1 << int(torch.randint(8, (), generator=drawn))
            path.write_bytes(flipped)
            with pytest.raises(CheckpointError):
                read(path)
        path.write_bytes(whole)
        read(path)
    recipe = experiment(tmp_path, splits, SHORT, SAVED_EVERY_UPDATE).trainer.recipe
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    it = Trainer(recipe, build_model(recipe))
    assert "back to update 2" in str(directory.restore(it))
    assert it.done == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda value: value.double(), "is torch.float64 in the file"),
        (lambda value: value.int(), "is torch.int32 in the file"),
        (lambda value: torch.full_like(value, float("nan")), "is not finite"),
    ],
    ids=["float64", "int32", "nan"],
)
def test_weights_of_another_type_or_not_finite_are_refused(
    change: Callable[[Tensor], Tensor], told: str, tmp_path: Path, splits: Splits
) -> None:
    trainer = experiment(tmp_path, splits).trainer
    bias = torch.nn.Parameter(change(trainer.model.bias.detach()), requires_grad=False)
    trainer.model.bias = bias
    save_weights(tmp_path / "it.safetensors", trainer.model, trainer.recipe)
    with pytest.raises(CheckpointError, match=told):
        load_weights(tmp_path / "it.safetensors")


def test_what_was_logged_after_the_checkpoint_is_dropped(
    uninterrupted: Callable[..., Any], tmp_path: Path, splits: Splits
) -> None:
    directory = train(experiment(tmp_path, splits, stop_after=10), tmp_path)
    directory.log({"update": 11, "choice": 0.0})
    with (directory.path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 12, "cho')
    resume(directory.path, splits)
    assert rows(directory) == uninterrupted()[1]


def test_resuming_a_run_that_is_done_changes_nothing(
    uninterrupted: Callable[..., Any], tmp_path: Path, splits: Splits
) -> None:
    directory = train(experiment(tmp_path, splits, SHORT), tmp_path)
    resumed, _ = resume(directory.path, splits)
    assert_same(weights(resumed), uninterrupted(SHORT)[0])
    assert rows(directory) == uninterrupted(SHORT)[1]


def test_a_run_without_a_whole_checkpoint_says_what_is_wrong(tmp_path: Path, splits: Splits) -> None:
    directory = train(experiment(tmp_path, splits, stop_after=2), tmp_path)
    next((directory.path / "checkpoints").glob("*.safetensors")).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint to resume from.*update_00000002\.safetensors"):
        resume(directory.path, splits)


def test_a_run_is_not_resumed_on_other_data(tmp_path: Path, splits: Splits) -> None:
    directory = train(experiment(tmp_path, splits, stop_after=2), tmp_path)
    changed = Splits(splits.train, splits.test, splits.source)
    changed.train.items[0, 0, 0, 0] += 1
    try:
        with pytest.raises(DataError, match="not those that the run was started with"):
            resume(directory.path, changed)
    finally:
        changed.train.items[0, 0, 0, 0] -= 1


def test_measuring_for_a_budget_changes_nothing(tmp_path: Path, splits: Splits) -> None:
    one, other = (experiment(tmp_path, splits, "train.updates=3") for _ in range(2))
    measured = durations(one.trainer, splits.train, one.evaluate, lambda: one.picture(tmp_path / "scratch", 0))
    assert min(measured.step_s, measured.evaluation_s, measured.pictures_s) > 0
    train(one, tmp_path)
    train(other, tmp_path)
    assert_same(weights(one), weights(other))


def test_a_resumed_run_is_shown_before_its_first_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from vqtk.callbacks import PlainDisplay
    from vqtk.training.loop import Progress

    shown, row = PlainDisplay(Console(), None), {"choice": 0.5, "entropy_pooled_nats": 1.0, "used": 2, "lr": 1e-3}
    shown.on_update(Progress(11, 20, {}, 100.0))
    assert not capsys.readouterr().out
    for done in (19, 20):
        shown.last_line = 0.0
        shown.on_update(Progress(done, 20, row, 100.0))
    assert capsys.readouterr().out.count("choice 0.5000") == 1


def test_the_curve_is_of_one_set_of_items_to_its_end_and_the_last_figures_of_all(
    tmp_path: Path, splits: Splits
) -> None:
    logged = rows(train(experiment(tmp_path, splits), tmp_path))
    curve = [row.get("subset", row["test"]) for row in logged if "test" in row]
    assert [(row["items"], row["of"]) for row in curve] == [(10, 20), (10, 20)]
    assert (logged[-1]["update"], logged[-1]["test"]["items"], logged[-1]["end"]) == (20, 20, True)
    assert logged[-1]["test"]["final"] != curve[-1]["final"]


@pytest.mark.parametrize(("final_items", "items"), [("null", 20), ("7", 7), ("500", 20)])
def test_what_the_end_is_measured_on_is_the_recipes_to_say_and_not_the_clocks(
    final_items: str, items: int, tmp_path: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**9, 1000))
    monkeypatch.setattr("vqtk.runs.budget.time.monotonic", lambda: float(next(clock)))
    directory = train(experiment(tmp_path, splits, SHORT, f"train.final_items={final_items}"), tmp_path)
    summary = json.loads((directory.path / "summary.json").read_text())
    assert (summary["test_items"], summary["test"]["items"]) == (items, items)
    assert summary["test_is_subset"] == (items < 20)


def test_a_budget_too_short_for_the_end_evaluates_fewer_examples(tmp_path: Path, splits: Splits) -> None:
    one = experiment(tmp_path, splits)  # It evaluates 10 examples, and at the end 20.
    assert _final(one, 1.0, left_s=200.0) == ([], 30.0)
    settings, takes = _final(one, 0.5, left_s=20.0)
    assert settings == ["train.evaluate_items=10", "train.final_items=10"]
    assert takes == 5.0


def test_a_short_budget_starts_at_the_centres_of_the_data_and_says_what_it_set(
    tmp_path: Path, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqtk.evaluate.references.STEPS", 10)
    one = experiment(tmp_path, splits)
    fit = settings_within(one, "1s", since=time.monotonic(), free=True)
    assert fit.overrides[-1] == "train.init=kmeans"
    assert f"train.updates={fit.updates}" in fit.overrides
    assert any("this run also sets" in line and "train.init=kmeans" in line for line in one.callbacks[0].lines)  # type: ignore[attr-defined]
    again = experiment(tmp_path, splits, "train.init=kmeans", "train.updates=1")
    start_at_centres(again.trainer.model, splits.train, seed=0)
    assert_same(weights(one), weights(again))
    asked = experiment(
        tmp_path, splits, "train.init=kmeans"
    )  # Its start takes time, too, and so comes before the plan.
    assert "train.init=kmeans" not in settings_within(asked, "1s", since=time.monotonic(), free=True).overrides
    assert asked.at_centres
    assert_same(weights(asked), weights(again))
    chosen = experiment(tmp_path, splits, "train.init=random")
    assert "train.init=kmeans" not in settings_within(chosen, "1s", since=time.monotonic(), free=True).overrides
