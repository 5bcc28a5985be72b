"""Folders of very many files: their listing, its index, and what is refused; voxels that are read from disk."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.images import write_images
from tests.running import vqtk_main
from vqtk.datasets import _base, _images, _index, batches_of, voxels
from vqtk.datasets._index import index_path, indexed, write_columns
from vqtk.datasets._listing import Columns, Listing, listed
from vqtk.datasets.image_folder import ImageFolder
from vqtk.datasets.voxels import Voxels
from vqtk.errors import DataError

NAMES = [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(12)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images that is large enough to have an index and to be read from disk, and has not just changed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_index, "INDEXED_FROM", 1)
    monkeypatch.setattr(_images, "HELD_AT_MOST", 0)
    return settled(write_images(tmp_path / "many", *NAMES))


def settled(folder: Path) -> Path:
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        os.utime(place, (1e9, 1e9))
    return folder


def dataset(folder: Path) -> ImageFolder:
    return ImageFolder(path=str(folder), size=6, test=0.3)


def forbidden(*_: Any, **__: Any) -> Listing:
    raise AssertionError("the folder was listed")


def test_a_listing_has_the_files_and_the_order_of_a_sorted_walk(tmp_path: Path) -> None:
    write_images(tmp_path / "real", "a/x.png", "a!/y.png", "a.png", "a-b/.z/1.png", "b/a/1.png", "b/A.png", ".c.png")
    (tmp_path / "real" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"12345")
    (tmp_path / "real" / "b" / "back").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "broken.png").symlink_to("nowhere")
    walked = [
        Path(place, name).relative_to(tmp_path / "real")
        for place, below, names in os.walk(tmp_path / "real")
        for name in names
        if name[0] != "." and "/." not in place and Path(place, name).exists()
    ]
    listing = listed(tmp_path / "real")
    assert list(listing) == sorted(walked)
    assert listing.sizes.tolist() == [(tmp_path / "real" / path).stat().st_size for path in sorted(walked)]
    assert list(listing[2:4].below(tmp_path)) == [tmp_path / path for path in sorted(walked)[2:4]]


def test_an_index_stands_for_the_listing_until_a_folder_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = dataset(folder).splits(folder)
    with monkeypatch.context() as patch:
        patch.setattr(_index, "listed", forbidden)
        again = dataset(folder).splits(folder)
        assert dataset(folder).count(folder) == 24
        assert again.labels == ("cat", "dog")
        assert again.fingerprint() == first.fingerprint()
        assert torch.equal(again.train[torch.arange(4)], first.train[torch.arange(4)])
    write_images(folder, "cat/new.png")
    assert dataset(folder).count(folder) == 25
    # A folder that has just changed may change again before its clock ticks.
    with monkeypatch.context() as patch:
        patch.setattr(_index, "listed", forbidden)
        with pytest.raises(AssertionError, match="listed"):
            dataset(folder).count(folder)


def test_the_fingerprint_is_that_of_the_names_and_sizes(folder: Path) -> None:
    splits = dataset(folder).splits(folder)
    digest = hashlib.sha256()
    for split in (splits.train, splits.test):
        for path in split.paths:  # type: ignore[attr-defined]
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    assert splits.fingerprint()["sha256"] == digest.hexdigest()


def test_a_file_that_changed_in_place_is_an_error_until_the_folder_is_listed_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vqtk_main(monkeypatch, "index", folder) == 0
    assert capsys.readouterr().out == f"{folder}: 24 images\n"
    split = dataset(folder).splits(folder).train
    changed = split.paths[3]  # type: ignore[attr-defined]
    changed.write_bytes(changed.read_bytes() + b"\0")
    with pytest.raises(DataError, match=rf"{changed} has .* in the index .*: vqtk index {folder}"):
        _ = dataset(folder).splits(folder).train[torch.tensor([3])]
    assert vqtk_main(monkeypatch, "index", folder) == 0
    assert dataset(folder).splits(folder).train[torch.tensor([3])].shape == (1, 3, 6, 6)
    changed.unlink()
    with pytest.raises(DataError, match="is gone"):
        _ = split[torch.tensor([3])]


@pytest.mark.parametrize("at", [3, 200, -1])
def test_a_damaged_index_is_replaced(at: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset(folder).count(folder)
    stored = index_path(folder, "images")
    content = bytearray(stored.read_bytes())
    content[at] ^= 0x40
    stored.write_bytes(content)
    assert dataset(folder).count(folder) == 24
    monkeypatch.setattr(_index, "listed", forbidden)
    assert dataset(folder).count(folder) == 24


HOSTILE: dict[str, Any] = {
    "a name that leaves the folder": {"names": b"..", "ends": [2]},
    "a path as a name": {"names": b"a/b", "ends": [3]},
    "an end beyond the names": {"ends": [99]},
    "ends that fall": {"names": b"abc", "ends": [3, 2], "folders": [0, 0], "sizes": [1, 1], "places": [0.1, 0.2]},
    "a folder that is not there": {"folders": [7]},
    "a folder within itself": {"parents": [-1, 1], "folder_ends": [0, 1], "folder_names": b"a", "changed": [0, 0]},
    "no folder": {"parents": [], "folder_ends": [], "changed": []},
    "columns of two lengths": {"sizes": [1, 2]},
    "a negative size": {"sizes": [-1]},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_index_is_not_used(change: dict[str, Any], folder: Path) -> None:
    values = {
        "parents": [-1], "changed": [folder.stat().st_mtime_ns], "folder_names": b"", "folder_ends": [0],
        "folders": [0], "sizes": [1], "places": [0.5], "names": b"a.png", "ends": [5], **change,
    }  # fmt: skip
    columns = {
        name: np.frombuffer(values[name], dtype=np.uint8)
        if isinstance(values[name], bytes)
        else np.array(values[name], dtype=kind)
        for name, kind in _index._TYPES.items()
    }
    write_columns(index_path(folder, "images"), columns, _index._FORMAT)
    assert len(indexed(folder, "images")) == 24


def test_a_million_files_take_little_memory(folder: Path) -> None:
    """The index is simulated: its entries name the same few files."""
    real = listed(folder).columns
    count = 1_000_000
    rows = np.arange(count) % len(real.folders)
    lengths = np.diff(real.ends, prepend=0)
    million = Columns(
        parents=real.parents, changed=real.changed, folder_names=real.folder_names, folder_ends=real.folder_ends,
        folders=real.folders[rows], sizes=real.sizes[rows], places=np.random.default_rng(0).random(count),
        names=np.resize(real.names, int(lengths[rows].sum())), ends=lengths[rows].cumsum(),
    )  # fmt: skip
    write_columns(index_path(folder, "images"), vars(million), _index._FORMAT)
    del million, rows
    tracemalloc.start()
    split = dataset(folder).splits(folder).train
    order = split.order(0)
    batch = split[order(12_345_678, 2)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(split) == pytest.approx(700_000, abs=3_000)
    assert batch.shape == (2, 3, 6, 6)
    assert peak < 100e6


def test_many_grids_are_read_from_disk_to_the_same_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(12):
        (tmp_path / "grids" / f"{i % 2}").mkdir(parents=True, exist_ok=True)
        grid = np.random.default_rng(i).integers(0, 2, (3, 3, 3))
        np.savez(tmp_path / "grids" / f"{i % 2}" / f"{i}.npz", voxels=grid)
    data = Voxels(path="grids", size=3, test=0.3)
    held, held_plan = data.splits(tmp_path), data.plan(tmp_path)
    monkeypatch.setattr(voxels, "HELD_AT_MOST", 0)
    monkeypatch.setattr(_base, "HELD_AT_MOST", 0)
    read = data.splits(tmp_path)
    assert (held_plan.split(",")[0], data.plan(tmp_path)[:14]) == ("in memory as bits", "read from disk")
    for one, other in ((held.train, read.train), (held.test, read.test)):
        every = [torch.arange(len(one))]
        (expected,), (found,) = batches_of(one, every), batches_of(other, every)
        assert torch.equal(found, expected)
        assert one.labels is not None
        assert other.labels is not None
        assert torch.equal(one.labels, other.labels)
