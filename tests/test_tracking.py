"""Trackers: what TensorBoard, Weights & Biases and Trackio recorded, read back; and no result that they change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from vqtk.callbacks import Callback, Progress, Started, Tracker
from vqtk.errors import RecipeError, VqtkError
from vqtk.recipe.build import build_model, build_tracker
from vqtk.recipe.recipe import Recipe, load_recipe
from vqtk.registry import callbacks
from vqtk.runs.experiment import Experiment


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Path, Experiment]:
    """A run with TensorBoard, stopped and resumed; its directory; and the same run without."""
    pytest.importorskip("tensorboard")
    folder = tmp_path_factory.mktemp("tracked")
    splits = tiny.few(tiny.shipped(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqtk.runs.train.write_report", lambda run: None)
        stopped = tiny.experiment(folder, splits, "train.track=[tensorboard]", stop_after=10)
        directory = tiny.train(stopped, folder / "runs")
        resumed, _ = tiny.resume(directory.path, splits)
        plain = tiny.experiment(folder, splits)
        tiny.train(plain, folder / "plain")
    return resumed, directory.path, plain


def test_tracking_changes_no_weight(tracked: tuple[Experiment, Path, Experiment]) -> None:
    with_tracker, without = (tiny.weights(it) for it in (tracked[0], tracked[2]))
    assert with_tracker.keys() == without.keys()
    assert all(torch.equal(value, without[name]) for name, value in with_tracker.items())


def test_a_resumed_run_goes_on_in_the_same_tensorboard_record(tracked: tuple[Experiment, Path, Experiment]) -> None:
    read, run = accumulated(tracked[1] / "tensorboard"), tracked[1]
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = {row["update"]: row["choice"] for row in logged if "choice" in row}
    assert {one.step: one.value for one in read.Scalars("train/choice")} == pytest.approx(trained)
    tested = {row["update"]: row.get("subset", row["test"])["choice"] for row in logged if "test" in row}
    assert {one.step: one.value for one in read.Scalars("test/choice")} == pytest.approx(tested)
    assert [one.step for one in read.Scalars("final/choice")] == [20]
    evaluation = json.loads((run / "evaluation.json").read_text())
    last = read.Histograms("usage/stage_01")[-1].histogram_value
    assert (last.num, [int(count) for count in last.bucket if count]) == (
        evaluation["items"],
        [count for count in evaluation["usage"][0] if count],
    )
    assert read.Images("images/samples")[-1].step == 20
    assert b"lr" in read.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0]


def accumulated(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}).Reload()


# ── each tool, with a run of two sessions ────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(tiny.RECIPE)
    return load_recipe(path)


def sessions(tracker: Tracker, recipe: Recipe, run: Path, said: list[str]) -> None:
    """Two updates, a kill after the third, and a resumption after the second that does the third again."""
    Image.fromarray(np.full((2, 3, 3), 200, dtype=np.uint8)).save(run / "samples.png")
    (run / "lines.txt").write_text("one\ntwo\n")
    for done, updates, value in ((0, (1, 2, 3), 1.0), (2, (3, 4), 2.0)):
        tracker.on_start(Started(run, recipe, {"directory": str(run)}, build_model(recipe), done, said.append))
        for update in updates:
            tracker.on_update(Progress(update, 4, {"choice": value * update}, 8.0))
        tracker.on_evaluation(updates[-1], {"items": 6, "of": 10, "choice": value})
        tracker.on_usage(updates[-1], [[1, 5, 0, 0], [0, 0, 2, 4]])
        tracker.on_images(updates[-1], {"samples": run / "samples.png", "lines": run / "lines.txt"})
        tracker.on_end(done == 2)


def test_tensorboard_drops_what_a_killed_run_recorded_after_its_checkpoint(recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    said: list[str] = []
    sessions(build_tracker("tensorboard"), recipe, tmp_path, said)
    read = accumulated(tmp_path / "tensorboard")
    assert said == []
    assert [(one.step, one.value) for one in read.Scalars("train/choice")] == [(1, 1.0), (2, 2.0), (3, 6.0), (4, 8.0)]
    pooled = read.Histograms("usage/all_stages")[-1].histogram_value
    assert pooled.bucket == [1, 5, 2, 4]


def test_weights_and_biases_records_both_sessions_of_a_run_under_one_id(recipe: Recipe, tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    said: list[str] = []
    sessions(build_tracker("wandb"), recipe, tmp_path, said)
    wandb.teardown()  # Its service writes until it ends, as it does with the process.
    assert said == []
    found = [list(wandb_records(path)) for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))]
    runs = [record.run for records in found for record in records if record.WhichOneof("record_type") == "run"]
    assert len({run.run_id for run in runs}) == 1
    assert {run.project for run in runs} == {"tiny"}
    assert json.loads({item.key: item.value_json for item in runs[0].config.update}["train"])["updates"] == 20
    steps = [history(record) for records in found for record in records if record.HasField("history")]
    assert [(row["_step"], row["train/choice"]) for row in steps] == [(1, 1.0), (2, 2.0), (3, 3.0), (3, 6.0), (4, 8.0)]
    assert steps[-1]["usage/stage_01/values"] == [1, 5, 0, 0]
    assert steps[-1]["images/samples/width"] == 3


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of an offline run: protocol buffers in the log format of LevelDB, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, content = path.read_bytes(), 7, b""
    while place < len(data):
        left = 32768 - place % 32768
        if left < 7:  # A record's header does not fit into the rest of a block.
            place += left
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        content += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # Whole, or the last part.
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            yield record
            content = b""


def history(record: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def test_trackio_records_both_sessions_of_a_run_as_one(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    said: list[str] = []
    sessions(build_tracker("{name: trackio, project: digits}"), recipe, tmp_path, said)
    assert said == []
    (run,) = SQLiteStorage.get_runs("digits")
    rows = SQLiteStorage.get_logs("digits", run)
    trained = [(row["step"], row["train/choice"]) for row in rows if "train/choice" in row]
    assert trained == [(1, 1.0), (2, 2.0), (3, 3.0), (3, 6.0), (4, 8.0)]
    assert any("usage/stage_02" in row for row in rows)
    assert SQLiteStorage.get_run_config("digits", run)["name"] == "tiny"


# ── recipes and failures ─────────────────────────────────────────────────────────────────────────


def test_trackers_make_no_other_variant_and_callbacks_do(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny.RECIPE)
    with_tracker = load_recipe(path, ["train.track=[wandb, {name: trackio, project: digits}]"])
    assert with_tracker.of_consequence() == recipe.of_consequence()
    with pytest.raises(RecipeError, match=r"train\.callbacks\.0: 'tensorboard' is a tracker, which changes no result"):
        load_recipe(path, ["train.callbacks=[tensorboard]"])
    with pytest.raises(RecipeError, match=r"no callback is called 'wandbb'\. Did you mean 'wandb'"):
        load_recipe(path, ["train.track=[wandbb]"])
    with pytest.raises(RecipeError, match=r"The callback 'tensorboard' takes name\.$"):
        load_recipe(path, ["train.track=[{name: tensorboard, foler: logs}]"])
    before = callbacks.snapshot()
    try:
        callbacks.register("ending")(Ending)
        with pytest.raises(RecipeError, match=r"train\.track\.0: 'ending' is a callback but not a tracker"):
            load_recipe(path, ["train.track=[ending]"])
        ended = load_recipe(path, ["train.callbacks=[ending]"])
        assert ended.of_consequence() != recipe.of_consequence()
    finally:
        callbacks.restore(before)


class Ending(Callback):
    """A callback that is no tracker."""


def test_a_missing_package_is_one_line_with_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqtk.callbacks._tracker.find_spec", lambda name: None)
    for name in ("tensorboard", "wandb", "trackio"):
        with pytest.raises(VqtkError, match=rf"'{name}' needs {name}, which is not installed.*'vqtk\[track\]'"):
            build_tracker(name)


class Failing(Tracker):
    """A tracker whose tool fails at the second update."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def scalars(self, update: int, values: dict[str, float]) -> None:
        self.seen.append(update)
        if update == 2:
            raise ConnectionError("no\nroute")

    def _nothing(self, *_: object) -> None: ...

    open = image = text = histogram = close = _nothing


def test_a_tool_that_fails_is_reported_once_and_not_called_again(recipe: Recipe, tmp_path: Path) -> None:
    tracker, said = Failing(), list[str]()
    tracker.on_start(Started(tmp_path, recipe, {}, build_model(recipe), 0, said.append))
    for update in (1, 2, 3):
        tracker.on_update(Progress(update, 3, {"choice": 1.0}, 1.0))
    tracker.on_end(True)
    assert tracker.seen == [1, 2]
    (line,) = said
    assert "Failing: tracking has stopped, and training goes on: ConnectionError: no route" in line
