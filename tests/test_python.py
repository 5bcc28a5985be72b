"""vqtk from Python: training as the command does, data of any form, runs, saved models, and what shows itself."""

from __future__ import annotations

import copy
import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

import vqtk
from tests.running import TINY, vqtk_main, without_data
from tests.test_docs import ROOT, blocks
from vqtk.callbacks import make_display
from vqtk.datasets import given_splits
from vqtk.errors import CheckpointError, DataError, VqtkError, VqtkWarning
from vqtk.nn.types import DataSpec

DIGITS = DataSpec("image", (1, 28, 28), mean=0.1307, std=0.3081)
PIXELS = torch.randint(256, (20, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
LABELS = torch.arange(20) % 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("python")
    (folder / "tiny.yaml").write_text(TINY)
    return folder


@pytest.fixture(autouse=True)
def only_shipped_data(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_data(monkeypatch, place)


class StopAfter(vqtk.Callback):
    """Stops a run, and notes the events."""

    def __init__(self, update: int | None = None):
        self.update, self.events = update, list[Any]()

    def on_start(self, run: Any) -> None:
        self.events.append(("start", run.done))

    def on_update(self, progress: Any) -> None:
        self.stop = progress.done == self.update

    def on_images(self, update: int, files: dict[str, Path]) -> None:
        self.events.append(("images", sorted(files)))

    def on_end(self, finished: bool) -> None:
        self.events.append(("end", finished))


def weights(path: Path) -> dict[str, Tensor]:
    return vqtk.load(path).state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def run(place: Path) -> vqtk.Run:
    """A run on data from Python, interrupted and resumed from the command line; `data.npz` keeps the data."""
    callback = StopAfter(2)
    with pytest.MonkeyPatch.context() as patch:
        without_data(patch, place)
        patch.setattr("vqtk.runs.train.write_report", lambda path: None)
        images = PIXELS[:, 0].numpy() / 255
        stopped = vqtk.train(
            place / "tiny.yaml", data=images, units=(0, 1), keep_data=True, callbacks=[callback], out=place / "runs",
            device="cpu", quiet=True,
        )  # fmt: skip
        assert callback.events == [("start", 0), ("end", False)]
        assert not stopped.finished
        assert "2 of 4 updates, not finished" in repr(stopped)
        assert vqtk_main(patch, "run", "--resume", stopped.path, "--device", "cpu") == 0
    return vqtk.Run(stopped.path)


def test_train_does_what_the_command_does(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = ["--out", place / "command", "--device", "cpu"]
    assert vqtk_main(monkeypatch, "run", place / "tiny.yaml", "train.updates=2", *out) == 0
    (command,) = (place / "command" / "tiny").iterdir()
    python = vqtk.train(place / "tiny.yaml", "train.updates=2", out=place / "called", device="cpu", quiet=True)
    assert same(weights(command), python.model.state_dict())
    theirs, ours = vqtk.Run(command).summary, python.summary
    measured = {"train_s": ours["train_s"], "peak_memory_mb": ours["peak_memory_mb"]}
    assert ours == {**theirs, **measured}


def test_a_run_on_data_from_python_is_resumed_to_the_weights_of_an_uninterrupted_one(
    run: vqtk.Run, place: Path
) -> None:
    callback, data = StopAfter(), {"train": PIXELS, "test": PIXELS[:2]}
    given = {"out": place / "whole", "device": "cpu", "quiet": True}
    whole = vqtk.train(place / "tiny.yaml", data=PIXELS, callbacks=[callback], **given)
    assert same(weights(run.path), whole.model.state_dict())
    kinds = ["proposals", "reconstructions", "samples", "stages"]
    assert callback.events == [("start", 0), ("images", kinds), ("end", True)]
    stopped = vqtk.train(place / "tiny.yaml", data=PIXELS, callbacks=[StopAfter(1)], **given)
    with pytest.raises(DataError, match="given from Python and not kept"):
        stopped.resume(quiet=True)
    with pytest.raises(DataError, match="the data are not those that the run was started with"):
        stopped.resume(data=data, quiet=True)
    assert same(stopped.resume(data=PIXELS, quiet=True).model.state_dict(), whole.model.state_dict())


def test_a_run_shows_what_its_files_hold(run: vqtk.Run) -> None:
    assert run.finished
    assert run.summary == json.loads((run.path / "summary.json").read_text())
    logged = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    updates, values = run.metrics.curve("choice")
    assert dict(zip(updates, values, strict=True)) == {row["update"]: row["choice"] for row in logged if "lr" in row}
    assert run.metrics[-1] == {"update": 4, "part": "test", **logged[-1]["test"]}
    assert f"<td>{logged[-1]['test']['choice']:.5g}</td>" in run.metrics._repr_html_()
    assert run.images["samples"] == run.path / "images" / "samples_00000004.png"
    assert run.image("stages").size == Image.open(run.images["stages"]).size  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"no image of 'tree'\. There are: proposals, reconstructions, samples, stages"):
        run.image("tree")


def test_commands_read_the_data_that_a_run_keeps(run: vqtk.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vqtk_main(monkeypatch, "reconstruct", run.path, "-o", run.path / "it.png", "--device", "cpu") == 0
    (run.path / "data.npz").write_bytes(b"PK")
    assert vqtk_main(monkeypatch, "reconstruct", run.path, "-o", run.path / "it.png", "--device", "cpu") == 2


# ── data ─────────────────────────────────────────────────────────────────────────────────────────


class Rows:
    """The interface of a Hugging Face data set that is used: rows by index, as dicts of decoded columns."""

    def __init__(self, *names: str):
        self.names = names

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = Image.fromarray(PIXELS[index, 0].numpy())
        return {**dict.fromkeys(self.names, image), "label": int(LABELS[index]), "text": "a digit"}


@pytest.mark.parametrize(
    ("data", "units", "labelled"),
    [
        (PIXELS, None, False),
        (PIXELS.numpy(), None, False),
        (PIXELS[:, 0].int(), None, False),
        (PIXELS.permute(0, 2, 3, 1), None, False),
        (PIXELS / 255, (0, 1), False),
        (PIXELS.double().numpy() / 127.5 - 1, (-1, 1), False),
        ((PIXELS / 255 - 0.1307) / 0.3081, "training", False),
        (TensorDataset(PIXELS, LABELS), None, True),
        (TensorDataset(PIXELS / 255, LABELS), (0, 1), True),
        (Rows("image"), None, True),
    ],
    ids=["tensor", "array", "no channel", "channels last", "unit", "signed", "training", "torch", "torch unit", "rows"],
)
def test_data_of_any_form_and_units_become_the_same_examples(data: Any, units: Any, labelled: bool) -> None:
    spec, splits = given_splits(data, like=DIGITS, units=units)
    assert (spec, splits.note) == (DIGITS, None)
    found = torch.cat([splits.train.items, splits.test.items])  # type: ignore[attr-defined]
    assert len(splits.test) == 4
    assert sorted(map(bytes, found.numpy())) == sorted(map(bytes, PIXELS.numpy()))  # type: ignore[arg-type]
    if labelled:
        place = [next(i for i, one in enumerate(PIXELS) if torch.equal(one, image)) for image in splits.train.items]  # type: ignore[attr-defined]
        assert torch.equal(splits.train.labels, LABELS[place])  # type: ignore[arg-type]
    else:
        assert splits.train.labels is None


@pytest.mark.parametrize(
    ("data", "units", "told"),
    [
        (PIXELS / 255, None, r"pixels of type torch\.float32: expected whole numbers .* units=\(0, 1\)"),
        (PIXELS / 255, (-1, 0.5), r"from 0 to 1, and units=\(-1, 0\.5\) says that black is -1 and white 0\.5"),
        (PIXELS.int() * 257, None, r"pixels are from 0 to 65535\. Expected 0 to 255"),
        (PIXELS // 128, None, r"at most 1 of 255, so all images are black.*units=\(0, 1\)"),
        (PIXELS.double() / 0, (0, 1), "values that are not finite"),
        (PIXELS.flatten(1), None, r"its shape is \(20, 784\), and the recipe is for image"),
        ({"test": PIXELS}, None, "has the parts test; expected `train`"),
        (iter(PIXELS), None, "Expected a tensor or array"),
        (["a", "b"], None, "an example is a str"),
        ([PIXELS[0], PIXELS[1, :, :9]], None, r"example 1 is uint8 of shape \(1, 9, 28\), and the first is"),
        (Rows("image", "mask"), None, "its columns are image, mask, label, text"),
        ({"train": PIXELS, "test": PIXELS[:, :, :20, :20]}, None, r"shapes \(1, 28, 28\) and \(1, 20, 20\)"),
    ],
)
def test_data_that_do_not_fit_are_refused(data: Any, units: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        given_splits(data, like=DIGITS, units=units)


def test_signals_are_normalised_as_numpy_would_and_tokens_checked() -> None:
    waves = np.random.default_rng(0).normal(3, 2, (40, 2, 8))
    _, splits = given_splits({"train": waves[:30], "test": waves[30:]}, like=DataSpec("signals", (2, 8)))
    mean, std = waves[:30].mean((0, 2), keepdims=True), waves[:30].std((0, 2), keepdims=True)
    np.testing.assert_allclose(splits.test.items, (waves[30:] - mean) / std, rtol=1e-5, atol=1e-6)  # type: ignore[attr-defined]
    assert splits.units == {"mean": pytest.approx(mean.ravel()), "std": pytest.approx(std.ravel())}
    with pytest.raises(DataError, match="from 5 to 9; expected whole numbers from 0 to 4 for text"):
        given_splits(torch.arange(10).view(2, 5), like=DataSpec("text", (5,), classes=5))


# ── models ───────────────────────────────────────────────────────────────────────────────────────


def test_a_model_trained_by_hand_is_saved_as_every_command_reads_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = vqtk.build(place / "tiny.yaml", "seed=3")
    model.trial(model.data.normalise(PIXELS[:2].clone())).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad  # type: ignore[operator]
    model.save(place / "own.safetensors")
    assert same(weights(place / "own.safetensors"), model.state_dict())
    copied = vqtk.load(place / "own.safetensors")
    assert copied.recipe.seed == 3  # type: ignore[union-attr]
    assert vqtk_main(monkeypatch, "sample", place / "own.safetensors", "-o", place / "it.png", "--device", "cpu") == 0
    copied.save(place / "again.safetensors")
    assert same(weights(place / "again.safetensors"), model.state_dict())
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(CheckpointError, match="is not finite, so nothing was written"):
        model.save(place / "broken.safetensors")
    copied.recipe = None
    with pytest.raises(CheckpointError, match="was not built from a recipe"):
        copied.save(place / "broken.safetensors")


def test_samples_show_themselves_and_are_a_tensor_otherwise() -> None:
    model = vqtk.load("mnist")
    samples = model.sample(4, generator=torch.Generator().manual_seed(0))
    codes = model.random_codes(4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(samples, model.decode(codes))
    formatter = InteractiveShell.instance().display_formatter
    shown, _ = formatter.format(samples)  # type: ignore[union-attr]
    drawn = np.asarray(Image.open(io.BytesIO(shown["image/png"])))
    pixels = model.data.pixels(model.loss.show(model.decode(codes))).detach()
    scale = drawn.shape[1] // 122  # Four digits of 28 pixels with gaps of 2.
    first = drawn[2 * scale : 30 * scale : scale, 2 * scale : 30 * scale : scale, 0]
    np.testing.assert_array_equal(first, (pixels[0, 0] * 255).round())
    for plain in (
        samples + 1,
        samples[0],
        samples.clone(),
        copy.deepcopy(samples),
        pickle.loads(pickle.dumps(samples)),
    ):
        assert type(plain) is Tensor
    with pytest.raises(VqtkError, match=r"examples of shape \(4, 28, 28\): expected \(n, 1, 28, 28\)"):
        vqtk.show(model, samples[:, 0])


# ── documents ────────────────────────────────────────────────────────────────────────────────────


class Asks(vqtk.Callback):
    """Asks for metrics, two of them misspelt."""

    def on_update(self, progress: Any) -> None:
        self.stop = progress.row.get("choise", 1.0) < progress.row.get("choice", 1.0) - 1e9

    def on_evaluation(self, update: int, row: dict[str, Any]) -> None:
        row.get("validation"), row.get("psnr")


def test_a_callback_that_asks_for_a_metric_that_there_is_not_is_told_so_once(place: Path) -> None:
    with pytest.warns(VqtkWarning) as told:
        vqtk.train(place / "tiny.yaml", callbacks=[Asks()], out=place / "asks", device="cpu", quiet=True)
    lines = [str(one.message) for one in told if issubclass(one.category, VqtkWarning)]
    trained, tested = lines
    assert "'choise', which is not among the metrics of training. Did you mean 'choice'? They are " in trained
    assert "'psnr', which is not among the metrics of an evaluation. Did you mean 'psnr_db'? They are " in tested
    assert "items" not in tested
    assert told[0].filename == __file__


@pytest.mark.parametrize("page", ["python", "runs", "tracking"])
def test_the_python_of_a_page_runs(page: str, run: vqtk.Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a small size, in one namespace and an empty folder that has the recipes."""
    monkeypatch.chdir(place)
    if not (place / "recipes").exists():
        (place / "recipes").symlink_to(ROOT / "recipes")
    names: dict[str, Any] = {}
    for code in blocks(ROOT / "docs" / f"{page}.md", "python"):
        small = '"model.stages=2", "model.options=4", "data.batch=4", "train.final_items=8", "train.evaluate_items=8", '
        small += '"train.picture_items=4", "train.updates=2"'
        code = code.replace('"train.updates=2000"', small).replace('"RUN"', repr(str(run.path)))
        exec(code.replace("range(2000)", "range(2)"), names)


def test_the_data_of_a_recipe_are_those_of_its_runs(place: Path) -> None:
    with pytest.warns(VqtkWarning, match="MNIST is not in"):
        splits = vqtk.data(place / "tiny.yaml", "data.validation=10")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (4490, 10, 1000)
    assert splits.test[torch.arange(2)].shape == (2, 1, 28, 28)
    assert splits.test.labels.shape == (1000,)
    assert repr(splits.train) == "<4,490 examples with labels>"


def test_examples_are_found_by_a_number_a_slice_a_list_or_a_tensor() -> None:
    _, splits = given_splits(PIXELS, like=DIGITS)
    held = splits.train
    every = held[torch.arange(len(held))]
    assert torch.equal(held[0], every[0])
    assert torch.equal(held[-1], every[-1])
    assert torch.equal(held[1:3], every[1:3])
    assert torch.equal(held[[2, 0]], every[[2, 0]])
    assert torch.equal(held[torch.arange(len(held)) > 1], every[2:])
    with pytest.raises(IndexError):
        held[len(held)]
    assert sum(1 for _ in held) == len(held)


def test_data_of_another_shape_than_the_recipes_are_named() -> None:
    spec, splits = given_splits(torch.full((8, 1, 32, 32), 255, dtype=torch.uint8), like=DIGITS)
    assert spec.shape == (1, 32, 32)
    assert splits.note is not None
    assert splits.note.startswith("The examples have the shape (1, 32, 32), and those of the recipe (1, 28, 28)")


def test_settings_given_as_arguments_are_answered_with_the_override(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given, told in (
        ({"seed": 1}, '"seed=1"'),
        ({"lr": 1e-3}, '"train.optimizer.lr=0.001"'),
        ({"track": "tensorboard"}, '"train.track=\\[tensorboard\\]"'),
        ({"epochs": 3}, '"train.updates=…"'),
        ({"budgt": "5m"}, "there is no argument 'budgt'. Did you mean 'budget'"),
    ):
        with pytest.raises(VqtkError, match=told):
            vqtk.train(place / "tiny.yaml", quiet=True, **given)
    with pytest.raises(VqtkError, match=r"override {'seed': 1}: expected a string for each"):
        vqtk.train(place / "tiny.yaml", {"seed": 1}, quiet=True)  # type: ignore[arg-type]
    with pytest.raises(VqtkError, match=r'vqtk\.build: there is no argument .seed.\. .* in quotes: "seed=1"\.'):
        vqtk.build(place / "tiny.yaml", seed=1)
    own = re.escape(str(ROOT / "recipes"))
    with pytest.raises(VqtkError, match=rf"mnist: no such recipe\. vqtk's own recipe is {own}/mnist\.yaml\. Expected"):
        vqtk.train("mnist", quiet=True)
    with pytest.raises(VqtkError, match=rf"tiger\.yaml: no such recipe\. The recipes of vqtk are in {own}\. Expected"):
        vqtk.train("recipes/tiger.yaml", quiet=True)


def test_a_callback_with_a_misspelt_event_is_refused_when_it_is_defined() -> None:
    with pytest.raises(VqtkError, match=r"Record\.on_updates: no such event.* Did you mean 'on_update'\? .*on_end"):

        class Record(vqtk.Callback):
            def on_updates(self, progress: Any) -> None:
                pass


def test_a_notebook_has_plain_lines_although_it_claims_to_be_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # ipykernel sets it.
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert make_display(shorter=None).live is None
    monkeypatch.setattr("rich.console._is_jupyter", lambda: False)
    assert make_display(shorter=None).live is not None


@pytest.mark.parametrize("wrong", [["tensorboard"], [vqtk.Callback], vqtk.Callback()], ids=["name", "class", "no list"])
def test_callbacks_that_are_none_are_refused_before_a_run_directory_is_made(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(VqtkError, match=r"expected a list of objects whose class extends vqtk\.Callback"):
        vqtk.train(ROOT / "recipes" / "toy2d.yaml", callbacks=wrong, out=tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()
