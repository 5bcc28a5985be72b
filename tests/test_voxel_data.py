"""Voxel grids: one's own, and those made from meshes; damaged files skipped if few, and said to be so if many."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity import shared
from tests.tiny import offline
from vqtk.datasets import _meshes
from vqtk.datasets._base import Dataset
from vqtk.datasets._meshes import read_off, rotation, solid
from vqtk.datasets._surface import surface_voxels
from vqtk.datasets.modelnet import ModelNet
from vqtk.datasets.voxels import Voxels
from vqtk.errors import DataError

CORNERS = np.array(list(product((0.0, 1.0), repeat=3)))
SIDES = {"left": (0, 1, 3, 2), "right": (4, 6, 7, 5), "front": (0, 4, 5, 1), "back": (2, 3, 7, 6)}
ENDS = {"floor": (0, 2, 6, 4), "lid": (1, 5, 7, 3)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vqtk" / "voxels"


def box(*size: float, without: str = "") -> np.ndarray:
    """The triangles of a box, or of one without a side; every second one is wound the wrong way."""
    quads = [quad for name, quad in {**SIDES, **ENDS}.items() if name != without]
    faces = [face for a, b, c, d in quads for face in ((a, b, c), (a, d, c))]
    return (CORNERS * np.array(size))[np.array(faces)]


def off(triangles: np.ndarray, header: str = "OFF\n") -> str:
    corners = triangles.reshape(-1, 3)
    lines = [" ".join(map(str, corner)) for corner in corners.tolist()]
    faces = [f"3 {i} {i + 1} {i + 2}" for i in range(0, len(corners), 3)]
    return "\n".join([f"{header}{len(corners)} {len(faces)} 0", *lines, *faces, ""])


def write_off(path: Path, triangles: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(off(triangles))
    return path


def write_grid(path: Path, voxels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, voxels=voxels)
    return path


def failure(dataset: Dataset, root: Path) -> str:
    with pytest.raises(DataError) as raised:
        dataset.load(root)
    return str(raised.value)


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


@pytest.mark.parametrize("seed", range(3))
def test_the_surfaces_voxels_are_those_that_a_clipped_triangle_reaches(seed: int) -> None:
    size = 6
    triangle = drawn(seed, 3, 3) * size
    expected = np.zeros((size,) * 3, dtype=bool)
    for voxel in product(range(size), repeat=3):
        expected[voxel] = _clipped(triangle, np.array(voxel))
    assert np.array_equal(surface_voxels(triangle[None], size), expected)
    assert 3 < expected.sum() < size**3 / 2


def _clipped(polygon: np.ndarray, voxel: np.ndarray) -> bool:
    """Whether anything is left of a polygon after cutting it with the six planes of a voxel."""
    for axis, (sign, bound) in product(range(3), ((1, 0), (-1, 1))):
        inside = sign * (polygon[:, axis] - voxel[axis] - bound)
        kept = []
        for i in range(len(polygon)):
            if inside[i - 1] * inside[i] < 0:
                share = inside[i - 1] / (inside[i - 1] - inside[i])
                kept.append(polygon[i - 1] + share * (polygon[i] - polygon[i - 1]))
            if inside[i] >= 0:
                kept.append(polygon[i])
        if not kept:
            return False
        polygon = np.array(kept)
    return True


def test_no_point_of_a_surface_lies_in_an_unmarked_voxel() -> None:
    triangles = drawn(0, 50, 1, 3) * 28 + drawn(1, 50, 3, 3) * 4
    marked = surface_voxels(triangles, 32)
    weights = np.random.default_rng(2).dirichlet((1, 1, 1), (50, 1000))
    points = np.floor(np.einsum("tpk,tkc->tpc", weights, triangles)).astype(int).reshape(-1, 3)
    met = np.zeros_like(marked)
    met[tuple(points.T)] = True
    assert not (met & ~marked).any()
    assert met.sum() > 0.9 * marked.sum()


@pytest.mark.parametrize("side", [8, 9])
def test_a_closed_box_is_filled_to_its_last_voxel_and_no_further(side: int) -> None:
    assert solid(box(3, 3, 3) - 7, side).all()
    plate = solid(box(side, side, 1) * 0.3, side)
    assert plate.any((0, 1)).sum() == (2 if side % 2 == 0 else 1)
    half = solid(box(2, 1, 1) * 5, 16)
    assert np.array_equal(np.argwhere(half).min(0), [0, 4, 4])
    assert np.array_equal(np.argwhere(half).max(0), [15, 11, 11])
    assert half.sum() == 16 * 8 * 8


def test_a_box_without_a_lid_is_a_shell_whose_bowl_is_open() -> None:
    grid = solid(box(1, 1, 1, without="lid"), 8)
    shell = np.ones((8, 8, 8), dtype=bool)
    shell[1:-1, 1:-1, 1:] = False
    assert np.array_equal(grid, shell)


@pytest.mark.parametrize("variation", [1, 2])
def test_a_turned_box_stays_filled_or_open(variation: int) -> None:
    turn = rotation("box.off", variation).T
    closed, opened = (solid(box(1, 1, 1, without=name) @ turn, 24) for name in ("", "lid"))
    assert closed.mean() > 2 * opened.mean()
    assert not (opened & ~closed).any()
    scale = 24 / np.ptp(box(1, 1, 1) @ turn, axis=(0, 1)).max()
    assert scale**3 < closed.sum() < (scale + 2) ** 3


def test_rotations_are_uniform_and_those_of_the_name_and_variation() -> None:
    turns = np.stack([rotation("chair_0001.off", variation) for variation in range(3000)])
    assert np.array_equal(turns[0], np.eye(3))
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), turns.shape), atol=1e-12)
    assert np.linalg.det(turns).min() > 0.999
    # The angle of a uniform rotation has density (1 - cos) / π, so the trace has mean 0 and variance 1.
    traces = np.trace(turns, axis1=1, axis2=2)[1:]
    assert abs(traces.mean()) < 0.06
    assert traces.var() == pytest.approx(1, abs=0.1)
    assert np.abs(turns[1:].mean(0)).max() < 0.06
    np.testing.assert_allclose(
        rotation("chair_0001.off", 1)[0], [-0.9678, -0.1332, 0.2136], atol=1e-4, err_msg="the same everywhere"
    )


@pytest.mark.parametrize("header", ["OFF\n", "OFF", "OFF \r\n", "# made by hand\nOFF\n\n"])
def test_off_headers_as_modelnet_has_them_are_read(header: str, tmp_path: Path) -> None:
    (tmp_path / "box.off").write_text(off(box(1, 2, 3), header))
    assert np.array_equal(read_off(tmp_path / "box.off"), box(1, 2, 3))


DAMAGES: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "cut in half": lambda text: text[: len(text) // 2],
    "the last line cut": lambda text: text[:-5],
    "another format": lambda text: "solid box\n" + text,
    "too many faces promised": lambda text: text.replace("36 12", "36 13"),
    "too few vertices promised": lambda text: text.replace("36 12", "35 12"),
    "no faces": lambda text: "OFF\n0 0 0\n",
    "an index out of range": lambda text: text.replace("3 33 34 35", "3 33 34 36"),
    "a negative index": lambda text: text.replace("3 33 34 35", "3 33 34 -1"),
    "a word for a number": lambda text: text.replace("0.0 2.0 0.0", "0.0 two 0.0", 1),
    "not a number": lambda text: text.replace("0.0 2.0 0.0", "0.0 nan 0.0", 1),
    "no extent": lambda text: text.replace("1.0", "0.0").replace("2.0", "0.0").replace("3.0", "0.0"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_mesh_is_an_error_that_names_the_file(damage: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "box.off").write_text(damage(off(box(1, 2, 3))))
    with pytest.raises(DataError) as raised:
        read_off(tmp_path / "box.off")
    assert str(tmp_path / "box.off") in str(raised.value)
    assert "\n" not in str(raised.value)


def few_meshes(root: Path, train: int = 9) -> list[Path]:
    """Meshes of two classes below a root, one of them to test on."""
    train_paths = [
        write_off(root / "ModelNet10" / ("bed" if i % 2 else "sofa") / "train" / f"{i}.off", box(1, 2, i + 1))
        for i in range(train)
    ]
    return [*train_paths, write_off(root / "ModelNet10" / "sofa" / "test" / "t.off", box(1, 1, 1))]


def test_meshes_are_grids_with_variations_and_labels_in_both_splits(tmp_path: Path) -> None:
    few_meshes(tmp_path, train=4)
    dataset = ModelNet(size=8, variations=3)
    splits = dataset.load(tmp_path)
    assert dataset.count(tmp_path) == 15
    assert dataset.plan(tmp_path).startswith("in memory as bits, 15 grids of 64 bytes")
    assert splits.train.labels is not None
    assert splits.train.labels.tolist() == [0] * 6 + [1] * 6
    assert splits.test.labels is not None
    assert splits.test.labels.tolist() == [1, 1, 1]
    grids = splits.train[torch.arange(12)]
    assert grids.shape == (12, 1, 8, 8, 8)
    for i, (mesh, variation) in enumerate(product((1, 3, 0, 2), range(3))):
        expected = solid(box(1, 2, mesh + 1) @ rotation(f"{mesh}.off", variation).T, 8)
        assert np.array_equal(grids[i, 0].numpy(), expected)
    assert "5 meshes of 2 classes" in (splits.note or "")


def test_classes_are_chosen_by_name(tmp_path: Path) -> None:
    few_meshes(tmp_path, train=4)
    splits = ModelNet(size=8, variations=1, classes=["sofa"]).load(tmp_path)
    assert len(splits.train) == 2
    message = failure(ModelNet(size=8, classes=["sofas"]), tmp_path)
    for word in ("no class 'sofas'", "Did you mean 'sofa'?", "bed, sofa"):
        assert word in message
    assert "the test split has no intact file" in failure(ModelNet(size=8, classes=["bed"]), tmp_path)


def test_one_damaged_mesh_in_ten_is_skipped_and_two_are_an_error(tmp_path: Path) -> None:
    paths = few_meshes(tmp_path)
    paths[3].write_text("OFF\n")
    splits = ModelNet(size=4, variations=2).load(tmp_path)
    assert len(splits.train) == 16
    assert splits.train.skipped == [str(paths[3])]
    assert "Skipped 1 of 10 files" in (splits.note or "")
    assert str(paths[3]) in (splits.note or "")
    paths[5].write_text("")
    message = failure(ModelNet(size=4, variations=2), tmp_path)
    assert "2 of 10 files are damaged" in message
    assert str(paths[3]) in message


def test_grids_are_made_once_for_each_content_name_and_setting(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[str]()
    monkeypatch.setattr(_meshes, "read_off", lambda path: made.append(path.name) or read_off(path))
    paths = few_meshes(tmp_path, train=2)
    before = ModelNet(size=8).load(tmp_path).fingerprint()
    assert sorted(made) == ["0.off", "1.off", "t.off"]
    assert ModelNet(size=8).load(tmp_path).fingerprint() == before
    assert len(made) == len(list(cache.iterdir())) == 3
    ModelNet(size=8, variations=1).load(tmp_path)
    assert len(made) == 6
    write_off(paths[0], box(4, 1, 1))
    paths[1].rename(paths[1].with_name("other.off"))
    assert ModelNet(size=8).load(tmp_path).fingerprint() != before
    assert sorted(made[6:]) == ["0.off", "other.off"]


def test_a_damaged_cache_is_made_anew_and_an_unwritable_one_is_done_without(tmp_path: Path, cache: Path) -> None:
    few_meshes(tmp_path, train=2)
    before = ModelNet(size=8).load(tmp_path).fingerprint()
    files = sorted(cache.iterdir())
    whole = [path.read_bytes() for path in files]
    files[0].write_bytes(b"")
    files[1].write_bytes(whole[1][: len(whole[1]) // 2])
    with files[2].open("wb") as file:
        np.savez(file, grids=np.zeros((1, 3), dtype=np.uint8))
    assert ModelNet(size=8).load(tmp_path).fingerprint() == before
    for path in files:
        path.unlink()
    cache.rmdir()
    cache.write_text("a file in the way")
    assert ModelNet(size=8).load(tmp_path).fingerprint() == before


def test_without_trimesh_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_meshes(tmp_path, train=2)
    monkeypatch.setitem(sys.modules, "trimesh", None)
    assert "pip install 'vqtk[voxels]'" in failure(ModelNet(size=8), tmp_path)


def test_an_absent_modelnet_is_an_error_that_says_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, tmp_path)
    message = failure(ModelNet(), tmp_path)
    for word in (str(tmp_path), "modelnet/off/", "ModelNet40/", "https://modelnet.cs.princeton.edu", "--data-dir"):
        assert word in message
    assert ModelNet().count(tmp_path) is None
    assert ModelNet().plan(tmp_path) == "none found yet; in memory as bits, 32,768 bytes a grid"


def test_folders_that_say_split_and_class_are_believed(tmp_path: Path) -> None:
    grids = drawn(0, 6, 4, 4, 4) < 0.3
    names = ("b/train/1", "b/test/2", "a/train/3", "a/train/4", "c/test/5", "stray/6")
    for name, grid in zip(names, grids, strict=True):
        write_grid(tmp_path / "mine" / f"{name}.npz", grid)
    dataset = Voxels(path="mine", size=4)
    splits = dataset.load(tmp_path)
    assert dataset.count(tmp_path) == 5
    for split, which, labels in ((splits.train, [2, 3, 0], [0, 0, 1]), (splits.test, [1, 4], [1, 2])):
        assert np.array_equal(split[torch.arange(len(which))][:, 0].numpy(), grids[which])
        assert split.labels is not None
        assert split.labels.tolist() == labels
    assert "train on `train`, test on `test`" in str(splits.note)
    assert "Left out: 1 file in neither, such as stray/6.npz" in str(splits.note)
    assert splits.labels == ("a", "b", "c")


def test_other_folders_are_split_by_name_so_that_it_stays_when_files_are_added(tmp_path: Path) -> None:
    def held_out() -> set[bytes]:
        split = Voxels(path="mine", size=4, test=0.3).load(tmp_path).test
        return {grid.numpy().tobytes() for grid in split[torch.arange(len(split))]}

    for i in range(40):
        write_grid(tmp_path / "mine" / f"{i}.npz", drawn(i, 1, 4, 4, 4) < 0.5)
    first = held_out()
    assert 4 <= len(first) <= 20
    for i in range(40, 60):
        write_grid(tmp_path / "mine" / f"{i}.npz", (drawn(i, 4, 4, 4) < 0.5).astype(np.int64))
    assert first < held_out()


def test_top_folders_are_the_classes_if_there_are_several(tmp_path: Path) -> None:
    for i in range(20):
        write_grid(tmp_path / "mine" / "one" / "deep" / f"{i}.npz", np.zeros((4, 4, 4), dtype=bool))
    dataset = Voxels(path="mine", size=4, test=0.3)
    assert dataset.load(tmp_path).train.labels is None
    for i in range(20):
        write_grid(tmp_path / "mine" / "two" / f"{i}.npz", np.ones((4, 4, 4), dtype=np.uint8))
    for split in (dataset.load(tmp_path).train, dataset.load(tmp_path).test):
        assert split.labels is not None
        assert torch.equal(split[torch.arange(len(split))].flatten(1).amax(1), split.labels)


def content(save: Callable[..., None], *arrays: np.ndarray, **named: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)
    return buffer.getvalue()


GRID = np.zeros((4, 4, 4), dtype=np.uint8)
BAD_GRIDS = {
    "empty": (b"", "cannot be read"),
    "cut": (content(np.savez, voxels=GRID)[:200], "cannot be read"),
    "a single array": (content(np.save, GRID), "cannot be read"),
    "another key": (content(np.savez, grid=GRID, extra=GRID), "its keys are grid, extra"),
    "another shape": (content(np.savez, voxels=GRID[:3]), "has shape (3, 4, 4). Expected (4, 4, 4) or (1, 4, 4, 4)"),
    "other values": (content(np.savez, voxels=GRID + 2), "not all 0 or 1"),
    "fractions": (content(np.savez, voxels=GRID + 0.5), "`voxels` is float64"),
    "objects": (content(np.savez, voxels=np.array([None, {}], dtype=object)), "cannot be read"),
}


@pytest.mark.parametrize(("bad", "word"), BAD_GRIDS.values(), ids=BAD_GRIDS)
def test_a_bad_grid_is_skipped_among_many_and_an_error_among_few(bad: bytes, word: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "a"
    for i in range(9):
        write_grid(folder / ("train" if i else "test") / f"{i}.npz", GRID)
    (folder / "train" / "bad.npz").write_bytes(bad)
    splits = Voxels(path="mine", size=4).load(tmp_path)
    assert len(splits.train) == 8
    assert splits.train.skipped == [str(folder / "train" / "bad.npz")]
    assert word in (splits.note or "")
    (folder / "train" / "1.npz").unlink()
    message = failure(Voxels(path="mine", size=4), tmp_path)
    for part in (str(folder / "train" / "bad.npz"), word, "1 of 9 files"):
        assert part in message


def test_a_folder_without_grids_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert f"{tmp_path / 'mine'} holds no .npz file" in failure(Voxels(path="mine"), tmp_path)
    assert f"nothing is at {tmp_path / 'absent'}" in failure(Voxels(path="absent"), tmp_path)


def test_the_real_grids_are_read_with_their_classes() -> None:
    splits = Voxels(path="modelnet/voxels32").load(shared("data"))
    assert len(splits.train) + len(splits.test) == 1290
    assert splits.train.labels is not None
    assert len(splits.train.labels.bincount()) == 2
    chairs = splits.train[torch.nonzero(splits.train.labels == 0)[:, 0]].float()
    assert 0.03 < chairs.mean().item() < 0.1


def test_a_real_bathtub_holds_its_surface_and_its_bowl_is_open() -> None:
    trimesh = pytest.importorskip("trimesh")
    path = shared("data", "modelnet", "off", "bathtub", "train", "bathtub_0003.off")
    grid = solid(read_off(path), 32)
    mesh = trimesh.load_mesh(path)
    points, _ = trimesh.sample.sample_surface(mesh, 5000, seed=0)
    low, high = mesh.bounds
    voxels = np.floor((points - (low + high) / 2) * 31.999 / (high - low).max() + 16).astype(int)
    assert grid[tuple(voxels.T)].all()
    assert [len(np.unique(axis)) for axis in np.nonzero(grid)] == [14, 32, 12]
    assert grid[16, 16, 10:14].any()
    assert not grid[16, 16, 14:].any()
    assert grid[:, :, 21].any()
