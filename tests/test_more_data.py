"""Fashion-MNIST, EMNIST, other libraries' data sets, and sounds: read as their own readers read them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from torchvision.datasets import EMNIST as TorchvisionEMNIST
from torchvision.datasets import FashionMNIST as TorchvisionFashionMNIST

from tests.images import items, message, noise
from tests.running import vqtk_main
from tests.tiny import offline
from vqtk.datasets import _indexed
from vqtk.datasets._waves import read_wave, wave_claims
from vqtk.datasets.audio import Audio
from vqtk.datasets.emnist import EMNIST
from vqtk.datasets.fashion_mnist import FashionMNIST
from vqtk.datasets.huggingface import HuggingFace
from vqtk.datasets.torchvision import Torchvision
from vqtk.errors import DataError


def write_idx(raw: Path, part: str, count: int, *, first: int = 0) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    images, labels = noise(count, 28, 28, seed=count), (np.arange(count) % 10 + first).astype(np.uint8)
    for suffix, magic, array in (("images-idx3", 0x803, images), ("labels-idx1", 0x801, labels)):
        head = np.array([magic, *array.shape], dtype=">i4").tobytes()
        (raw / f"{part}-{suffix}-ubyte").write_bytes(head + array.tobytes())


def test_fashion_mnist_lies_where_torchvision_puts_it(tmp_path: Path) -> None:
    for part, count in (("train", 30), ("t10k", 20)):
        write_idx(tmp_path / "FashionMNIST" / "raw", part, count)
    splits = FashionMNIST().load(tmp_path)
    for split, train in zip(items(splits), (True, False), strict=True):
        assert torch.equal(split[:, 0], TorchvisionFashionMNIST(tmp_path, train=train).data)
    assert splits.labels is not None
    assert splits.labels[9] == "ankle boot"
    assert "other counts" in str(splits.note)


@pytest.mark.parametrize(("part", "first"), [("letters", 1), ("balanced", 0)])
def test_the_characters_of_emnist_are_upright(part: Any, first: int, tmp_path: Path) -> None:
    for name, count in (("train", 30), ("test", 20)):
        write_idx(tmp_path / "EMNIST" / "raw", f"emnist-{part}-{name}", count, first=first)
    splits = EMNIST(part=part).load(tmp_path)
    theirs = TorchvisionEMNIST(tmp_path, split=part, train=True)
    assert torch.equal(items(splits)[0][:, 0], theirs.data.mT)
    assert splits.labels is not None
    assert splits.train.labels is not None
    classes = TorchvisionEMNIST.classes_split_dict[part][first:]
    assert list(splits.labels) == classes
    assert [splits.labels[label] for label in splits.train.labels] == [
        theirs.classes[label] for label in theirs.targets
    ]


@pytest.mark.parametrize(
    ("dataset", "name"),
    [(FashionMNIST(), "Fashion-MNIST"), (EMNIST(), "EMNIST"), (Torchvision(dataset="KMNIST"), "KMNIST")],
)
def test_data_that_cannot_be_downloaded_are_named(
    dataset: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, tmp_path)
    assert name in message(dataset, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_dir()]


def test_torchvisions_data_sets_are_read_by_name(tmp_path: Path) -> None:
    for part, count in (("train", 30), ("t10k", 20)):
        write_idx(tmp_path / "KMNIST" / "raw", part, count)
    dataset = Torchvision(dataset="KMNIST", size=28, colours="grey")
    splits = dataset.load(tmp_path)
    assert [len(split) for split in items(splits)] == [30, 20]
    np.testing.assert_array_equal(items(splits)[0][:, 0].numpy(), noise(30, 28, 28, seed=30))
    assert splits.train.labels is not None
    assert splits.train.labels.tolist() == [index % 10 for index in range(30)]
    assert splits.labels is not None
    assert splits.labels[0] == "o"
    assert "Did you mean 'KMNIST'" in message(Torchvision(dataset="KNMIST"), tmp_path)
    assert "no splits train and test" in message(Torchvision(dataset="FakeData"), tmp_path)


def test_what_does_not_fit_in_memory_is_read_when_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, count in (("train", 30), ("t10k", 20)):
        write_idx(tmp_path / "KMNIST" / "raw", part, count)
    dataset = Torchvision(dataset="KMNIST", size=28, colours="grey")
    held = dataset.load(tmp_path)
    monkeypatch.setattr(_indexed, "HELD_AT_MOST", 100)
    read = dataset.load(tmp_path)
    assert isinstance(read.train, _indexed.Indexed)
    assert all(torch.equal(*pair) for pair in zip(items(held), items(read), strict=True))
    assert read.fingerprint() == dataset.load(tmp_path).fingerprint()


def test_a_data_set_of_hugging_face_is_read_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("datasets", reason="the extra vqtk[huggingface] is not installed")
    from PIL import Image

    pixels = noise(20, 6, 6, 3)
    rows = {"picture": [Image.fromarray(one) for one in pixels], "label": [index % 2 for index in range(20)]}
    library.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "plain"))
    splits = HuggingFace(dataset=str(tmp_path / "plain"), column="picture", size=6, test=0.3).load(tmp_path)
    train, test = items(splits)
    assert len(train) + len(test) == 20
    every = {one.numpy().tobytes() for one in torch.cat([train, test])}
    assert every == {one.transpose(2, 0, 1).tobytes() for one in pixels}
    assert splits.train.labels is not None
    assert len(splits.train.labels) == len(train)
    assert "Did you mean 'picture'" in message(HuggingFace(dataset=str(tmp_path / "plain"), column="pictur"), tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'vqtk[huggingface]'" in message(HuggingFace(dataset="a/b"), tmp_path)


# ── sounds ───────────────────────────────────────────────────────────────────────────────────────


def tone(rate: int, seconds: float = 0.5, frequency: float = 220.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


def write_tones(folder: Path, count: int = 12, rate: int = 8_000) -> Path:
    folder.mkdir()
    for index in range(count):
        wave = tone(rate, frequency=200.0 + 20 * index)
        wavfile.write(folder / f"{index:02}.wav", rate, (wave * 32_767).astype(np.int16))
    return folder


@pytest.mark.parametrize(
    ("dtype", "scale", "tolerance"), [("u1", 128, 2e-2), ("<i2", 2**15, 1e-4), ("<i4", 2**31, 1e-6), ("<f4", 1, 1e-6)]
)
def test_sounds_of_all_widths_are_read_alike(dtype: str, scale: float, tolerance: float, tmp_path: Path) -> None:
    wave = tone(8_000)
    stored = (wave * (scale - 1) + (128 if dtype == "u1" else 0)) if scale > 1 else wave
    wavfile.write(tmp_path / "it.wav", 8_000, np.stack([stored, stored], 1).astype(dtype))
    found = read_wave(tmp_path / "it.wav", 8_000)
    np.testing.assert_allclose(found, wave, atol=tolerance)
    assert wave_claims(tmp_path / "it.wav") == (8_000, len(wave))


def test_a_tone_keeps_its_frequency_at_another_rate(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "it.wav", 44_100, tone(44_100, seconds=1.0, frequency=440.0).astype(np.float32))
    found = read_wave(tmp_path / "it.wav", 8_000)
    assert len(found) == 8_000
    assert np.abs(np.fft.rfft(found)).argmax() == 440
    np.testing.assert_allclose(found[200:-200], tone(8_000, 1.0, 440.0)[200:-200], atol=0.02)


def test_sounds_are_windows_in_training_units(tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sounds")
    dataset = Audio(path=str(folder), length=1_000, unit=0.5, test=0.2)
    splits = dataset.load(tmp_path)
    assert len(splits.train) + len(splits.test) == dataset.count(tmp_path) == 48
    first = splits.train[torch.arange(1)]
    assert first.shape == (1, 1, 1_000)
    assert first.abs().max().item() == pytest.approx(1.0, abs=0.01)
    single = Audio(path=str(folder / "00.wav"), length=1_000).load(tmp_path)
    assert (len(single.train), len(single.test)) == (3, 1)


def test_damaged_sounds_are_refused_or_skipped(tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sounds", count=30)
    whole = (folder / "00.wav").read_bytes()
    (folder / "00.wav").write_bytes(whole[:30])
    splits = Audio(path=str(folder)).load(tmp_path)
    assert "Skipped 1 files" in str(splits.note)
    claims = bytearray(whole)
    claims[40:44] = b"\xff\xff\xff\xf0"  # A length of 4 GB.
    (folder / "01.wav").write_bytes(claims)
    assert wave_claims(folder / "01.wav") == (8_000, 4_000)
    for index in range(2, 9):
        (folder / f"{index:02}.wav").write_bytes(b"RIFF")
    assert "cannot be read" in message(Audio(path=str(folder)), tmp_path)
    (folder / "it.wav").write_bytes(whole[:24] + b"\0\0\0\0" + whole[28:])
    with pytest.raises(DataError, match="cannot be read as sound"):
        read_wave(folder / "it.wav", 8_000)


def test_samples_and_reconstructions_of_sounds_can_be_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tones(tmp_path / "sounds")
    monkeypatch.chdir(tmp_path)
    recipe = Path(__file__).parent.parent / "recipes" / "audio.yaml"
    small = ["data.batch=4", "model.stages=2", "model.options=4", "train.updates=2", "train.picture_items=2"]
    assert vqtk_main(monkeypatch, "run", recipe, *small, "--out", "runs", "--device", "cpu") == 0
    (run,) = Path("runs/audio").iterdir()
    weights = tmp_path / "it.safetensors"
    assert vqtk_main(monkeypatch, "export", run, "-o", weights) == 0
    assert vqtk_main(monkeypatch, "sample", weights, "-n", "3", "-o", "heard.png", "--device", "cpu") == 0
    rate, samples = wavfile.read("heard.wav")
    assert (rate, len(samples)) == (8_000, 3 * (1_024 + 2_000))
    assert vqtk_main(monkeypatch, "reconstruct", run, "--item", "1", "-o", "both.png", "--device", "cpu") == 0
    _, both = wavfile.read("both.wav")
    dataset = Audio(path="sounds", rate=8_000, length=1_024)
    expected = dataset.load(tmp_path).test[torch.tensor([1])].flatten().numpy() * dataset.unit
    np.testing.assert_allclose(both[:1_024] / 32_767, expected, atol=1e-4)
    assert Path("both.png").read_bytes()[:4] == b"\x89PNG"
    assert list((run / "images").glob("*.wav"))
    capsys.readouterr()
