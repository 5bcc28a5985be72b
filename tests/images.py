"""Small image data sets, written as the real ones are, and what loading them comes to."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from vqtk.datasets._base import Dataset, Splits
from vqtk.errors import DataError

BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_svhn(folder: Path, items: int = 12) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("train_32x32.mat", "test_32x32.mat")):
        labels = np.arange(items, dtype=np.uint8)[:, None] % 10 + 1
        savemat(folder / name, {"X": noise(32, 32, 3, items, seed=seed), "y": labels}, do_compression=True)
    return folder


def write_cifar(folder: Path, items: int = 4, protocol: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(BATCHES):
        batch = {
            "data": noise(items, 3072, seed=seed),
            "labels": [i % 10 for i in range(items)],
            "filenames": ["x.png"],
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    return folder


def write_images(folder: Path, *names: str, size: tuple[int, int] = (9, 12)) -> Path:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(*size, 3, seed=seed)).save(folder / name)
    return folder


def write_celeba(folder: Path, items: int = 30, size: tuple[int, int] = (27, 22)) -> Path:
    names = [f"{i:06}.png" for i in range(items)]
    write_images(folder / "img_align_celeba", *names, size=size)
    parts = "".join(f"{name} {(0, 0, 1, 2)[i % 4]}\n" for i, name in enumerate(names))
    (folder / "list_eval_partition.txt").write_text(parts)
    return folder


def message(dataset: Dataset, root: Path) -> str:
    """The one paragraph with which a data set refuses to load."""
    with pytest.raises(DataError) as raised:
        dataset.load(root)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def items(splits: Splits) -> list[torch.Tensor]:
    return [split[torch.arange(len(split))] for split in (splits.train, splits.test)]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


class _Server(ThreadingHTTPServer):
    """A server that says nothing of clients that hang up before they have read everything."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the files of a folder to this machine alone, and yield the address."""
    with _Server(("127.0.0.1", 0), partial(_Handler, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
