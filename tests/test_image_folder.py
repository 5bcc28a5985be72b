"""Folders of images: how they are divided, labelled and decoded; damaged ones skipped, or refused if they are many."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.images import items, message, write_celeba, write_images
from vqtk.datasets import _images
from vqtk.datasets._base import Splits
from vqtk.datasets._layout import held_out
from vqtk.datasets._listing import listing_of
from vqtk.datasets._pixels import read_image
from vqtk.datasets._split import Files
from vqtk.datasets.celeba import CelebA
from vqtk.datasets.image_folder import ImageFolder
from vqtk.errors import DataError


def folder(path: Path | str, **settings: Any) -> ImageFolder:
    return ImageFolder(path=str(path), **{"size": 6, "test": 0.3, **settings})


NAMES = [f"{kind}/{deeper}{i}.png" for kind in ("cat", "dog") for deeper in ("", "more/") for i in range(10)]


def split_names(splits: Splits, folder: Path) -> tuple[set[str], set[str]]:
    """The names of the files in each split, known by their pixels."""
    known = {
        read_image(path, size=6).numpy().tobytes(): str(path.relative_to(folder)) for path in folder.rglob("*.png")
    }
    train, test = ({known[item.numpy().tobytes()] for item in split} for split in items(splits))
    return train, test


def test_adding_files_to_a_folder_moves_none_between_train_and_test(tmp_path: Path) -> None:
    write_images(tmp_path, *NAMES[:25])
    before = split_names(folder(tmp_path).load(tmp_path), tmp_path)
    write_images(tmp_path, *NAMES)
    after = split_names(folder(tmp_path).load(tmp_path), tmp_path)
    assert before[0] < after[0]
    assert before[1] <= after[1]
    assert len(after[0]) + len(after[1]) == folder(tmp_path).count(tmp_path) == 40
    assert 5 <= len(after[1]) <= 19


def test_the_fraction_held_out_is_near_the_one_asked_for() -> None:
    files = [Path(f"{i}.png") for i in range(4000)]
    train, test = held_out(listing_of(files), 0.1)
    assert len(test) == pytest.approx(400, abs=5 * (4000 * 0.1 * 0.9) ** 0.5)
    assert sorted([*train, *test]) == sorted(files)


def test_labels_are_the_sub_folders_if_all_images_lie_in_some(tmp_path: Path) -> None:
    write_images(tmp_path, *NAMES)
    splits = folder(tmp_path).load(tmp_path)
    for split, names in zip((splits.train, splits.test), split_names(splits, tmp_path), strict=True):
        assert split.labels is not None
        assert split.labels.sum() == sum(name.startswith("dog") for name in names)
        assert split.labels.unique().tolist() == [0, 1]
    assert splits.note is None
    write_images(tmp_path, "beside.png")
    assert folder(tmp_path).load(tmp_path).train.labels is None
    assert folder(tmp_path / "cat").load(tmp_path).train.labels is None


def test_sub_folders_train_and_test_are_the_splits(tmp_path: Path) -> None:
    write_images(tmp_path, "train/cat/1.png", "train/cat/2.png", "train/dog/3.png", "test/dog/4.png", "odd/5.png")
    dataset = folder(tmp_path)
    splits = dataset.load(tmp_path)
    assert (len(splits.train), len(splits.test)) == (3, 1)
    assert splits.train.labels is not None
    assert splits.test.labels is not None
    assert splits.train.labels.tolist() == [0, 0, 1]
    assert splits.test.labels.tolist() == [1]
    assert "train on `train`, test on `test`" in str(splits.note)
    assert "Left out: 1 file in neither, such as odd/5.png" in str(splits.note)
    assert dataset.count(tmp_path) == 4


def test_a_folder_is_looked_up_in_the_data_root_and_then_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "root").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    text = message(folder("mine"), tmp_path / "root")
    assert str(tmp_path / "root" / "mine") in text
    assert str(tmp_path / "here" / "mine") in text
    assert folder("mine").count(tmp_path / "root") is None
    for place in ("here", "root"):
        write_images(tmp_path / place / "mine", *NAMES[:10])
        assert folder("mine").load(tmp_path / "root").source == str(tmp_path / place / "mine")
    (tmp_path / "file.png").touch()
    assert "is a file" in message(folder(tmp_path / "file.png"), tmp_path)


def test_links_are_followed_once_and_hidden_files_passed_over(tmp_path: Path) -> None:
    write_images(tmp_path / "real", *NAMES[:10])
    write_images(tmp_path / "linked", ".hidden/1.png", "._1.png", "0.png")
    (tmp_path / "linked" / "there").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "linked")
    assert folder(tmp_path / "linked").count(tmp_path) == 11


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "bmp", "gif", "tif", "tiff", "webp"])
@pytest.mark.parametrize("colours", ["rgb", "grey"])
def test_every_format_is_read(suffix: str, colours: str, tmp_path: Path) -> None:
    path = tmp_path / f"it.{suffix}"
    Image.new("RGB", (8, 5), (40, 80, 120)).save(path)
    item = read_image(path, size=4, colours=colours)
    value = torch.tensor([40, 80, 120] if colours == "rgb" else [0.299 * 40 + 0.587 * 80 + 0.114 * 120])
    assert item.shape == (len(value), 4, 4)
    assert (item.float() - value[:, None, None]).abs().max() <= 3


def test_the_centre_is_cut_out_and_the_whole_squeezed(tmp_path: Path) -> None:
    pixels = np.zeros((10, 40, 3), np.uint8)
    pixels[:, 15:25] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (read_image(tmp_path / "wide.png", size=10) == 200).all()
    squeezed = read_image(tmp_path / "wide.png", size=8, crop="none").float()
    assert squeezed.shape == (3, 8, 8)
    assert squeezed.mean().item() == pytest.approx(50, abs=2)


def test_deep_transparent_and_turned_images_look_as_they_should(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 128 * 256, np.uint16)).save(tmp_path / "deep.png")
    assert (read_image(tmp_path / "deep.png", size=4) == 128).all()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png", size=4) == 255).all()
    half = np.zeros((4, 4, 3), np.uint8)
    half[:2] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(half).save(tmp_path / "turned.png", exif=exif)
    assert (read_image(tmp_path / "turned.png", size=4)[:, 2:] == 255).all()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match="floating-point"):
        read_image(tmp_path / "float.tif", size=4)


@pytest.mark.parametrize("damage", [b"", b"this is text", 0.5], ids=["empty", "text", "half"])
def test_one_damaged_image_is_skipped_and_named(damage: bytes | float, tmp_path: Path) -> None:
    write_images(tmp_path, *NAMES)
    whole = folder(tmp_path).load(tmp_path)
    path = tmp_path / "cat" / "3.png"
    path.write_bytes(damage if isinstance(damage, bytes) else path.read_bytes()[: path.stat().st_size // 2])
    splits = folder(tmp_path).load(tmp_path)
    assert str(splits.note).startswith(f"1 image skipped: {path} cannot be read as an image")
    assert splits.train.skipped + splits.test.skipped == [str(path)]
    assert len(splits.train) + len(splits.test) == 39
    assert splits.fingerprint()["skipped"]["count"] == 1
    for before, after in zip((whole.train, whole.test), (splits.train, splits.test), strict=True):
        assert before.labels is not None
        assert after.labels is not None
        assert len(after.labels) == len(after)
        assert before.labels.sum() == after.labels.sum()


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("damaged", [6, 40])
def test_many_damaged_images_are_refused(
    damaged: int, held: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_images, "HELD_AT_MOST", 1 << 20 if held else 0)
    write_images(tmp_path, *NAMES)
    for name in NAMES[:damaged]:
        (tmp_path / name).write_text("this is text")
    text = message(folder(tmp_path), tmp_path)
    assert f"{damaged} of 40 images" in text
    assert str(tmp_path / "cat") in text


def test_a_split_of_damaged_images_alone_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "train", *NAMES)
    write_images(tmp_path / "test", "1.png")
    (tmp_path / "test" / "1.png").write_text("this is text")
    assert str(tmp_path / "test" / "1.png") in message(folder(tmp_path), tmp_path)


def test_an_empty_folder_and_one_too_small_to_divide_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    text = message(folder(tmp_path), tmp_path)
    assert f"{tmp_path} holds no images" in text
    assert ".webp" in text
    write_images(tmp_path, "only.png")
    assert "data.test" in message(folder(tmp_path), tmp_path)


@pytest.mark.parametrize("name", ["folder", "celeba"])
def test_images_beyond_memory_are_read_from_their_files_to_the_same_items(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = folder(tmp_path) if name == "folder" else CelebA(size=6)
    if name == "folder":
        write_images(tmp_path, *NAMES)
    else:
        (write_celeba(tmp_path) / "img_align_celeba" / "000004.png").unlink()
    held = dataset.load(tmp_path)
    monkeypatch.setattr(_images, "HELD_AT_MOST", (dataset.count(tmp_path) or 0) * dataset.bytes_per_item - 500)
    read = dataset.load(tmp_path)
    assert isinstance(read.train, Files)
    for one, other in ((held.train, read.train), (held.test, read.test)):
        assert torch.equal(one[torch.arange(len(one))], other[torch.arange(len(other))])
        assert one.skipped == other.skipped
        assert (one.labels is None) == (other.labels is None) == (name == "celeba")
        assert one.labels is None or torch.equal(one.labels, other.labels)
    assert read.note == held.note
    assert read.fingerprint() == dataset.load(tmp_path).fingerprint()
    pickle.loads(pickle.dumps(read.train))
