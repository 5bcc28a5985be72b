"""The digits: the full set where it is, otherwise those that ship with vqtk; and damaged files said to be so."""

from __future__ import annotations

import shutil
import struct
from inspect import signature
from pathlib import Path

import pytest
import torch

from tests.contracts import built_in
from tests.parity import shared
from tests.tiny import experiment, offline, shipped
from vqtk.datasets._base import Splits, data_root
from vqtk.datasets._split import Held
from vqtk.datasets.mnist import MNIST
from vqtk.errors import DataError, VqtkError
from vqtk.nn.types import DataSpec
from vqtk.registry import datasets

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def write_idx(root: Path, items: int = 30) -> Path:
    """Write a whole MNIST of so few digits below a root, and return the folder of its four files."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        shape = (items, 28, 28) if "images" in name else (items,)
        content = torch.arange(items).repeat_interleave(784 if "images" in name else 1) % 10
        header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
        (raw / name).write_bytes(header + bytes(content.tolist()))
    return raw


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return shipped(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("below", ["", "MNIST", "MNIST/raw"])
def test_the_full_set_is_read_from_any_folder_around_its_files(below: str) -> None:
    shared("data", "MNIST", "raw")
    splits = MNIST().load(shared("data", *filter(None, below.split("/"))))
    assert splits.note is None
    for split, items in ((splits.train, 60_000), (splits.test, 10_000)):
        assert split.items.shape == (items, 1, 28, 28)
        assert split.items.dtype == torch.uint8
        assert split.labels is not None
        assert split.labels.bincount(minlength=10).min() > 0.08 * items
    values = MNIST().spec.normalise(splits.train.items)
    assert values.mean().item() == pytest.approx(0, abs=1e-3)
    assert values.std().item() == pytest.approx(1, abs=1e-3)


def test_the_shipped_digits_are_of_both_parts_of_mnist_all_classes_of_each(digits: Splits) -> None:
    assert digits.train.items.shape == (4500, 1, 28, 28)
    assert digits.test.items.shape == (1000, 1, 28, 28)
    assert digits.train.items.dtype == digits.test.items.dtype == torch.uint8
    assert digits.train.labels is not None
    assert digits.test.labels is not None
    assert digits.train.labels.bincount(minlength=10).tolist() == [450] * 10
    assert digits.test.labels.bincount(minlength=10).min() >= 90
    everything = torch.cat([digits.train.items, digits.test.items]).flatten(1)
    assert len(everything.unique(dim=0)) == 5500
    assert everything.float().mean().item() / 255 == pytest.approx(0.1307, abs=0.005)


def test_no_shipped_digit_to_test_on_is_one_that_mnist_trains_on(digits: Splits) -> None:
    full = MNIST().load(shared("data", "MNIST", "raw"))
    learned = {item.numpy().tobytes() for item in full.train.items}
    assert {item.numpy().tobytes() for item in digits.train.items} <= learned
    assert not {item.numpy().tobytes() for item in digits.test.items} & learned
    assert torch.equal(digits.test.items, full.test.items[9::10])
    assert full.test.labels is not None
    assert torch.equal(digits.test.labels, full.test.labels[9::10])


def test_the_note_says_what_is_used_instead_and_what_to_do(digits: Splits, tmp_path: Path) -> None:
    assert digits.note
    parts = ("4,500", "training digits", "1,000", "test digits", "could not be downloaded", "VQTK_DATA", "--data-dir")
    for part in parts:
        assert part in digits.note
    with pytest.MonkeyPatch.context() as patch:
        offline(patch, tmp_path)
        given = experiment(tmp_path, None)  # type: ignore[arg-type]
    assert [line for line in given.callbacks[0].lines if "4,500" in line]


def test_reading_the_shipped_digits_leaves_nothing_that_looks_like_data(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        offline(patch, tmp_path)
        first, again = (MNIST().load(data_root()) for _ in range(2))
    assert first.fingerprint() == again.fingerprint()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [0, 7, 25, 0.5], ids=["empty", "in the header", "few", "half"])
def test_a_truncated_file_is_an_error_that_names_the_folder(name: str, left: float, tmp_path: Path) -> None:
    raw = write_idx(tmp_path)
    assert len(MNIST().load(tmp_path).train) == 30
    content = (raw / name).read_bytes()
    (raw / name).write_bytes(content[: int(left if left >= 1 else left * len(content))])
    with pytest.raises(DataError) as raised:
        MNIST().load(tmp_path)
    assert str(raw) in str(raised.value)
    assert ("train files" if name.startswith("train") else "t10k files") in str(raised.value)


@pytest.mark.parametrize("name", FILES[1:])
def test_an_absent_file_is_an_error_that_names_the_folder(name: str, tmp_path: Path) -> None:
    raw = write_idx(tmp_path)
    (raw / name).unlink()
    with pytest.raises(DataError) as raised:
        MNIST().load(tmp_path)
    assert str(raw) in str(raised.value)


def test_labels_of_another_set_are_refused(tmp_path: Path) -> None:
    raw, other = write_idx(tmp_path / "one"), write_idx(tmp_path / "other", items=20)
    shutil.copy(other / FILES[1], raw / FILES[1])
    with pytest.raises(DataError, match="30, 28, 28"):
        MNIST().load(tmp_path / "one")


@pytest.mark.parametrize("spec", [MNIST().spec, DataSpec("image", (3, 4, 4), mean=0.5, std=0.5)])
def test_pixels_undo_normalise(spec: DataSpec) -> None:
    raw = torch.arange(256, dtype=torch.uint8).expand(2, *spec.shape[:-2], 1, 256)
    values = spec.normalise(raw, torch.float64)
    torch.testing.assert_close(values, (raw.double() / 255 - spec.mean) / spec.std, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(spec.pixels(values), raw.double() / 255, rtol=0, atol=1e-12)
    assert torch.equal((spec.pixels(spec.normalise(raw)) * 255).round().to(torch.uint8), raw)
    assert raw.max() == 255
    assert spec.pixels(values + 9).max() == 1
    assert spec.pixels(values - 9).min() == 0


def test_normalising_keeps_tokens_and_voxels_as_they_are() -> None:
    tokens = torch.tensor([[0, 4, 2]], dtype=torch.uint8)
    assert torch.equal(DataSpec("text", (3,), classes=5).normalise(tokens), tokens.long())
    voxels = torch.tensor([[[[[0, 1]]]]], dtype=torch.uint8)
    assert torch.equal(DataSpec("voxels", (1, 1, 1, 2)).normalise(voxels), voxels.float())


def test_a_fingerprint_is_that_of_the_items_alone(digits: Splits) -> None:
    known = digits.fingerprint()
    assert known["train_items"] == 4500
    assert known["test_items"] == 1000
    assert known["sha256"] == "584f99b5641080683b960a6d0c8c2e8b6270b37bad6d2954cae76a0947d7efa7"
    copy = Splits(Held(digits.train.items.clone()), Held(digits.test.items.clone()), "elsewhere")
    assert copy.fingerprint()["sha256"] == known["sha256"]
    copy.test.items[3, 0, 5, 5] ^= 1
    assert copy.fingerprint()["sha256"] != known["sha256"]


ALWAYS_THERE = ("dataset mnist", "dataset toy2d")


@pytest.mark.parametrize("which", [which for which in built_in("dataset") if which not in ALWAYS_THERE])
def test_a_data_set_that_is_absent_says_where_it_looked(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, tmp_path)
    entry = datasets.get(which.split()[1])
    component, settings = entry.component, {**entry.example}
    if any("path" in signature(one).parameters for one in component.__mro__):  # A data set may extend another.
        settings["path"] = "absent"
    with pytest.raises(DataError) as told:
        component(**settings).load(tmp_path)
    assert str(tmp_path) in str(told.value)
    assert "\n" not in str(told.value)


def test_a_folder_that_was_asked_for_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch, tmp_path)
    assert data_root() == tmp_path / ".cache" / "vqtk" / "data"
    assert data_root(tmp_path) == tmp_path
    monkeypatch.setenv("VQTK_DATA", str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"VQTK_DATA is .*absent"):
        data_root()
    with pytest.raises(DataError, match=r"--data-dir is .*gone"):
        data_root(tmp_path / "gone")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_floating_point_pixels_are_refused_for_their_unit_is_unknown(dtype: torch.dtype) -> None:
    """White as 1.0 was taken for 1 of 255, and became -0.41; and the argument was written into."""
    white = torch.ones(2, 1, 28, 28, dtype=dtype)
    with pytest.raises(VqtkError, match=r"expected whole numbers from 0 to 255 .*\(pixels - 0\.1307\) / 0\.3081"):
        MNIST().spec.normalise(white)
    assert torch.equal(white, torch.ones_like(white))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_whole_pixels_of_any_type_mean_the_same_and_stay(dtype: torch.dtype) -> None:
    pixels = torch.arange(256).reshape(1, 1, 16, 16).to(dtype)
    values = DataSpec("image", (1, 16, 16), mean=0.5, std=0.25).normalise(pixels)
    torch.testing.assert_close(values.flatten(), (torch.arange(256) / 255 - 0.5) / 0.25)
    assert torch.equal(pixels.flatten().long(), torch.arange(256))
