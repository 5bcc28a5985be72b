"""Augmented training examples and a validation split: exact on resume, and apart from the test split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.running import vqtk_main
from tests.tiny import RECIPE, experiment, few, resume, rows, shipped, train, weights
from vqtk.augmentations.affine import Affine
from vqtk.augmentations.crop import Crop
from vqtk.augmentations.flip import Flip
from vqtk.datasets import Held, Splits, Windows
from vqtk.errors import DataError, RecipeError
from vqtk.io.run_files import watched_of
from vqtk.recipe.build import build_dataset, data_missing
from vqtk.recipe.recipe import load_recipe
from vqtk.registry import datasets
from vqtk.training.batches import Batches

AUGMENT = "data.augment=[{name: crop, padding: 2}, flip]"


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 40) -> torch.Tensor:
    return torch.randint(256, (n, 3, 5, 7), generator=draws(1), dtype=torch.uint8)


# ── augmentation ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("fill", "mode"), [("reflect", "reflect"), ("edge", "edge"), ("black", "constant")])
def test_a_crop_is_a_window_of_the_padded_image(fill: str, mode: str) -> None:
    given, padding = pictures(), 3
    found = Crop(padding=padding, fill=fill)(given, draws())
    shifts = torch.randint(-padding, padding + 1, (2, len(given)), generator=draws())
    assert found.dtype == torch.uint8
    for image, one, (down, right) in zip(given.numpy(), found.numpy(), shifts.T.tolist(), strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode=mode)
        top, left = padding + down, padding + right
        np.testing.assert_array_equal(one, padded[:, top : top + 5, left : left + 7])


def test_a_flip_mirrors_about_the_asked_share() -> None:
    given = pictures(400)
    found = Flip(chance=0.25)(given, draws())
    mirrored = [torch.equal(one, image.flip(2)) for one, image in zip(found, given, strict=True)]
    kept = [torch.equal(one, image) for one, image in zip(found, given, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert sum(mirrored) == pytest.approx(100, abs=5 * (400 * 0.25 * 0.75) ** 0.5)


def test_an_affine_map_without_changes_is_the_identity() -> None:
    given = pictures()
    still = Affine(rotate=0, scale=0, shear=0, shift=0)
    assert torch.equal(still(given, draws()), given)
    assert torch.equal(Affine(chance=0)(given, draws()), given)


def test_an_affine_map_shifts_by_pixels_and_rotates_by_degrees() -> None:
    given = pictures()[:, :, :, :5]

    class Given(Affine):
        """Takes its draws from the test."""

        def maps(self, *drawn: float) -> torch.Tensor:
            return self._maps(torch.tensor(drawn)[:, None], 5, 5).expand(len(given), -1, -1)

    def moved(it: Given, *drawn: float) -> torch.Tensor:
        where = functional.affine_grid(it.maps(*drawn), list(given.shape), align_corners=False)
        return functional.grid_sample(given.float(), where, mode="nearest", align_corners=False).to(torch.uint8)

    right = moved(Given(shift=2), 0, 0, 0, 0, -1, 0)
    assert torch.equal(right[..., 2:], given[..., :-2])
    down = moved(Given(shift=2), 0, 0, 0, 0, 0, -1)
    assert torch.equal(down[..., 2:, :], given[..., :-2, :])
    assert torch.equal(moved(Given(rotate=90), 1, 0, 0, 0, 0, 0), given.rot90(1, (2, 3)))
    assert torch.equal(moved(Given(rotate=90), -1, 0, 0, 0, 0, 0), given.rot90(-1, (2, 3)))


@pytest.mark.parametrize("wrong", ["scale: 1", "shear: 90", "rotate: 181", "shift: -1"])
def test_affine_maps_that_leave_nothing_of_an_image_are_refused(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    with pytest.raises(RecipeError, match=f"data.augment.0.{wrong.partition(':')[0]}: expected a number"):
        load_recipe(tmp_path / "tiny.yaml", [f"data.augment=[{{name: affine, {wrong}}}]"])


def test_affine_maps_change_the_asked_share_and_keep_the_type() -> None:
    given = pictures(400)
    for fill in ("reflect", "edge", "black"):
        found = Affine(chance=0.25, fill=fill)(given, draws())
        assert found.dtype == torch.uint8
        changed = sum(not torch.equal(one, image) for one, image in zip(found, given, strict=True))
        assert changed == pytest.approx(100, abs=5 * (400 * 0.25 * 0.75) ** 0.5)


def test_batches_are_augmented_alike_from_any_update_on(tmp_path: Path) -> None:
    it = experiment(tmp_path, shipped(tmp_path), AUGMENT)
    plain = experiment(tmp_path, it.splits)
    data = it.splits.train
    every = Batches(it.recipe, it.trainer.model, data)
    first, second = next(every)[0], next(every)[0]
    (again,) = next(Batches(it.recipe, it.trainer.model, data, done=1))
    assert torch.equal(second, again)
    (untouched,) = next(Batches(plain.recipe, plain.trainer.model, data))
    assert not torch.equal(first, untouched)


def test_augmentations_are_for_images(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    text = load_recipe(tmp_path / "tiny.yaml", ["data={name: text, path: it.txt}", "data.augment=[flip]"])
    with pytest.raises(RecipeError, match=r"data\.augment: flip changes examples of the kind image, .* are text"):
        build_dataset(text)
    with pytest.raises(RecipeError, match=r"no augmentation is called 'flop'\. Did you mean 'flip'"):
        load_recipe(tmp_path / "tiny.yaml", ["data.augment=[flop]"])


# ── data that are missing, or too few ────────────────────────────────────────────────────────────


def test_validate_says_that_data_are_missing_and_refuses_a_validation_split_that_is_larger_than_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQTK_DATA", str(tmp_path))
    Path("tiny.yaml").write_text(RECIPE)
    photos = ["data={name: image_folder, path: photos, size: 28, colours: grey}", "data.validation=3"]
    assert vqtk_main(monkeypatch, "validate", "tiny.yaml", *photos) == 0
    nothing = f"data.path is 'photos', and nothing is at {tmp_path / 'photos'}."
    assert f"data: {nothing}" in capsys.readouterr().out
    assert vqtk_main(monkeypatch, "show", "tiny.yaml", *photos) == 0
    assert nothing in capsys.readouterr().out
    Path("photos").mkdir()
    for name in "abc":
        Path(f"photos/{name}.png").touch()
    assert vqtk_main(monkeypatch, "validate", "tiny.yaml", *photos) == 2
    out = capsys.readouterr().out
    assert "data.validation is 3, and there are 3 training and test examples in all. Hold out fewer." in out
    assert "data.path" not in out
    Path("it.txt").write_text("a" * 300)
    text = ["data={name: text, path: it.txt, length: 100}", "data.validation=3"]
    with pytest.raises(DataError, match="3 windows of 100 characters, and the text has about 300 characters"):
        data_missing(load_recipe("tiny.yaml", text))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "emnist", "svhn", "cifar10", "celeba", "wikitext2"])
def test_a_published_set_is_said_to_be_missing_before_it_is_downloaded(name: str, tmp_path: Path) -> None:
    dataset = datasets.get(name).component()
    assert " is not in " in dataset.missing(tmp_path)
    assert "the first run downloads it" in dataset.missing(tmp_path)


# ── a validation split ───────────────────────────────────────────────────────────────────────────


def test_the_validation_split_is_the_same_for_every_seed_and_takes_from_the_train_split_alone(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    whole = shipped(tmp_path)
    found = []
    for seed in (0, 1):
        dataset = build_dataset(load_recipe(tmp_path / "tiny.yaml", ["data.validation=500", f"seed={seed}"]))
        dataset.load = lambda root: whole  # type: ignore[method-assign]
        found.append(dataset.splits(tmp_path))
    splits = found[0]
    assert splits.validation is not None
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (4000, 500, 1000)
    assert found[0].fingerprint() == found[1].fingerprint()
    assert found[0].fingerprint()["sha256"] != whole.fingerprint()["sha256"]
    train, held = (split[torch.arange(len(split))].flatten(1) for split in (splits.train, splits.validation))
    known = sorted(row.numpy().tobytes() for row in whole.train[torch.arange(4500)])
    assert sorted(row.numpy().tobytes() for row in torch.cat([train, held])) == known
    assert splits.train.labels is not None
    assert whole.train.labels is not None
    assert splits.train.labels.bincount().add(splits.validation.labels.bincount()).tolist() == [450] * 10  # type: ignore[union-attr]


def test_too_large_a_validation_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    dataset = build_dataset(load_recipe(tmp_path / "tiny.yaml", ["data.validation=4500"]))
    dataset.load = lambda root: shipped(tmp_path)  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"data\.validation is 4,500, .* has 4,500 training examples"):
        dataset.splits(tmp_path)


def test_windows_of_text_held_out_do_not_overlap_those_to_train_on() -> None:
    train, held = Windows(torch.arange(100), length=10, stride=1).divided(3)
    taken = [split[torch.arange(len(split))] for split in (train, held)]
    assert taken[0].max() < taken[1].min()
    assert taken[1].flatten().tolist() == list(range(70, 100))
    with pytest.raises(DataError, match="at most 9 can be held out"):
        Windows(torch.arange(100), length=10, stride=1).divided(10)


def test_rotations_of_one_mesh_are_held_out_together() -> None:
    split = Held(torch.arange(40)[:, None])
    split.together = 4
    train, held = split.divided(7)
    meshes = [set((one[torch.arange(len(one))] // 4).flatten().tolist()) for one in (train, held)]
    assert len(held) == 8
    assert not meshes[0] & meshes[1]


def test_a_run_is_followed_on_the_validation_split_and_tested_at_the_end(tmp_path: Path) -> None:
    whole = few(shipped(tmp_path))
    train_split, validation = whole.train.divided(30)
    splits = Splits(train_split, whole.test, whole.source, whole.note, validation=validation)
    it = experiment(tmp_path, splits)
    run = train(it, tmp_path / "runs")
    measured = [row for row in rows(run) if watched_of(row)]
    assert [(row["update"], "validation" in row, "test" in row) for row in measured] == [
        (10, True, False),
        (20, True, True),
    ]
    assert [row["validation"]["of"] for row in measured] == [30, 30]
    assert measured[1]["test"]["items"] == 20
    assert run.summary()["test_items"] == 20
    assert run.manifest()["data"]["validation_items"] == 30
    lines = it.callbacks[0].lines  # type: ignore[attr-defined]
    assert "Evaluating 20 test examples …" in lines


def test_a_stopped_run_with_augmentation_and_validation_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    whole = few(shipped(tmp_path))
    train_split, validation = whole.train.divided(30)
    splits = Splits(train_split, whole.test, whole.source, whole.note, validation=validation)
    unbroken = experiment(tmp_path, splits, AUGMENT)
    expected = train(unbroken, tmp_path / "unbroken")
    stopped = train(experiment(tmp_path, splits, AUGMENT, stop_after=7), tmp_path / "stopped")
    resumed, _ = resume(stopped.path, splits)
    for name, value in weights(unbroken).items():
        assert torch.equal(weights(resumed)[name], value)
    assert rows(stopped) == rows(expected)
    plain = experiment(tmp_path, splits)
    train(plain, tmp_path / "plain")
    assert any(not torch.equal(weights(plain)[name], value) for name, value in weights(unbroken).items())


def test_the_commands_of_a_run_find_its_data_with_a_validation_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.running import TINY, without_data

    without_data(monkeypatch, tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    runs = tmp_path / "runs"
    assert vqtk_main(monkeypatch, "run", tmp_path / "tiny.yaml", "data.validation=40", AUGMENT, "--out", runs) == 0
    assert "validation after 4, a fixed 16 of 40 examples" in capsys.readouterr().out
    (run,) = (runs / "tiny").iterdir()
    assert vqtk_main(monkeypatch, "eval", run, "--items", "8", "--device", "cpu") == 0
    assert "warning" not in capsys.readouterr().err
