"""Vectors and signals of a user's own: read, divided, normalised, trained on and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.images import items, message
from tests.running import vqtk_main
from vqtk.datasets import arrays
from vqtk.datasets.arrays import Arrays
from vqtk.nn.types import DataSpec
from vqtk.render import points as lines
from vqtk.render.pictures import form, pictures, require_drawn

SIGNALS = """
name: signals
data: {name: arrays, path: waves, shape: [3, 20], batch: 4}
model:
  name: vqdraw
  stages: 2
  options: 4
  loss: mse
  refiner: {backbone: {name: conv, layers: [{width: 4}]}, blocks: [], head: conv}
train: {updates: 2, picture_items: 4}
"""


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape) * 3 + 5


def of(path: Path, shape: list[int], **settings: Any) -> Arrays:
    return Arrays(path=str(path), shape=shape, **{"normalise": "none", **settings})


# ── layouts ──────────────────────────────────────────────────────────────────────────────────────

LAYOUTS = {
    "vectors": ([16], (30, 16), np.float64),
    "numbers": ([1], (30,), np.float32),
    "vectors of whole numbers": ([16], (30, 16), np.int16),
    "signals": ([3, 20], (30, 3, 20), np.float16),
    "waveforms without a channel axis": ([1, 50], (30, 50), np.float32),
    "booleans": ([4], (30, 4), bool),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_an_array_of_examples_is_divided_so_that_adding_some_moves_none(case: str, tmp_path: Path) -> None:
    shape, size, dtype = LAYOUTS[case]
    values = drawn(*size).astype(dtype)
    np.save(tmp_path / "a.npy", values[:25])
    dataset = of(tmp_path / "a.npy", shape, test=0.3)
    assert dataset.spec == DataSpec("points" if len(shape) == 1 else "signals", tuple(shape))
    first = items(dataset.load(tmp_path))
    np.save(tmp_path / "a.npy", values)
    train, test = items(dataset.load(tmp_path))
    assert dataset.count(tmp_path) == len(train) + len(test) == 30
    expected = values.astype(np.float32).reshape(30, *shape)
    found = {one.numpy().tobytes() for one in torch.cat([train, test])}
    assert found == {one.tobytes() for one in expected}
    assert {one.numpy().tobytes() for one in first[1]} <= {one.numpy().tobytes() for one in test}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_recording_is_cut_into_windows_and_its_end_held_out(channels: int, tmp_path: Path) -> None:
    values = np.arange(channels * 207, dtype=np.float32).reshape(channels, 207)
    np.save(tmp_path / "a.npy", values if channels > 1 else values[0])
    splits = of(tmp_path / "a.npy", [channels, 20], test=0.25).load(tmp_path)
    train, test = items(splits)
    assert (len(train), len(test)) == (8, 2)
    whole = torch.cat([train, test]).transpose(0, 1).flatten(1)
    assert torch.equal(whole, torch.from_numpy(values[:, :200]))
    assert "7 steps at the ends of recordings" in str(splits.note)


def test_an_archive_may_hold_labels_and_parts(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=drawn(20, 4), labels=np.arange(20) % 2)
    splits = of(tmp_path / "a.npz", [4]).load(tmp_path)
    assert splits.train.labels is not None
    assert len(splits.train.labels) == len(splits.train)
    parts = {"Train": drawn(6, 4), "val": drawn(3, 4), "Train_labels": np.arange(6), "val_labels": np.arange(3)}
    np.savez(tmp_path / "b.npz", **parts)
    splits = of(tmp_path / "b.npz", [4]).load(tmp_path)
    assert torch.equal(items(splits)[1], torch.from_numpy(parts["val"]).float())
    assert splits.test.labels is not None
    assert splits.test.labels.tolist() == [0, 1, 2]
    assert "train on `Train`, test on `val`" in str(splits.note)


def test_a_folder_is_divided_and_labelled_as_others_are(tmp_path: Path) -> None:
    for index, name in enumerate(("train/dog/1", "train/cat/2", "test/dog/3")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / name, np.full((2, 3, 20), index))
    splits = of(tmp_path, [3, 20]).load(tmp_path)
    assert splits.labels == ("cat", "dog")
    assert splits.train.labels is not None
    assert splits.train.labels.tolist() == [0, 0, 1, 1]
    assert items(splits)[0][:, 0, 0].tolist() == [1, 1, 0, 0]
    assert items(splits)[1][:, 0, 0].tolist() == [2, 2]


@pytest.mark.parametrize("normalise", ["channel", "all"])
def test_values_are_normalised_by_the_training_part_which_is_recorded(normalise: str, tmp_path: Path) -> None:
    values = drawn(200, 3, 20) * np.array([1, 50, 0])[:, None] + 1
    np.save(tmp_path / "a.npy", values)
    splits = of(tmp_path / "a.npy", [3, 20], normalise=normalise).load(tmp_path)
    train, test = items(splits)
    axes = (0, 2) if normalise == "channel" else (0, 1, 2)
    units = splits.fingerprint()["units"]
    raw = of(tmp_path / "a.npy", [3, 20]).load(tmp_path)
    expected = items(raw)[0].double()
    assert units["mean"] == pytest.approx(expected.mean(axes).flatten().tolist(), rel=1e-6)
    mean, std = (torch.tensor(units[name]).reshape(-1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(test * std + mean, items(raw)[1], rtol=1e-4, atol=1e-3)
    assert train.isfinite().all()
    assert train.double().std(axes, correction=0).flatten()[:1].item() == pytest.approx(1, abs=1e-4)


WRONG = {
    "another shape": (drawn(5, 7), "its array is (5, 7), and data.shape is [3, 20]: expected several (n, 3, 20)"),
    "time first": (drawn(5, 20, 3), "swap its last two axes"),
    "too short": (drawn(3, 19), "its array is (3, 19)"),
    "no example": (drawn(0, 3, 20), "holds no examples"),
    "not finite": (
        np.where(np.arange(20) == 4, np.inf, drawn(5, 3, 20)),
        "5 of its 5 examples have values that are not finite",
    ),
    "complex": (drawn(5, 3, 20) * 1j, "of type complex128"),
    "words": (np.full((5, 3, 20), "a"), "of type <U1"),
    "objects": (np.full((5, 3, 20), None), "holds Python objects"),
    "one alone": (drawn(3, 20), "a single example"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_array_that_does_not_fit_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    values, told = WRONG[case]
    np.save(tmp_path / "a.npy", values)
    assert told in message(of(tmp_path / "a.npy", [3, 20]), tmp_path)


def test_what_is_no_array_or_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "holds no .npy or .npz file" in message(of(tmp_path, [4]), tmp_path)
    (tmp_path / "a.npy").write_text("this is text")
    assert str(tmp_path / "a.npy") in message(of(tmp_path / "a.npy", [4]), tmp_path)
    np.savez(tmp_path / "b.npz", x=drawn(5, 4), y=drawn(5, 4))
    assert "its arrays are x, y" in message(of(tmp_path / "b.npz", [4]), tmp_path)
    np.savez(tmp_path / "c.npz", x=drawn(5, 4), labels=np.arange(4))
    assert "its labels are int64 of shape (4,)" in message(of(tmp_path / "c.npz", [4]), tmp_path)
    assert "3 of 3 files do not fit" in message(of(tmp_path, [4, 9]), tmp_path)
    np.save(tmp_path / "d.npy", drawn(50, 4))
    monkeypatch.setattr(arrays, "HELD_AT_MOST", 799)
    assert "holds 800 bytes of examples; at most 799" in message(of(tmp_path / "d.npy", [4]), tmp_path)


# ── drawing ──────────────────────────────────────────────────────────────────────────────────────


def test_how_data_are_shown_depends_on_their_axes() -> None:
    forms = {
        ("points", (2,)): "points",
        ("points", (16,)): "lines",
        ("signals", (1, 1000)): "lines",
        ("image", (5, 8, 8)): "pictures",
        ("image", (3, 8)): "lines",
        ("voxels", (1, 4, 4, 4)): "pictures",
        ("voxels", (2, 4, 4, 4)): "nothing",
        ("image", (1, 4, 4, 4)): "nothing",
    }
    assert {key: form(DataSpec(*key)) for key in forms} == forms  # type: ignore[arg-type]
    with pytest.raises(Exception, match=r"image data of shape \(1, 4, 4, 4\) cannot be drawn"):
        require_drawn(DataSpec("image", (1, 4, 4, 4)))
    assert pictures(DataSpec("image", (5, 8, 8)), torch.zeros(2, 5, 8, 8)).shape == (2, 1, 8, 40)


def test_a_line_is_at_the_height_of_its_values_on_the_scale_that_is_shared() -> None:
    low, high = torch.zeros(1, 1, 50), torch.ones(1, 1, 50)
    scale = lines.span_of(low, high)
    places = []
    for one in (low, high):
        ink = lines.render_signal(one, scale=scale)[0, 0, 4:-4, 8:-8] < 0.8
        (rows,) = ink.any(1).nonzero().T
        places.append(rows.float().mean().item() + 4)
    assert places[0] == pytest.approx(96 * (1 - 0.08 / 1.16), abs=1.5)
    assert places[1] == pytest.approx(96 * 0.08 / 1.16, abs=1.5)


def test_a_peak_in_a_long_signal_is_seen() -> None:
    signal = torch.zeros(1, 1, 100_000)
    signal[0, 0, 50_001] = 1
    ink = lines.render_signal(signal, scale=lines.span_of(signal))[0, 0, 8:40, 4:-4] < 0.8
    assert ink.any()
    odd = torch.tensor([[[torch.nan, 1.0, torch.inf]], [[0.0, 0.0, 0.0]]])
    assert lines.render_signal(odd, scale=lines.span_of(odd)).isfinite().all()
    assert lines.render_signal(torch.zeros(1, 40, 1), scale=lines.span_of(torch.zeros(1, 40, 1))).shape == (
        1,
        3,
        512,
        160,
    )


# ── a run ────────────────────────────────────────────────────────────────────────────────────────


def test_signals_are_trained_on_measured_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQTK_DATA", str(tmp_path))
    Path("waves").mkdir()
    np.save("waves/a.npy", drawn(40, 3, 20))
    Path("signals.yaml").write_text(SIGNALS)
    assert vqtk_main(monkeypatch, "run", "signals.yaml", "--device", "cpu") == 0
    (run,) = Path("runs/signals").iterdir()
    assert {path.name.partition("_")[0] for path in (run / "images").iterdir()} == {
        "samples", "reconstructions", "stages", "proposals",
    }  # fmt: skip
    assert json.loads((run / "manifest.json").read_text())["shown_as"] == "lines"
    for command in ("sample", "reconstruct", "stages", "proposals", "tree", "eval", "report"):
        assert vqtk_main(monkeypatch, command, str(run)) == 0, command
    assert "MSE" in capsys.readouterr().out
    assert "with its reconstruction below it (blue), over the example (grey)" in (run / "report.html").read_text(
        "utf-8"
    )


PLUGIN = """
import torch
from pathlib import Path
from vqtk.datasets._base import Dataset, Splits
from vqtk.datasets._split import Held
from vqtk.nn.types import DataSpec
from vqtk.registry import datasets

@datasets.register("films")
class Films(Dataset):
    spec = DataSpec("image", (1, 4, 4, 4), mean=0.5, std=0.5)

    def load(self, root: Path) -> Splits:
        films = torch.randint(256, (20, 1, 4, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
        return Splits(Held(films[:10]), Held(films[10:]), source="drawn")
"""


def test_data_that_cannot_be_drawn_are_trained_on_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("films.py").write_text(PLUGIN)
    recipe = SIGNALS.replace("{name: arrays, path: waves, shape: [3, 20], batch: 4}", "{name: films, batch: 4}")
    Path("films.yaml").write_text("plugins: [films.py]" + recipe)
    assert vqtk_main(monkeypatch, "run", "films.yaml", "--device", "cpu", "--out", "runs", "train.updates=4") == 0
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("No images: image data of shape (1, 4, 4, 4) cannot be drawn") == 1
    (run,) = Path("runs/signals").iterdir()
    assert not list(run.glob("images/*"))
    assert vqtk_main(monkeypatch, "sample", str(run)) == 2
    assert "cannot be drawn" in capsys.readouterr().err


def test_a_picture_that_fails_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.test_looking import built
    from tests.test_looking import items as examples
    from vqtk.render import pictures as sheets

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(sheets, "pairs", fail)
    notes = sheets.write_all(built("image")[0], examples("image"), tmp_path, 3)
    assert notes == ["No image of reconstructions: MemoryError"]
    assert len(list(tmp_path.iterdir())) == 3
