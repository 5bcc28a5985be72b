"""Folders and files as users have them: splits, labels, links, pipes, names, and files that claim too much."""

from __future__ import annotations

import base64
import io
import os
import pickle
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from tests.images import items, message, noise, write_cifar, write_images, write_svhn
from vqtk.datasets import _characters, _meshes, _stored, text
from vqtk.datasets._base import Splits
from vqtk.datasets._layout import held_out, in_order, layout_of
from vqtk.datasets._listing import listing_of
from vqtk.datasets._matlab import matlab_shapes, read_matlab
from vqtk.datasets._pixels import read_image
from vqtk.datasets._split import Held
from vqtk.datasets.cifar10 import CIFAR10
from vqtk.datasets.image_folder import ImageFolder
from vqtk.datasets.modelnet import ModelNet
from vqtk.datasets.svhn import SVHN
from vqtk.datasets.text import Text
from vqtk.datasets.voxels import Voxels
from vqtk.errors import DataError, printable


def paths(*names: str) -> list[Path]:
    return [Path(name) for name in names]


def grid(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, voxels=voxels)


# ── splits and labels ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize("test", ["test", "Testing", "val", "valid", "Validation", "dev", "eval", "holdout"])
def test_folders_of_any_usual_name_are_splits_and_it_is_said(train: str, test: str) -> None:
    files = paths(f"{train}/cat/1", f"{train}/dog/2", f"{test}/dog/3")
    layout = layout_of(files, share=0.1)
    assert (list(layout.train), list(layout.test), layout.names) == (files[:2], files[2:], ("cat", "dog"))
    assert layout.notes == [f"Splits by folder: train on `{train}`, test on `{test}`."]
    assert np.array_equal(layout.labels(layout.test), [1])


def test_a_validation_folder_is_not_used_where_there_is_one_to_test_on() -> None:
    layout = layout_of(paths("dev/1", "test/2", "train/3", "holdout/4"), share=0.1)
    assert list(layout.train) == paths("train/3")
    assert list(layout.test) == paths("test/2", "holdout/4")
    assert layout.notes[0].endswith("train on `train`, test on `holdout` and `test`.")
    assert layout.notes[1] == "Not used: 1 file in `dev`."


def test_splits_may_lie_below_each_class() -> None:
    layout = layout_of(paths("bed/train/1", "bed/val/2", "sofa/train/3"), share=0.1)
    assert (list(layout.train), list(layout.test)) == (paths("bed/train/1", "sofa/train/3"), paths("bed/val/2"))
    assert layout.names == ("bed", "sofa")


def test_a_train_folder_alone_is_divided_and_one_beside_other_folders_is_a_label() -> None:
    alone = layout_of([Path(f"train/{name}/{i}") for name in ("cat", "dog") for i in range(20)], share=0.3)
    assert alone.names == ("cat", "dog")
    assert 1 <= len(alone.test) < 20
    vehicles = layout_of([Path(f"{name}/{i}") for name in ("car", "train") for i in range(20)], share=0.3)
    assert vehicles.names == ("car", "train")
    assert "treated as a label" in vehicles.notes[0]
    with pytest.raises(DataError, match="`dev` and `test` are splits, and none is to train on"):
        layout_of(paths("dev/1", "test/2"), share=0.1)


def test_numbers_are_in_numeric_order_and_words_in_that_of_letters() -> None:
    assert in_order({"10", "2", "-1", "0"}) == ["-1", "0", "2", "10"]
    assert in_order({"10", "2", "x"}) == ["10", "2", "x"]


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_of_two_files_or_more_one_goes_to_either_split(share: float) -> None:
    files = [Path(f"{i}") for i in range(12)]
    train, test = held_out(listing_of(files), share)
    assert min(len(train), len(test)) == 1
    assert sorted([*train, *test]) == sorted(files)
    assert list(held_out(listing_of(files[:1]), 1e-9)[1]) == []


def test_a_label_is_named_by_its_folder_or_numbered_where_names_are_not_numbers(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{name}/{i}.png" for name in (0, 2, 10) for i in range(6)))
    numbers = ImageFolder(path=str(tmp_path), size=4).load(tmp_path)
    assert numbers.fingerprint()["labels"] == ["0", "2", "10"]
    assert [numbers.label(wanted) for wanted in (0, 2, 10, "10")] == [0, 1, 2, 2]
    with pytest.raises(DataError, match="`wanted` is 1; expected a class of these data: 0, 2, 10"):
        numbers.label(1)
    data = Held(torch.zeros(4, 1), torch.tensor([0, 1, 1, 0]))
    words = Splits(data, data, source="here", labels=("cat", "dog", "emu"))
    assert (words.label("dog"), words.label(1)) == (1, 1)
    with pytest.raises(DataError, match="Did you mean 'cat'"):
        words.label("cats")
    with pytest.raises(DataError, match="no training example in here has the label 'emu'"):
        words.label("emu")


def test_folders_of_text_that_are_splits_are_believed(tmp_path: Path) -> None:
    for part, letter in (("Train", "a"), ("valid", "b")):
        (tmp_path / part).mkdir()
        (tmp_path / part / "t.txt").write_text(letter * 40)
    splits = Text(path=str(tmp_path), length=8).load(tmp_path)
    assert (len(splits.train), len(splits.test)) == (33, 5)
    assert "train on `Train`, test on `valid`" in str(splits.note)


# ── what is no regular file, or has a name that cannot be printed ────────────────────────────────


@pytest.fixture
def odd_files(tmp_path: Path) -> Callable[[str], list[Path]]:
    """Make what is no regular file, with names of a suffix: a pipe, a socket, a link to a device, one to nowhere."""

    def make(suffix: str) -> list[Path]:
        made = [tmp_path / f"{name}{suffix}" for name in ("pipe", "socket", "device", "nowhere")]
        os.mkfifo(made[0])
        here = Path.cwd()
        os.chdir(tmp_path)  # The path of a socket is short.
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(made[1].name)
        os.chdir(here)
        made[2].symlink_to("/dev/zero")
        made[3].symlink_to(tmp_path / "absent")
        return made

    return make


def test_folders_are_read_without_what_is_no_regular_file(
    tmp_path: Path, odd_files: Callable[[str], list[Path]]
) -> None:
    for suffix in (".png", ".npz", ".txt"):
        odd_files(suffix)
    write_images(tmp_path, "1.png", "2.png")
    for i in range(2):
        grid(tmp_path / f"{i}.npz", np.zeros((4, 4, 4)))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "t.txt").write_text("a" * 99)
    path = str(tmp_path)
    for dataset, count in ((ImageFolder(path=path, size=4), 2), (Voxels(path=path, size=4), 2)):
        assert dataset.count(tmp_path) == count
        splits = dataset.load(tmp_path)
        assert len(splits.train) + len(splits.test) == count
    assert len(Text(path=str(tmp_path / "sub"), length=8).load(tmp_path).train) > 1


def test_a_path_that_is_no_regular_file_is_refused_at_once(
    tmp_path: Path, odd_files: Callable[[str], list[Path]]
) -> None:
    for path in odd_files("")[:3]:
        assert "is a pipe, a socket or a device" in message(Text(path=str(path), length=8), tmp_path)
        with pytest.raises(DataError, match="a pipe, a socket or a device"):
            read_image(path, size=4)
        with pytest.raises(DataError, match="a pipe, a socket or a device"):
            _stored.read_array(path)
    batches = write_cifar(tmp_path / "batches")
    (batches / "test_batch").unlink()
    os.mkfifo(batches / "test_batch")
    assert "a pipe, a socket or a device" in message(CIFAR10(), batches)
    digits = write_svhn(tmp_path / "digits")
    (digits / "test_32x32.mat").unlink()
    os.mkfifo(digits / "test_32x32.mat")
    assert "a pipe, a socket or a device" in message(SVHN(), digits)


def test_names_that_are_no_text_are_escaped_wherever_they_are_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"bad\xff\n")
    folder = tmp_path / name / name
    write_images(folder, *(f"{i}.png" for i in range(20)))
    (folder / f"{name}.png").write_bytes(b"\x89PNG")
    write_images(tmp_path / name / "other", "1.png")
    splits = ImageFolder(path=str(tmp_path / name), size=4).load(tmp_path)
    facts = splits.fingerprint()
    assert facts["labels"] == [r"bad\xff\n", "other"]
    assert facts["skipped"]["first"] == [str(tmp_path) + r"/bad\xff\n/bad\xff\n/bad\xff\n.png"]
    str(facts).encode()
    assert str(splits.note).isprintable()
    assert printable("café ü 漢") == "café ü 漢"


def test_one_rule_for_links_holds_for_every_folder(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    write_images(elsewhere, "2.png", "3.png")
    (elsewhere / "b.txt").write_text("b" * 50)
    grid(elsewhere / "2.npz", np.ones((4, 4, 4)))
    folder = tmp_path / "corpus"
    write_images(folder, "1.png")
    (folder / "a.txt").write_text("a" * 50)
    grid(folder / "1.npz", np.zeros((4, 4, 4)))
    (folder / "more").symlink_to(elsewhere)
    (folder / "again").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    (folder / "self").symlink_to(folder)
    path = str(folder)
    assert ImageFolder(path=path, size=4).count(tmp_path) == 3
    assert Voxels(path=path, size=4).count(tmp_path) == 2
    for name in ("1.png", "2.png", "3.png", "1.npz", "2.npz"):
        next(tmp_path.rglob(name)).unlink()
    splits = Text(path=path, length=5).load(tmp_path)
    assert splits.characters == "\ufffdab"


# ── text ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_lines_end_alike_however_they_end_in_the_file(end: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(f"one{end}two{end}{end}".encode() * 20)
    assert _characters.read_text(tmp_path / "t.txt") == "one\ntwo\n\n" * 20


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("utf-16", "is UTF-16 text"),
        ("utf-32", "is UTF-32 text"),
        ("utf-16le", "byte 1 is 0"),
        ("utf-16be", "byte 0 is 0"),
    ],
)
def test_text_of_two_or_four_bytes_a_character_is_named_with_advice_that_works(
    encoding: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes("plain text ".encode(encoding) * 9)
    text = message(Text(path=str(path), length=8), tmp_path)
    assert told in text
    assert "iconv -f utf-" in text


# ── images ───────────────────────────────────────────────────────────────────────────────────────


def png(path: Path, depth: int, colour: int, row: bytes, transparent: bytes) -> Path:
    """A picture of 4×4 whose rows are alike, with one transparent value."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 4, 4, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(4 * (b"\0" + row))), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


TRANSPARENT = {
    "1 bit": (1, 0, bytes([0b10100000]), (0,), [255, 255, 255, 255]),
    "2 bits": (2, 0, bytes([0b11000110]), (2,), [255, 0, 85, 255]),
    "4 bits": (4, 0, bytes([0x0F, 0x37]), (7,), [0, 255, 51, 255]),
    "8 bits": (8, 0, bytes([0, 15, 3, 7]), (7,), [0, 15, 3, 255]),
    "16 bits": (16, 0, struct.pack(">4H", 0, 60_000, 768, 60_001), (60_000,), [0, 255, 3, 234]),
    "16 bits of colour": (
        16,
        2,
        struct.pack(">12H", *[0] * 3, *[60_000] * 3, *[768] * 6),
        (60_000,) * 3,
        [0, 255, 3, 3],
    ),
}


@pytest.mark.parametrize("case", TRANSPARENT)
def test_what_is_transparent_is_white_in_any_number_of_bits(case: str, tmp_path: Path) -> None:
    depth, colour, row, transparent, expected = TRANSPARENT[case]
    path = png(tmp_path / "it.png", depth, colour, row, struct.pack(f">{len(transparent)}H", *transparent))
    assert read_image(path, size=4, colours="grey")[0, 0].tolist() == expected


def test_whole_numbers_of_32_bits_are_bytes_or_refused_with_their_range(tmp_path: Path) -> None:
    values = noise(4, 4).astype(np.int32)
    Image.fromarray(values).save(tmp_path / "bytes.tif")
    assert read_image(tmp_path / "bytes.tif", size=4, colours="grey")[0].tolist() == values.tolist()
    for low, high in ((0, 1_000), (-3, 200), (0, 70_000)):
        Image.fromarray(np.linspace(low, high, 16).astype(np.int32).reshape(4, 4)).save(tmp_path / "it.tif")
        with pytest.raises(DataError, match=f"32 bits, from {low} to {high}, and their range is not known"):
            read_image(tmp_path / "it.tif", size=4)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "LA", "PA", "I;16", "I;16B"])
@pytest.mark.parametrize("colours", ["rgb", "grey"])
def test_images_of_every_mode_that_can_be_told_are_read(mode: str, colours: str, tmp_path: Path) -> None:
    Image.new(mode, (5, 4)).save(tmp_path / "it.tif")
    assert read_image(tmp_path / "it.tif", size=4, colours=colours).dtype == torch.uint8


def test_a_strip_is_cut_before_it_is_scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.zeros((20_000, 1), np.uint8)
    values[9_996:10_004] = 200
    Image.fromarray(values).save(tmp_path / "strip.png")
    sizes = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *a, **k: sizes.append(size) or resize(self, size, *a, **k)
    )
    assert (read_image(tmp_path / "strip.png", size=16) == 200).all()
    assert max(max(size) for size in sizes) <= 16 * 8


def test_a_scan_that_is_too_large_is_left_out_with_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, *(f"{i}.png" for i in range(20)))
    Image.new("1", (100, 90)).save(tmp_path / "scan.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000)
    splits = ImageFolder(path=str(tmp_path), size=4).load(tmp_path)
    assert f"1 image skipped: {tmp_path / 'scan.png'} is too large an image (image size (9000 pixels)" in str(
        splits.note
    )


# ── what a file claims ───────────────────────────────────────────────────────────────────────────


def claiming(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    """A .npy file that claims a shape and holds nothing."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_an_array_that_claims_too_much_is_refused_before_memory_is_spent(tmp_path: Path) -> None:
    grid(tmp_path / "a.npz", np.zeros((4, 4, 4)))
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("voxels.npy", claiming((1 << 20, 1 << 20)))
    assert "claims 1,099,511,627,776 bytes" in message(Voxels(path=str(tmp_path), size=4), tmp_path)
    (tmp_path / "c.npy").write_bytes(claiming((1 << 40,), "<f8"))
    with pytest.raises(ValueError, match="claims"):
        _stored.read_array(tmp_path / "c.npy")


def test_a_matlab_file_that_claims_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    savemat(write_svhn(tmp_path) / "train_32x32.mat", {"X": np.zeros((32, 32, 3, 40), np.uint8)}, do_compression=True)
    monkeypatch.setattr("vqtk.datasets._matlab.HELD_AT_MOST", 100_000)
    assert "X claims 122,880 values; at most 100,000 are read" in message(SVHN(), tmp_path)


def test_text_and_meshes_beyond_a_size_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_meshes, "_BYTES_AT_MOST", 50)
    monkeypatch.setattr(_characters, "HELD_AT_MOST", 50)
    (tmp_path / "t.txt").write_text("a" * 51)
    assert "has 51 bytes; at most 50 are read" in message(Text(path=str(tmp_path / "t.txt"), length=8), tmp_path)
    monkeypatch.setattr(text, "HELD_AT_MOST", 50)
    assert "holds text files of 51 bytes" in message(Text(path=str(tmp_path), length=8), tmp_path)
    mesh = tmp_path / "chair" / "train" / "a.off"
    mesh.parent.mkdir(parents=True)
    mesh.write_text("OFF\n" + "0 " * 40)
    assert "at most 50 are read" in message(ModelNet(size=4), tmp_path)


def test_a_pickle_that_reserves_memory_is_refused(tmp_path: Path) -> None:
    path = write_cifar(tmp_path) / "test_batch"
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    assert "memo index 2147483647" in message(CIFAR10(), tmp_path)


def test_batches_of_python_3_under_the_protocol_of_python_2_are_read(tmp_path: Path) -> None:
    path = write_cifar(tmp_path) / "test_batch"
    pixels = noise(4, 3072, seed=3)
    for labels in ([1, 2, 3, 4], np.array([1, 2, 3, 4]), np.array([1, 2, 3, 4], ">i4")):
        path.write_bytes(pickle.dumps({b"data": pixels, b"labels": labels}, 2))
        splits = CIFAR10().load(tmp_path)
        assert torch.equal(items(splits)[1].flatten(1), torch.from_numpy(pixels))
        assert splits.test.labels is not None
        assert splits.test.labels.tolist() == [1, 2, 3, 4]


def test_a_pickle_of_another_layout_says_what_is_missing_and_is_not_printed_whole(tmp_path: Path) -> None:
    path = write_cifar(tmp_path) / "test_batch"
    path.write_bytes(pickle.dumps({"fine_labels": [1], "data": noise(1, 3072)}))
    assert "it has no labels; its keys are fine_labels, data" in message(CIFAR10(), tmp_path)
    for content in ({"x" * 100_000: 1}, {f"key {i}": 0 for i in range(9_999)}, ["y" * 100_000], {"data": "z" * 99_999}):
        path.write_bytes(pickle.dumps(content))
        assert len(message(CIFAR10(), tmp_path)) < 1_000 + len(str(tmp_path))


# ── meshes ───────────────────────────────────────────────────────────────────────────────────────

FACES = "3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"
MESHES = {
    "huge": ("OFF\n4 4 0\n1e308 0 0\n-1e308 0 0\n0 1e308 0\n0 0 1e308\n" + FACES, "too large or too small"),
    "large": ("OFF\n4 4 0\n1e200 0 0\n-1e200 0 0\n0 1e200 0\n0 0 1e200\n" + FACES, "too large or too small"),
    "tiny": ("OFF\n4 4 0\n1e-310 0 0\n-1e-310 0 0\n0 1e-310 0\n0 0 1e-310\n" + FACES, "too large or too small"),
    "a line": ("OFF\n4 4 0\n0 0 0\n1 1 1\n2 2 2\n3 3 3\n" + FACES, "has no surface"),
    "no faces": ("OFF\n4 0 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n", "it has no faces"),
    "one point": ("OFF\n1 1 0\n0 0 0\n3 0 0 0\n", "all corners are the same point"),
    "no number": ("OFF\n4 4 0\nnan 0 0\n1 0 0\n0 1 0\n0 0 1\n" + FACES, "a corner is not a finite number"),
}


@pytest.mark.parametrize("case", MESHES)
def test_a_mesh_without_a_shape_is_refused_and_nothing_of_it_is_cached(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    content, told = MESHES[case]
    path = tmp_path / "chair" / "train" / "it.off"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    for _ in range(2):
        text = message(ModelNet(size=8), tmp_path)
        assert told in text
        assert str(path) in text
    assert not list((tmp_path / "cache").rglob("*.npz"))


def test_grids_of_zero_and_one_are_read_in_any_type_and_others_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((12, 4, 4, 4)) > 0.5
    for i, value in enumerate(values):
        grid(tmp_path / f"{i:02}.npz", value.astype((np.float32, np.float64, np.float16, np.int64)[i % 4]))
    splits = Voxels(path=str(tmp_path), size=4).load(tmp_path)
    assert len(splits.test) >= 1
    found = {one.numpy().tobytes() for split in items(splits) for one in split}
    assert found == {value.astype(np.uint8).tobytes() for value in values}
    for odd in (0.5, np.nan, -1.0):
        grid(tmp_path / "99.npz", np.full((4, 4, 4), odd))
        assert "not all 0 or 1" in str(Voxels(path=str(tmp_path), size=4).load(tmp_path).note)


CRASHING = """
O+i#lK|&xkE-)ZXK~ybfX>4U6P;6mzW^ZzBIv{Xwb7^=iAVYFxVRU6=Aa8CuAXI2|AWm;~ATl-
}GB7$ZH##slATlsAHUIzs00000000000000000000000000000000000000000000000000000000000000Bu&4*&oFKL7v#c%1F
Z+X=uR6a>+|hKPcQC8P{XN&l6&d350%81`qoq}inGEw1Wwy5X+B!^K<Z_NE|EY+-a}Z*pxqAaE-
W0000b0001Zoa19)V6XsUHX!DJ(jdSJ<uk%DBSR&S=7fqvzz2H(BgFzG
"""
"""A MATLAB file, in base 85, that ends a process which reads it with SciPy: its compressed bytes are damaged."""


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_arrays_are_those_that_scipy_writes(compressed: bool, tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    written = {
        "X": drawn.integers(0, 256, (4, 3, 2), dtype=np.uint8),
        "y": drawn.integers(0, 9, (7, 1)).astype(float),  # SciPy stores what fits in fewer bytes so.
        "z": drawn.normal(size=(3, 5)),
    }
    path = tmp_path / "a.mat"
    savemat(path, {**written, "text": "said"}, do_compression=compressed)
    read = read_matlab(path, *written)
    for name, values in written.items():
        assert read[name].dtype == values.dtype
        assert np.array_equal(read[name], values)
    assert matlab_shapes(path) == {name: values.shape for name, values in written.items()}
    with pytest.raises(ValueError, match="it has no array W"):
        read_matlab(path, "X", "W")


def test_a_damaged_matlab_file_is_refused_wherever_it_is_damaged(tmp_path: Path) -> None:
    folder = write_svhn(tmp_path / "svhn")
    whole, path = (folder / "test_32x32.mat").read_bytes(), folder / "test_32x32.mat"
    path.write_bytes(base64.b85decode("".join(CRASHING.split())))
    assert "cannot be read as SVHN" in message(SVHN(), folder)
    for cut in range(0, len(whole), len(whole) // 20 + 1):
        path.write_bytes(whole[:cut])
        assert "cannot be read as SVHN" in message(SVHN(), folder)


def test_an_image_without_some_of_its_strips_is_refused_and_not_black(tmp_path: Path) -> None:
    entries = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 200, 278: 4, 279: 32}  # One strip of 4 rows, of two.
    header = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    content = header + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items()) + bytes(4)
    path = tmp_path / "half.tif"
    path.write_bytes(content.ljust(200, b"\0") + bytes([200]) * 32)
    with pytest.raises(DataError, match="it has 32 of 64 pixels"):
        read_image(path, size=8)
