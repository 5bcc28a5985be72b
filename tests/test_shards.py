"""Shards: what is packed, read in blocks and resumed; and tar files that are damaged or claim too much."""

from __future__ import annotations

import io
import multiprocessing
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.images import message, write_images
from tests.running import vqtk_main
from vqtk.datasets import Split, _shards, pack_images
from vqtk.datasets._index import write_columns
from vqtk.datasets._order import BlockOrder
from vqtk.datasets._shards import read_shard
from vqtk.datasets.image_folder import ImageFolder
from vqtk.datasets.shards import Shards
from vqtk.errors import DataError
from vqtk.training.batches import Batches

NAMES = [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(20)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_images(tmp_path / "images", *NAMES)


def shards(folder: Path, **settings: Any) -> Shards:
    return Shards(path=str(folder), **{"size": 6, "test": 0.3, "block": 4, **settings})


def examples(split: Split) -> list[tuple[bytes, int]]:
    assert split.labels is not None
    every = split[torch.arange(len(split))]
    return sorted((one.numpy().tobytes(), int(label)) for one, label in zip(every, split.labels, strict=True))


def write_tar(path: Path, *members: tuple[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def test_a_packed_folder_has_the_examples_of_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vqtk_main(monkeypatch, "pack", folder, "-o", tmp_path / "packed", "--test", 0.3) == 0
    assert "images in 2 shards" in capsys.readouterr().out
    whole = ImageFolder(path=str(folder), size=6, test=0.3).splits(tmp_path)
    packed = shards(tmp_path / "packed").splits(tmp_path)
    assert packed.labels == whole.labels == ("cat", "dog")
    assert examples(packed.train) == examples(whole.train)
    assert examples(packed.test) == examples(whole.test)
    assert shards(tmp_path / "packed").count(tmp_path) == 40
    assert vqtk_main(monkeypatch, "pack", folder, "-o", tmp_path / "packed") == 2
    assert "exists" in capsys.readouterr().err


def test_shards_are_tar_files_of_pairs_of_the_files_themselves(folder: Path, tmp_path: Path) -> None:
    packed = pack_images(folder, tmp_path / "packed", share=0.3, shard_bytes=6_000)
    paths = sorted((tmp_path / "packed").glob("*.tar"))
    assert len(paths) == packed.shards > 4
    assert all(path.stat().st_size <= 6_000 + 10_240 for path in paths)
    found = []
    for path in paths:
        with tarfile.open(path) as tar:
            names = tar.getnames()
            assert [name.partition(".")[2] for name in names] == ["png", "cls"] * (len(names) // 2)
            assert [name[:9] for name in names[::2]] == [name[:9] for name in names[1::2]]
            contents = [tar.extractfile(name).read() for name in names]  # type: ignore[union-attr]
            found += list(zip(contents[::2], map(int, contents[1::2]), strict=True))
    assert sorted(found) == sorted(((folder / name).read_bytes(), int(name[0] == "d")) for name in NAMES)


def test_shards_of_other_writers_are_read_and_a_part_of_them_held_out(folder: Path, tmp_path: Path) -> None:
    pictures = [(folder / name).read_bytes() for name in NAMES]
    for part in range(2):
        members = [
            (f"{'deep/' * 30}{i}.{kind}", content)
            for i, picture in enumerate(pictures[part::2])
            for kind, content in (("cls", b"%d\n" % part), ("json", b"{}"), ("jpg", picture), ("seg.png", b"-"))
        ]
        write_tar(tmp_path / "wds" / f"{part:05d}.tar", *members)
    splits = shards(tmp_path / "wds").splits(tmp_path)
    whole = ImageFolder(path=str(folder), size=6).splits(tmp_path)
    images = [one for one, _ in examples(splits.train) + examples(splits.test)]
    assert sorted(images) == sorted(one for one, _ in examples(whole.train) + examples(whole.test))
    assert splits.train.labels is not None
    assert 4 < len(splits.test) < 20
    assert splits.fingerprint() == shards(tmp_path / "wds").splits(tmp_path).fingerprint()


@pytest.mark.parametrize(("kind", "workers"), [("shards", 0), ("shards", 1), ("shards", 3), ("image_folder", 3)])
def test_batches_do_not_depend_on_the_workers_or_on_where_a_run_resumes(
    kind: str, workers: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqtk.datasets._images.HELD_AT_MOST", 0)
    data: ImageFolder = ImageFolder(path=str(folder), size=6)
    if kind == "shards":
        pack_images(folder, tmp_path / "packed", share=0.3, shard_bytes=8_000)
        data = shards(tmp_path / "packed", block=2)
    split = data.splits(tmp_path).train
    recipe: Any = SimpleNamespace(batch=4, examples_per_update=8, seed=3, augmentations=list)
    model: Any = SimpleNamespace(device=torch.device("cpu"), data=data.spec)
    order = split.order(3)
    split.workers = workers
    with closing(Batches(recipe, model, split, done=4)) as batches:
        for update in range(4, 9):
            expected = data.spec.normalise(split[order(8 * update, 8)])
            assert torch.equal(torch.cat(next(batches)), expected)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("items", "block"), [(1000, 4), (1001, 4), (7, 4), (130, 1), (3, 100)])
def test_blocks_come_in_random_order_and_are_mixed_by_the_window(items: int, block: int) -> None:
    order = BlockOrder(items, 1, block=block)
    epochs = [order(start, items) for start in (0, items)]
    assert all(sorted(epoch.tolist()) == list(range(items)) for epoch in epochs)
    assert items < 8 or not torch.equal(*epochs)
    windows = epochs[0].split(order.MIXED * block) if items % block == 0 else ()
    assert all(len(set((window // block).tolist())) <= order.MIXED for window in windows)
    pieces = [BlockOrder(items, 1, block=block)(start, 3) for start in range(0, 2 * items, 3)]
    assert torch.equal(torch.cat(pieces)[: 2 * items], torch.cat(epochs))


PNG = ("1.png", b"x" * 700)
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut within a file": (lambda path: path.write_bytes(write_tar(path, PNG).read_bytes()[:1000]), "cut|end of data"),
    "cut after a file": (lambda path: path.write_bytes(write_tar(path, PNG).read_bytes()[:1536]), "cut off"),
    "cut within a header": (lambda path: path.write_bytes(write_tar(path, PNG, PNG).read_bytes()[:1600]), "cut off"),
    "text after it": (lambda path: path.write_bytes(write_tar(path, PNG).read_bytes()[:1536] + b"?" * 999), "damaged"),
    "compressed": (lambda path: tarfile.open(path, "w:gz").close(), "tar file"),
    "two images": (lambda path: write_tar(path, PNG, ("1.jpg", b"")), "second image"),
    "a word as a label": (lambda path: write_tar(path, PNG, ("1.cls", b"cat")), "whole number"),
    "a long extension": (lambda path: write_tar(path, (f"{'x' * (1 << 20)}.png", b"")), "at most"),
    "no images": (lambda path: write_tar(path, ("1.txt", b"")), "hold no images"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "expected"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shard_is_refused_with_the_reason(
    damage: Callable[[Path], object], expected: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "odd").mkdir()
    damage(tmp_path / "odd" / "one.tar")
    text = message(shards(tmp_path / "odd"), tmp_path)
    assert "one.tar" in text
    assert any(part in text for part in expected.split("|"))


def test_an_index_that_points_beyond_its_shard_is_not_used(folder: Path, tmp_path: Path) -> None:
    pack_images(folder, tmp_path / "packed", share=0.3, shard_bytes=1 << 20)
    path = tmp_path / "packed" / "test-000000.tar"
    shard, found = read_shard(path), path.stat()
    hostile = {
        "file": np.array([found.st_size, found.st_mtime_ns]), "offsets": np.array([found.st_size - 3]),
        "sizes": np.array([4]), "labels": np.array([0]),
    }  # fmt: skip
    stored = _shards._index_of(path)
    assert stored is not None
    write_columns(stored, hostile, _shards._FORMAT)
    assert np.array_equal(read_shard(path).offsets, shard.offsets)


def test_a_damaged_image_is_skipped_and_a_changed_or_missing_shard_is_an_error(folder: Path, tmp_path: Path) -> None:
    (folder / NAMES[0]).write_bytes(b"not an image")
    pack_images(folder, tmp_path / "packed", share=0.3, shard_bytes=1 << 20)
    split = shards(tmp_path / "packed").splits(tmp_path)
    for part in (split.train, split.test):
        assert part[torch.arange(len(part))].shape == (len(part), 3, 6, 6)
    (name,) = split.train.skipped + split.test.skipped
    assert name.startswith(str(tmp_path / "packed"))
    path = tmp_path / "packed" / "train-000000.tar"
    content = path.read_bytes()
    path.write_bytes(content + bytes(512))
    with pytest.raises(DataError, match="has changed"):
        _ = split.train[torch.tensor([0])]
    path.unlink()
    with pytest.raises(DataError, match="is gone"):
        _ = split.train[torch.tensor([0])]
