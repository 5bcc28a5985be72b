"""SVHN, CIFAR-10 and CelebA: read as torchvision reads them; damage and danger said to be so."""

from __future__ import annotations

import dataclasses
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import transforms
from torchvision.datasets import CIFAR10 as TorchvisionCIFAR10
from torchvision.datasets import SVHN as TorchvisionSVHN
from torchvision.datasets import CelebA as TorchvisionCelebA

from tests.images import BATCHES, items, md5, message, noise, serving, write_celeba, write_cifar, write_svhn
from tests.parity import shared
from tests.tiny import offline
from vqtk.datasets import celeba, cifar10, svhn
from vqtk.datasets._base import Dataset
from vqtk.datasets._official import Official
from vqtk.datasets._split import Held
from vqtk.datasets.celeba import CelebA
from vqtk.datasets.cifar10 import CIFAR10
from vqtk.datasets.svhn import SVHN
from vqtk.errors import DataError

SETS: dict[str, tuple[Dataset, Callable[[Path], Path], list[str]]] = {
    "svhn": (SVHN(), write_svhn, ["svhn", ""]),
    "cifar10": (CIFAR10(), write_cifar, ["cifar10/cifar-10-batches-py", "cifar-10-batches-py", "cifar10", ""]),
    "celeba": (CelebA(size=6), write_celeba, ["celeba/celeba", "celeba", ""]),
}
EACH = pytest.mark.parametrize("name", SETS)


@pytest.mark.parametrize(
    ("name", "below"), [(name, below) for name, (_, _, places) in SETS.items() for below in places]
)
def test_a_set_is_found_in_each_of_its_places(name: str, below: str, tmp_path: Path) -> None:
    dataset, write, _ = SETS[name]
    folder = write(tmp_path / below)
    splits = dataset.load(tmp_path)
    assert dataset.count(tmp_path) == len(splits.train) + len(splits.test)
    assert splits.source.rstrip("/") == str(folder)
    for split in (splits.train, splits.test):
        assert isinstance(split, Held)
        assert split.items.shape[1:] == dataset.spec.shape
        assert split.items.dtype == torch.uint8
    assert splits.note
    assert str(folder) in splits.note
    assert f"{len(splits.train):,} + {len(splits.test):,} images that are not the official" in splits.note


@EACH
def test_the_official_files_need_no_note(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, write, (below, *_) = SETS[name]
    folder = write(tmp_path / below)
    module = {"svhn": svhn, "cifar10": cifar10, "celeba": celeba}[name]
    official = module._OFFICIAL
    assert all(md5 is None or len(md5) == 32 for md5 in official.files.values())
    sums = {file: known and md5(folder / file) for file, known in official.files.items()}
    monkeypatch.setattr(module, "_OFFICIAL", dataclasses.replace(official, files=sums))
    monkeypatch.setattr(celeba, "_OFFICIAL_SIZE", (22, 27))
    assert dataset.load(tmp_path).note is None


@EACH
def test_an_absent_set_that_cannot_be_downloaded_says_where_it_belongs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, tmp_path)
    dataset, _, places = SETS[name]
    text = message(dataset, tmp_path / "data")
    for place in places:
        assert str(tmp_path / "data" / place) in text
    for part in ("downloading it failed", "no network" if name != "celeba" else "gdown", "http", "--data-dir"):
        assert part in text
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert dataset.count(tmp_path / "data") == {"svhn": 99_289, "cifar10": 60_000, "celeba": 182_732}[name]
    (tmp_path / "file").touch()
    assert "Error" in message(dataset, tmp_path / "file" / "below")


def test_a_download_is_moved_to_its_place_once_it_is_whole(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fetch(folder: Path) -> None:
        print("noise")
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_text("a")
        if fails:
            raise ValueError("cut off\nand more")

    official = Official("Set", {"a": None}, ("set/inner", "other"), fetch, "https://example.org")
    fails = True
    with pytest.raises(DataError, match=r"ValueError: cut off\)"):
        official.folder(tmp_path)
    assert not list(tmp_path.iterdir())
    fails = False
    assert official.folder(tmp_path) == tmp_path / "set" / "inner"
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "inner", "a"]
    assert capfd.readouterr() == ("", "")


def test_digits_and_photographs_are_downloaded_as_torchvision_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    source, root = tmp_path / "published", tmp_path / "data"
    digits = {part: write_svhn(source) / f"{part}_32x32.mat" for part in ("train", "test")}
    write_cifar(source / "cifar-10-batches-py")
    archive = Path(shutil.make_archive(str(source / "cifar-10-python"), "gztar", source, "cifar-10-batches-py"))
    sums = [[name, md5(source / "cifar-10-batches-py" / name)] for name in BATCHES]
    with serving(source) as address:
        listed = {part: [f"{address}/{path.name}", path.name, md5(path)] for part, path in digits.items()}
        monkeypatch.setattr(TorchvisionSVHN, "split_list", listed)
        monkeypatch.setattr(TorchvisionCIFAR10, "url", f"{address}/{archive.name}")
        monkeypatch.setattr(TorchvisionCIFAR10, "tgz_md5", md5(archive))
        monkeypatch.setattr(TorchvisionCIFAR10, "train_list", sums[:5])
        monkeypatch.setattr(TorchvisionCIFAR10, "test_list", sums[5:])
        assert len(SVHN().load(root).train) == 12
        assert len(CIFAR10().load(root).train) == 20
    assert {path.name for path in root.rglob("*") if path.is_file()} == {*BATCHES, "train_32x32.mat", "test_32x32.mat"}
    assert capfd.readouterr() == ("", "")


def test_the_published_checksums_are_those_that_torchvision_knows() -> None:
    known = {
        svhn: {name: md5 for _, name, md5 in (TorchvisionSVHN.split_list[part] for part in ("train", "test"))},
        cifar10: dict(map(tuple, [*TorchvisionCIFAR10.train_list, *TorchvisionCIFAR10.test_list])),
        celeba: {name: md5 for _, md5, name in TorchvisionCelebA.file_list if "partition" in name},
    }
    for module, sums in known.items():
        assert {name: md5 for name, md5 in module._OFFICIAL.files.items() if md5} == sums


@pytest.mark.parametrize(
    ("name", "file"), [("svhn", "test_32x32.mat"), ("cifar10", "data_batch_3"), ("celeba", "list_eval_partition.txt")]
)
def test_a_missing_file_is_named_and_nothing_is_downloaded_over_the_others(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Official, "_download", lambda *_: pytest.fail("this would overwrite files"))
    dataset, write, _ = SETS[name]
    folder = write(tmp_path)
    (folder / file).unlink()
    text = message(dataset, tmp_path)
    assert f"{folder}: {file} missing" in text
    assert dataset.count(tmp_path) is not None


@pytest.mark.parametrize("left", [0, 5, 100, 200, 0.5, 0.99])
@pytest.mark.parametrize(("name", "file"), [("svhn", "train_32x32.mat"), ("cifar10", "data_batch_2")])
def test_a_file_cut_short_is_an_error_that_names_it(name: str, file: str, left: float, tmp_path: Path) -> None:
    dataset, write, _ = SETS[name]
    path = write(tmp_path) / file
    content = path.read_bytes()
    path.write_bytes(content[: int(left if left >= 1 else left * len(content))])
    assert str(path) in message(dataset, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"X": noise(32, 32, 3, 5), "y": np.ones((4, 1))},
        {"X": noise(32, 32, 5), "y": np.ones((5, 1))},
        {"X": noise(32, 32, 3, 5).astype(float), "y": np.ones((5, 1))},
        {"X": noise(32, 32, 3, 5), "y": np.full((5, 1), 11)},
        {"X": noise(32, 32, 3, 5)},
    ],
    ids=["labels", "shape", "type", "label", "no y"],
)
def test_a_matlab_file_of_something_else_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    path = write_svhn(tmp_path) / "test_32x32.mat"
    savemat(path, content)
    assert str(path) in message(SVHN(), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"data": noise(4, 3071), "labels": [0] * 4},
        {"data": noise(4, 3072), "labels": [0] * 3},
        {"data": noise(1, 3072), "labels": [10]},
        {"data": noise(1, 3072), "labels": ["cat"]},
        {"data": noise(0, 3072), "labels": []},
        {"data": noise(1, 3072).astype(np.float32), "labels": [1]},
        {"data": [1, 2], "labels": [0]},
        {"data": noise(1, 3072)},
        [1, 2],
    ],
    ids=["width", "labels", "label", "text", "empty", "float", "list", "no labels", "no mapping"],
)
def test_a_pickle_of_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    path = write_cifar(tmp_path) / "data_batch_5"
    path.write_bytes(pickle.dumps(content))
    assert str(path) in message(CIFAR10(), tmp_path)


class Calls:
    """An object whose pickle calls a function when it is read as pickles usually are."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("where", ["data", "labels", "more", "all"])
@pytest.mark.parametrize("call", ["system", "eval", "getattr"])
def test_a_pickle_that_calls_anything_is_refused_and_nothing_is_run(
    call: str, where: str, protocol: int, tmp_path: Path
) -> None:
    path, sign = write_cifar(tmp_path) / "data_batch_1", tmp_path / "run"
    made = {
        "system": Calls(os.system, f"touch {sign}"),
        "eval": Calls(eval, f"open({str(sign)!r}, 'w')"),
        "getattr": Calls(getattr, np.ndarray, "tofile"),
    }[call]
    batch = {"data": noise(4, 3072), "labels": [0] * 4, where: made}
    path.write_bytes(pickle.dumps(made if where == "all" else batch, protocol))
    text = message(CIFAR10(), tmp_path)
    assert str(path) in text
    assert {"system": f"{os.name}.system", "eval": ".eval", "getattr": ".getattr"}[call] in text
    assert not sign.exists()
    if call != "getattr":
        pickle.loads(path.read_bytes())
        assert sign.exists()


def test_a_name_inside_an_allowed_module_is_refused_unless_it_is_part_of_an_array(tmp_path: Path) -> None:
    path = write_cifar(tmp_path) / "test_batch"
    for module, name in (("numpy", "ndarray.tofile"), ("numpy", "load"), ("_codecs", "lookup"), ("codecs", "encode")):
        path.write_bytes(
            b"\x80\x04" + b"".join(b"\x8c" + bytes([len(w)]) + w.encode() for w in (module, name)) + b"\x93."
        )
        assert f"{module}.{name}" in message(CIFAR10(), tmp_path)


def python_2(images: np.ndarray, labels: list[int]) -> bytes:
    """A batch as numpy 1 under Python 2 pickles it, like the official files: protocol 2, and every text as bytes."""
    raw, shape = images.tobytes(), b"K%cM\x00\x0c\x86" % len(images)
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + shape + dtype
    array += b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels](" + b"".join(b"K%c" % label for label in labels) + b"eu."


def test_a_batch_that_python_2_wrote_is_read(tmp_path: Path) -> None:
    images = noise(4, 3072, seed=9)
    path = write_cifar(tmp_path) / "test_batch"
    path.write_bytes(python_2(images, [3, 1, 4, 9]))
    split = CIFAR10().load(tmp_path).test
    assert split[torch.arange(4)].tolist() == images.reshape(4, 3, 32, 32).tolist()
    assert split.labels is not None
    assert split.labels.tolist() == [3, 1, 4, 9]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", range(6))
def test_a_batch_of_any_protocol_is_read(protocol: int, order: Any, tmp_path: Path) -> None:
    write_cifar(tmp_path, protocol=protocol)
    batch = {"data": np.asarray(noise(4, 3072, seed=7), order=order), "labels": [1, 2, 3, 4]}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, protocol))
    assert torch.equal(items(CIFAR10().load(tmp_path))[1], torch.from_numpy(batch["data"]).reshape(4, 3, 32, 32))
    renamed = pickle.dumps(batch, protocol).replace(b"numpy._core", b"numpy.core")
    if protocol < 4:  # Later protocols give the length of a name.
        (tmp_path / "test_batch").write_bytes(renamed)
        assert torch.equal(items(CIFAR10().load(tmp_path))[1], torch.from_numpy(batch["data"]).reshape(4, 3, 32, 32))


@pytest.mark.parametrize("train", [True, False])
def test_real_photographs_and_digits_are_those_that_torchvision_reads(
    train: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shared("data")
    monkeypatch.setattr(TorchvisionCIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr(TorchvisionSVHN, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    photographs = TorchvisionCIFAR10(root / "cifar10", train=train)
    digits = TorchvisionSVHN(root / "svhn", split="train" if train else "test")
    expected = [(photographs.data.transpose(0, 3, 1, 2), photographs.targets), (digits.data, digits.labels)]
    for dataset, (images, labels) in zip((CIFAR10(), SVHN()), expected, strict=True):
        splits = dataset.load(root)
        split = splits.train if train else splits.test
        assert torch.equal(items(splits)[0 if train else 1], torch.from_numpy(images))
        assert split.labels is not None
        assert split.labels.tolist() == list(labels)


def test_real_faces_are_cropped_as_torchvision_does(tmp_path: Path) -> None:
    faces = shared("data", "celeba", "celeba", "img_align_celeba")
    (tmp_path / "img_align_celeba").symlink_to(faces)
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n000003.jpg 0\n\n000004.jpg 2\n")
    transform = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64), transforms.PILToTensor()])
    splits = CelebA().load(tmp_path)
    expected = [transform(Image.open(faces / f"00000{i}.jpg").convert("RGB")) for i in (1, 3, 4)]
    assert torch.equal(torch.cat(items(splits)), torch.stack(expected))
    assert splits.note


@pytest.mark.parametrize(
    ("line", "part"),
    [("000001.png", ":2 is"), ("000001.png 3", ":2 is"), ("000001.png 0 1", ":2 is"), ("\x00\xff", ":2 is")],
)
def test_a_malformed_partition_is_an_error_that_names_the_line(line: str, part: str, tmp_path: Path) -> None:
    path = write_celeba(tmp_path) / "list_eval_partition.txt"
    path.write_bytes(b"000000.png 0\n" + line.encode("latin1") + b"\n")
    assert f"{path}{part}" in message(CelebA(), tmp_path)


def test_faces_without_a_test_part_are_refused(tmp_path: Path) -> None:
    path = write_celeba(tmp_path) / "list_eval_partition.txt"
    path.write_text("000000.png 0\n")
    assert str(path) in message(CelebA(), tmp_path)


def test_a_missing_face_is_skipped_and_a_fifth_missing_is_refused(tmp_path: Path) -> None:
    faces = write_celeba(tmp_path) / "img_align_celeba"
    (faces / "000004.png").unlink()
    splits = CelebA(size=6).load(tmp_path)
    assert splits.train.skipped == [str(faces / "000004.png")]
    assert len(splits.train) == 15
    assert splits.note
    assert f"1 image skipped: {faces / '000004.png'}" in splits.note
    for i in range(5, 10):
        (faces / f"{i:06}.png").unlink()
    text = message(CelebA(size=6), tmp_path)
    assert "6 of the 30 images" in text
    assert "000004.png" in text


def test_faces_of_another_size_are_not_the_official_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_celeba(tmp_path)
    known = md5(folder / "list_eval_partition.txt")
    files = {"img_align_celeba": None, "list_eval_partition.txt": known}
    monkeypatch.setattr(celeba, "_OFFICIAL", dataclasses.replace(celeba._OFFICIAL, files=files))
    assert "22×27 instead of 178×218" in str(CelebA(size=6).load(tmp_path).note)
    next((folder / "img_align_celeba").iterdir()).unlink()
    assert "1 are missing" in str(CelebA(size=6).load(tmp_path).note)
