"""A run that fails on its way: what is saved then, and the paragraph that says how to go on."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from vqtk.errors import CheckpointError
from vqtk.errors import DataError
from vqtk.errors import DivergenceError
from vqtk.errors import VqtkError
from vqtk.errors import is_out_of_memory
from vqtk.errors import told_by_system
from vqtk.io.weights import checkpoints
from vqtk.io.weights import read_weights
from vqtk.plugin.loading import in_plugin
from vqtk.runs.directory import RunDirectory
from vqtk.train.loop import Trainer
import shlex
import traceback


def failure(
    error: Exception,
    trainer: Trainer,
    directory: RunDirectory,
    *,
    manifest: Callable[[], dict[str, Any]],
    again: str | None,
) -> tuple[VqtkError | None, str]:
    """Save what is sound; return the error in a paragraph, None if nobody foresaw it, and what there is to go on from.

    Arguments:
        manifest: returns the facts of the run, for a directory that was removed.
        again: the command to go on with; by default `vqtk run --resume`.
    """
    told = _explained(error, trainer, directory)
    if any(map(is_out_of_memory, _causes(error))):
        _let_go(error, trainer)
    diverged = isinstance(error, DivergenceError)
    kept = _newest(directory) if diverged else _rescued(trainer, directory, manifest)
    again = again or f"vqtk run --resume {shlex.quote(str(directory.path))}"
    left = _left(kept, directory, again, diverged=diverged)
    return (VqtkError(f"{told} {left}") if told else None), left


# ── what failed ──────────────────────────────────────────────────────────────────────────────────


def _explained(error: Exception, trainer: Trainer, directory: RunDirectory) -> str | None:
    """Return what failed and what to change, in a sentence or two; None where it is a bug of ours or of a plugin."""
    at = f"after update {trainer.done}"
    foreseen = isinstance(error, (VqtkError, OSError))
    system = next((one for one in _causes(error) if isinstance(one, OSError)), None) if foreseen else None
    if isinstance(error, DataError):
        return str(error)
    if any(map(is_out_of_memory, _causes(error))):
        return f"{_out_of_memory(trainer, directory)} It came {at}: {_line(error)}."
    if system and directory.is_gone():
        return (
            f"{directory.path}: the run directory was removed or moved while it trained, {at}. What it held before is "
            "not in the one that is there now."
        )
    if isinstance(error, VqtkError) and not system:
        return str(error)
    if "DataLoader worker" in str(error):
        return (
            f"a process that reads the data was ended by the system, {at} ({_line(error)}): memory has run out, or "
            "shared memory (/dev/shm). Free some of it."
        )
    if system and not in_plugin(error):
        system.filename = system.filename or str(directory.path)
        return f"training stopped {at}: {told_by_system(system)}"
    return None


def _out_of_memory(trainer: Trainer, directory: RunDirectory) -> str:
    settings, device = trainer.settings, trainer.model.device.type
    piece = min(settings.micro_batch or trainer.recipe.batch, trainer.recipe.batch)
    smaller = f"train.micro_batch={max(1, piece // 2)} (now {piece}; the update is the same but for rounding)"
    return (
        f"out of memory on {device}. Free some and go on, or start a run that needs less: vqtk run "
        f"{directory.path / 'recipe.yaml'} with {smaller}, train.gradient_checkpointing=true, or "
        "train.precision=bfloat16."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from, or while handling which."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: BaseException) -> str:
    """Return the first line of an error of another library."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:300]


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────


def _let_go(error: BaseException, trainer: Trainer) -> None:
    """Free what the failed update holds: saving needs memory, too."""
    for one in list(_causes(error)):
        traceback.clear_frames(one.__traceback__)
    trainer.passes = []
    with suppress(Exception):  # A device that has failed fails at this, too.
        trainer.optimizer.zero_grad(set_to_none=trainer.captured is None)


def _rescued(
    trainer: Trainer, directory: RunDirectory, manifest: Callable[[], dict[str, Any]]
) -> tuple[int, str] | None:
    """Write a checkpoint if the state is sound and it can be; return the newest one's update and path."""
    whole = trainer.sound and (trainer.logged == trainer.done or directory.is_gone())
    if whole and trainer.done:
        with suppress(Exception):  # What keeps it from being written is often what has failed: the one before counts.
            if directory.is_gone():
                RunDirectory.create_at(directory.path, trainer.recipe)
                directory.write_manifest(manifest())
            directory.save(trainer)
    return _newest(directory)


def _newest(directory: RunDirectory) -> tuple[int, str] | None:
    return next((found for found in map(_sound, reversed(checkpoints(directory.path))) if found), None)


def _sound(weights: Path) -> tuple[int, str] | None:
    """Return the update and path of a checkpoint, None if damaged; without memory to look, it is taken for whole."""
    try:
        read_weights(weights)
    except CheckpointError:
        return None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return int(weights.stem.removeprefix("update_")), str(weights)


def _left(kept: tuple[int, str] | None, directory: RunDirectory, again: str, *, diverged: bool) -> str:
    anew = f"vqtk run {directory.path / 'recipe.yaml'}"
    if kept is None and directory.is_gone():
        return "Nothing is left of it: start it again, with --out where it may stay."
    if kept is None:
        return f"There was no checkpoint yet. Start it again: {anew}"
    update, path = kept
    if diverged:
        return (
            f"The checkpoint of update {update} is sound: {path}. To go on from it repeats what came ({again}); start "
            f"a run with other settings: {anew} train.optimizer.lr=…"
        )
    return f"The checkpoint of update {update} is sound: {path}. Go on: {again}"
