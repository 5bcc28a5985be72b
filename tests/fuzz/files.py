"""Readers of files, fuzzed by inputs that are led by which of the lines that read them are reached."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import atheris
import torch

with atheris.instrument_imports(include=["vqtk", "trimesh.exchange", "ruamel", "numpy.lib"]):
    from tests.fuzz.readers import READERS, Reader, made

from tests.fuzz.campaign import MOST_BYTES, SLOWEST_S
from vqtk.errors import VqtkError

CASES = 3
"""Inputs kept of each way to go wrong."""
LONGEST = 1 << 16
"""Bytes of an input."""


class Watch:
    """Calls a reader with one input after another, counts how they end, and keeps those that must not end so."""

    def __init__(self, name: str, folder: Path, keep: Path):
        self.name, self.reader, self.folder, self.keep = name, READERS[name], folder, keep
        self.ended: Counter[str] = Counter()
        self.wrong: dict[str, dict[str, Any]] = {}
        self.slowest = 0.0

    def __call__(self, content: bytes) -> None:
        """Write an input to the reader's path and read it."""
        path = self.folder / self.reader.path
        path.write_bytes(content)
        began = time.process_time()
        try:
            self.reader.read(path)
            self.ended["read"] += 1
        except VqtkError as error:
            self.ended[type(error).__name__] += 1
            if len(str(error)) > 10_000:
                self._went_wrong("a long message", content, str(error))
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} {Path(place.filename).name}:{place.lineno}"
            self._went_wrong(kind, content, traceback.format_exc())
        took = time.process_time() - began
        self.slowest = max(self.slowest, took)
        if took > SLOWEST_S:
            self._went_wrong("slow", content, f"{took:.1f} s")

    def _went_wrong(self, kind: str, content: bytes, told: str) -> None:
        found = self.wrong.setdefault(kind, {"count": 0, "told": told[-2500:]})
        found["count"] += 1
        if found["count"] <= CASES:
            self.keep.mkdir(parents=True, exist_ok=True)
            (self.keep / f"{self.name}-{len(self.wrong)}-{found['count']}").write_bytes(content)
            self.write()

    def write(self) -> None:
        """Write what has been found so far."""
        self.keep.mkdir(parents=True, exist_ok=True)
        facts = {"ended": self.ended, "wrong": self.wrong, "slowest_s": round(self.slowest, 2)}
        (self.keep / f"{self.name}.json").write_text(json.dumps(facts, indent=1))


def fuzz_all(names: list[str], *, minutes: float, keep: Path, seed: int) -> bool:
    """Fuzz readers one after another, each in a process of its own; print how they ended, and return whether all well.

    Inputs that must not end as they did are kept in a folder.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # A process that has threads cannot be forked and go on with them.
    keep = keep.resolve()
    keep.mkdir(parents=True, exist_ok=True)
    well = True
    with tempfile.TemporaryDirectory() as place:
        made(Path(place))
        for name in names:
            seconds = max(10, int(60 * minutes / len(names)))
            target = multiprocessing.get_context("fork").Process(
                target=_fuzz, args=(name, Path(place), keep), kwargs={"seconds": seconds, "seed": seed}
            )
            target.start()
            target.join()
            well &= _printed(name, keep, target.exitcode)
    return well


def _printed(name: str, keep: Path, code: int | None) -> bool:
    path = keep / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {"ended": {}, "wrong": {}, "slowest_s": None}
    ended = ", ".join(f"{kind} {count:,}" for kind, count in found["ended"].items())
    print(f"{name:12} {ended}; slowest {found['slowest_s']} s; exit code {code}", flush=True)
    for kind, one in found["wrong"].items():
        print(f"WRONG {one['count']:,} times: {kind}\n{one['told']}", flush=True)
    return not found["wrong"] and not code


def _fuzz(name: str, place: Path, keep: Path, *, seconds: int, seed: int) -> None:
    """Fuzz a reader for some seconds; libFuzzer ends the process, also where an input takes too much."""
    with tempfile.TemporaryDirectory() as own:
        folder = Path(own) / "here"
        shutil.copytree(place, folder)
        os.chdir(folder)
        corpus = folder / "corpus"
        corpus.mkdir()
        reader: Reader = READERS[name]
        for index, content in enumerate(reader.seeds(folder)):
            (corpus / str(index)).write_bytes(content)
        watch, began, written = Watch(name, folder, keep), time.monotonic(), 0.0

        def step(content: bytes) -> None:
            nonlocal written
            watch(content)
            if time.monotonic() - written > 1:
                written = time.monotonic()
                watch.write()
            if time.monotonic() - began > seconds:
                watch.write()
                shutil.rmtree(own, ignore_errors=True)
                os._exit(0)

        with open("/proc/self/statm") as file:
            has = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        limits = [f"-timeout={12 * SLOWEST_S}", f"-max_len={LONGEST}", f"-seed={seed + 1}", "-verbosity=0"]
        limits += [f"-rss_limit_mb={(has + MOST_BYTES) >> 20}", f"-malloc_limit_mb={MOST_BYTES >> 20}"]
        atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={keep}/{name}-", str(corpus)], step)
        atheris.Fuzz()
