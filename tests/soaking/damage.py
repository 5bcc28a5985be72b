"""Checkpoints with a byte flipped or an end cut off: none may load, and a run goes back to the one before."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from tests.soaking.comparing import Found, compare
from tests.soaking.kinds import write_kind
from tests.soaking.processes import Moment, end_of, start
from vqtk.errors import CheckpointError
from vqtk.io.run_files import checkpoints
from vqtk.io.weights import load_weights, read_weights
from vqtk.recipe.build import build_model
from vqtk.runs.directory import RunDirectory
from vqtk.training.loop import Trainer

RESUMED_EVERY = 25
"""So often a run with a damaged checkpoint is also resumed to its end."""


def damage(folder: Path, *, flips: int, truncations: int, seed: int) -> list[str]:
    """Damage the newest checkpoint of a run in so many ways, print what came of it, and return what should not be."""
    torch.set_num_threads(1)
    source = write_kind("segments", folder)
    command = ["run", str(source), "--threads", "1", "--device", "cpu", "--out"]
    whole = _only(folder / "whole", command, Moment())
    run = _only(folder / "killed", [*command], Moment(pieces=9))
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    drawn, remarks, found = random.Random(seed), [], Found("damaged")
    for number in range(flips + truncations):
        newest = checkpoints(run)[-1]
        damaged = drawn.choice([newest, newest.with_suffix(".trainer.pt")])
        content = kept[damaged]
        damaged.write_bytes(_flipped(content, drawn) if number < flips else content[: drawn.randrange(len(content))])
        what = f"{damaged.name}, {'flip' if number < flips else 'truncation'} {number}"
        remarks += [f"{what}: {told}" for told in _loaded(run, newest, damaged)]
        if number % RESUMED_EVERY == 0:
            code = end_of(start(["run", "--resume", str(run), "--device", "cpu"], folder / "log"))
            found.add("failures", code != 0, f"{what}: resuming ended with {code}")
            compare([run], [whole], found)
        _put_back(run, kept)
    print(
        f"{flips} flips and {truncations} truncations: {len(remarks)} went unnoticed; resumed to another end: ", end=""
    )
    print(len(found.remarks), *remarks, *found.remarks, sep="\n")
    return [*remarks, *found.remarks]


def _only(out: Path, command: list[str], moment: Moment) -> Path:
    out.mkdir(parents=True)
    end_of(start([*command, str(out)], out / "log", moment))
    return next(out.glob("it/*"))


def _flipped(content: bytes, drawn: random.Random) -> bytes:
    flipped = bytearray(content)
    # Half of them in the first few thousand bytes, where the header and the recipe are.
    where = drawn.randrange(len(content) if drawn.random() < 0.5 else min(len(content), 4000))
    flipped[where] ^= 1 << drawn.randrange(8)
    return bytes(flipped)


def _loaded(run: Path, newest: Path, damaged: Path) -> list[str]:
    """Return what was loaded although it is damaged."""
    told = []
    if damaged == newest:
        for read in (read_weights, load_weights):
            try:
                read(damaged)
                told.append(f"{read.__name__} loaded it")
            except CheckpointError:
                pass
    directory, recipe = RunDirectory.open(run)
    trainer = Trainer(recipe, build_model(recipe))
    before = int(checkpoints(run)[-2].stem.removeprefix("update_"))
    note = directory.restore(trainer)
    if trainer.done != before or newest.stem not in str(note):
        told.append(f"resuming took update {trainer.done}, not {before}: {note}")
    return told


def _put_back(run: Path, kept: dict[Path, bytes]) -> None:
    for path in run.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()
    for path, content in kept.items():
        path.write_bytes(content)
