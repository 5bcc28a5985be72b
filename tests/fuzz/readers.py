"""The readers of files, each with small real files that a fuzzer begins with."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.io import savemat, wavfile

from tests.tiny import experiment, few, shipped, train
from vqtk.codec import CodeWriter, decompress
from vqtk.coders import coder_of
from vqtk.compare.collect import collect
from vqtk.datasets import cifar10, mnist, svhn, voxels
from vqtk.datasets._meshes import read_off, solid
from vqtk.datasets._pixels import read_image
from vqtk.datasets._shards import read_shard
from vqtk.datasets._waves import read_wave, wave_claims
from vqtk.datasets.text import Text
from vqtk.errors import DataError
from vqtk.io.original import load_original, read_original
from vqtk.io.weights import load_weights
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import Recipe, load_recipe
from vqtk.report.page import write_report
from vqtk.runs.catalogue import runs_in
from vqtk.runs.directory import RunDirectory
from vqtk.sampling.prior import fit_markov
from vqtk.study.study import load_study
from vqtk.training.execution import Execution
from vqtk.training.loop import Trainer

STUDY = (
    'name: s\nbase: tiny.yaml\nseeds: [0, 1]\naxes: {options: {few: [], more: ["model.options=8"]}}\nmetrics: [final]\n'
)
OFF = "OFF\n4 4 6\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"
SMALL = ["model.options=2", "train.updates=2", "train.evaluate_items=2", "train.picture_items=2"]
CHECKPOINT = "run/checkpoints/update_00000002"
ROOT_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True)
class Reader:
    """What reads a file: `path` of the folder it is called in, and what it begins with."""

    path: str
    read: Callable[[Path], object]
    seeds: Callable[[Path], list[bytes]]


def made(folder: Path) -> None:
    """Make a recipe, a study and a run of two updates in a folder, and files of digits."""
    run = train(experiment(folder, few(shipped(folder)), *SMALL), folder / "made").path
    run.replace(folder / "run")
    (folder / "study.yaml").write_text(STUDY)
    weights = folder / f"{CHECKPOINT}.safetensors"
    with safe_open(weights, "pt") as file:  # Without a checksum, which would refuse every change.
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = {**file.metadata(), "format": "vqtk", "trainer_sha256": ""}
    save_file(tensors, weights, metadata)
    shutil.copytree(folder / "run", folder / "runs" / "run")
    cells = [{"variant": "few", "choices": {"options": "few"}, "seed": 0, "path": "run", "recipe_sha256": "0"}]
    study = {"name": "s", "baseline": "few", "metrics": [{"name": "final", "better": "lower"}], "cells": cells}
    study |= {"terms": {"equal": "updates", "value": 4, "said": "x"}, "axes": {"options": ["few"]}}
    (folder / "runs" / "study.json").write_text(json.dumps(study))
    raw = folder / "idx" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ROOT_FILES:
        (raw / name).write_bytes(_idx(images="images" in name))


def _kept(*names: str) -> Callable[[Path], list[bytes]]:
    """Return a function from the folder to the contents of files in it."""
    return lambda folder: [(folder / name).read_bytes() for name in names]


def _images(folder: Path) -> list[bytes]:
    found = []
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    kinds = {"PNG": ["RGB", "RGBA", "L", "P", "1", "LA"], "JPEG": ["RGB", "L"], "GIF": ["P"], "BMP": ["RGB"]}
    for kind, modes in {**kinds, "TIFF": ["RGB", "L", "I;16"], "WEBP": ["RGB"], "PPM": ["RGB"]}.items():
        for mode in modes:
            written = io.BytesIO()
            image = Image.fromarray(values[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(values)
            (image if mode == "I;16" else image.convert(mode)).save(written, kind)
            found.append(written.getvalue())
    return found


def _shard(path: Path) -> object:
    with patch.dict(os.environ, XDG_CACHE_HOME=str(path.parent)):  # Its index is written there.
        return read_shard(path)


def _tars(folder: Path) -> list[bytes]:
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        written = io.BytesIO()
        with tarfile.open(fileobj=written, mode="w", format=form) as tar:
            for name, content in (("ä" * 40 + "/" + "x" * 60 + ".png", b"png"), ("1.cls", b"3"), ("1.jpg", b"jpg")):
                header = tarfile.TarInfo(name)
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
        found.append(written.getvalue())
    return found


def _npz(folder: Path) -> list[bytes]:
    found = []
    for save in (np.savez, np.savez_compressed):
        for dtype in (bool, np.uint8, np.float32):
            written = io.BytesIO()
            save(written, voxels=np.ones((4, 4, 4), dtype))
            found.append(written.getvalue())
    array = io.BytesIO()
    np.save(array, np.zeros((4, 4, 4)))
    return [*found, array.getvalue()]


def _idx(*, images: bool) -> bytes:
    shape = (2, 28, 28) if images else (2,)
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes(int(np.prod(shape)))


def _batches(folder: Path) -> list[bytes]:
    data = np.zeros((2, 3072), np.uint8)
    return [pickle.dumps({key(b"data"): data, key(b"labels"): [0, 9]}, protocol)
            for key in (bytes, bytes.decode) for protocol in (0, 2, 4)]  # fmt: skip


def _mat(folder: Path) -> list[bytes]:
    found = []
    for compressed in (False, True):
        written = io.BytesIO()
        savemat(written, {"X": np.zeros((32, 32, 3, 1), np.uint8), "y": np.ones((1, 1))}, do_compression=compressed)
        found.append(written.getvalue())
    return found


def _originals(folder: Path) -> list[bytes]:
    found = []
    for state in ({"a": torch.zeros(2)}, dict(build_model(_recipe(folder)).state_dict())):
        written = io.BytesIO()
        torch.save(state, written)
        found.append(written.getvalue())
    return found


@cache
def _recipe(folder: Path) -> Recipe:
    return load_recipe(folder / "run" / "recipe.yaml")


def _restored(path: Path) -> object:
    recipe = _recipe(path.parent.parent.parent)
    return RunDirectory(path.parent.parent).restore(Trainer(recipe, build_model(recipe), Execution()))


def _weights(path: Path) -> object:
    return load_weights(path)


def _opened(path: Path) -> object:
    return RunDirectory.open(path.parent)


def _reported(path: Path) -> object:
    return collect([path.parent]), write_report(path.parent)


def _studied(path: Path) -> object:
    return collect([path.parent])


def _imported(path: Path) -> object:
    return load_original(build_model(_recipe(path.parent)), read_original(path))


def _voxels(path: Path) -> object:
    found = voxels._read(path, 4)
    if isinstance(found, DataError):
        raise found
    return found


def _digits(path: Path) -> object:
    return mnist.MNIST().load(path.parent.parent.parent)


def _housenumbers(path: Path) -> object:
    return svhn._length(path), svhn._read(path)


def _text(path: Path) -> object:
    return Text(path=str(path), length=4, vocabulary=8, test=0.5).load(path.parent)


def _listed(path: Path) -> object:
    return [(run.damage, run.value("tag"), run.value("note"), run.value("lr")) for run in runs_in(path.parent)]


def _coded(folder: Path) -> list[bytes]:
    """Files of codes of the run's model, without a prior and with stored tables."""
    model, found = load_weights(folder / f"{CHECKPOINT}.safetensors")[0], []
    codes = torch.zeros(3, model.stages, dtype=torch.int64)
    for name in ("packed", "frequencies"):
        path = folder / f"{name}.vqd"
        coder = coder_of(name, model, fitted=lambda: fit_markov(codes, model.options))
        with CodeWriter(path, model, coder, named=True) as writer:
            writer.add(codes, ["a.png", "b.png", "c.png"])
        found.append(path.read_bytes())
    return found


def _codes(path: Path) -> object:
    model = load_weights(path.parent / f"{CHECKPOINT}.safetensors")[0]
    return [shown.shape for _, shown in decompress(model, path)]


def _waves(folder: Path) -> list[bytes]:
    found = []
    for dtype in ("u1", "<i2", "<f4"):
        stored = io.BytesIO()
        wavfile.write(stored, 8_000, np.arange(40).reshape(20, 2).astype(dtype))
        found.append(stored.getvalue())
    return found


READERS = {
    "weights": Reader("it.safetensors", _weights, _kept(f"{CHECKPOINT}.safetensors")),
    "state": Reader(f"{CHECKPOINT}.trainer.pt", _restored, _kept(f"{CHECKPOINT}.trainer.pt")),
    "manifest": Reader("run/manifest.json", _opened, _kept("run/manifest.json")),
    "metrics": Reader("run/metrics.jsonl", _reported, _kept("run/metrics.jsonl")),
    "summary": Reader("run/summary.json", _reported, _kept("run/summary.json")),
    "evaluation": Reader("run/evaluation.json", _reported, _kept("run/evaluation.json")),
    "listed manifest": Reader("run/manifest.json", _listed, _kept("run/manifest.json")),
    "tags": Reader("run/labels.json", _listed, lambda folder: [b'{"tags": ["good"], "note": "a beam"}']),
    "study.json": Reader("runs/study.json", _studied, _kept("runs/study.json")),
    "recipe": Reader("fuzzed.yaml", load_recipe, _kept("tiny.yaml", "study.yaml")),
    "study": Reader("fuzzed.yaml", load_study, _kept("study.yaml", "tiny.yaml")),
    "image": Reader("it.png", lambda path: read_image(path, size=8), _images),
    "shard": Reader("it.tar", _shard, _tars),
    "wave": Reader("it.wav", lambda path: (wave_claims(path), read_wave(path, 4_000)), _waves),
    "text": Reader("it.txt", _text, lambda folder: [b"some text, all of it\n" * 3, "däöü\r\n".encode() * 9]),
    "voxels": Reader("it.npz", _voxels, _npz),
    "mesh": Reader("it.off", lambda path: solid(read_off(path), 8), lambda folder: [OFF.encode()]),
    "idx": Reader(f"idx/MNIST/raw/{ROOT_FILES[0]}", _digits, lambda folder: [_idx(images=True)]),
    "labels": Reader(f"idx/MNIST/raw/{ROOT_FILES[1]}", _digits, lambda folder: [_idx(images=False)]),
    "cifar": Reader("data_batch_1", cifar10._batch, _batches),
    "svhn": Reader("train_32x32.mat", _housenumbers, _mat),
    "codes": Reader("it.vqd", _codes, _coded),
    "original": Reader("it.pt", _imported, _originals),
}
