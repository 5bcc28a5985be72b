"""What happens when a run fails: save what is sound, and explain in a paragraph how to continue."""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vqtk.errors import CheckpointError, DataError, DivergenceError, VqtkError, is_out_of_memory, told_by_system
from vqtk.io.run_files import resumable
from vqtk.plugin.loading import in_plugin
from vqtk.runs.checkpoints import check_checkpoint
from vqtk.runs.directory import RunDirectory
from vqtk.training.batches import Passes
from vqtk.training.loop import Trainer


def failure(
    error: Exception,
    trainer: Trainer,
    directory: RunDirectory,
    *,
    manifest: Callable[[], dict[str, Any]],
    again: str | None,
) -> tuple[VqtkError | None, str]:
    """Save what is sound; return the error as a paragraph (None if it was not foreseen), and how to continue.

    Arguments:
        error: what was raised.
        trainer: the trainer that failed.
        directory: its run directory.
        manifest: returns the facts of the run, for a directory that was removed.
        again: the command that continues the run; by default `vqtk run --resume`.
    """
    explained = _explained(error, trainer, directory)
    if any(map(is_out_of_memory, _causes(error))):
        _let_go(error, trainer)
    diverged = isinstance(error, DivergenceError)
    kept = _newest(directory) if diverged else _rescued(trainer, directory, manifest)
    again = again or f"vqtk run --resume {shlex.quote(str(directory.path))}"
    left = _left(kept, directory, again, diverged=diverged)
    return (VqtkError(f"{explained} {left}") if explained else None), left


# ── what failed ──────────────────────────────────────────────────────────────────────────────────


def _explained(error: Exception, trainer: Trainer, directory: RunDirectory) -> str | None:
    """Return what failed and what to change, in a sentence or two; None if it is a bug in vqtk or a plugin."""
    at = f"after update {trainer.done}"
    foreseen = isinstance(error, (VqtkError, OSError))
    system = next((one for one in _causes(error) if isinstance(one, OSError)), None) if foreseen else None
    if isinstance(error, DataError):
        return str(error)
    if any(map(is_out_of_memory, _causes(error))):
        return f"{_out_of_memory(trainer, directory)} It happened {at}: {_line(error)}."
    if system and directory.is_gone():
        return (
            f"{directory.path}: the run directory was removed or moved during training, {at}. What it held before is "
            "not in the new one."
        )
    if isinstance(error, VqtkError) and not system:
        return str(error)
    if "DataLoader worker" in str(error):
        return (
            f"the system ended a process that reads the data, {at} ({_line(error)}): it is out of memory or of shared "
            "memory (/dev/shm). Free some."
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
        f"out of memory on {device}. Free some and resume, or start a run that needs less: vqtk run "
        f"{directory.path / 'recipe.yaml'} with {smaller}, train.gradient_checkpointing=true, or "
        "train.precision=bfloat16."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that it was raised from or during the handling of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: BaseException) -> str:
    """Return the first line of another library's error."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:300]


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────


def _let_go(error: BaseException, trainer: Trainer) -> None:
    """Free what the failed update holds, because saving needs memory, too."""
    for one in list(_causes(error)):
        traceback.clear_frames(one.__traceback__)
    trainer.passes = Passes(trainer.processes)
    with suppress(Exception):  # A device that has failed may fail here as well.
        trainer.optimizer.zero_grad(set_to_none=trainer.captured is None)


def _rescued(
    trainer: Trainer, directory: RunDirectory, manifest: Callable[[], dict[str, Any]]
) -> tuple[int, str] | None:
    """Try to write a checkpoint if the state is sound; return the update and path of the newest one, if any."""
    whole = trainer.sound and (trainer.logged == trainer.done or directory.is_gone())
    if trainer.held:  # The other processes, which have the other parts, may have ended.
        with suppress(VqtkError):
            trainer.held.writer.wait()
    elif whole and trainer.done:
        with suppress(Exception):  # What failed, such as a full disk, may prevent this as well: use the one before.
            if directory.is_gone():
                RunDirectory.create_at(directory.path, trainer.recipe)
                directory.write_manifest(manifest())
            directory.save(trainer)
    return _newest(directory)


def _newest(directory: RunDirectory) -> tuple[int, str] | None:
    return next((found for found in map(_sound, reversed(resumable(directory.path))) if found), None)


def _sound(path: Path) -> tuple[int, str] | None:
    """Return the update and path of a checkpoint; None if damaged. Without memory to read it, assume it is sound."""
    try:
        check_checkpoint(path)
    except CheckpointError:
        return None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return int(path.stem.removeprefix("update_")), str(path)


def _left(kept: tuple[int, str] | None, directory: RunDirectory, again: str, *, diverged: bool) -> str:
    restart = f"vqtk run {directory.path / 'recipe.yaml'}"
    if kept is None and directory.is_gone():
        return "Nothing is left of the run: start it again, and choose with --out a folder that stays."
    if kept is None:
        changed = " train.optimizer.lr=…" if diverged else ""
        return f"There was no checkpoint yet. Start the run again: {restart}{changed}"
    update, path = kept
    if diverged:
        return (
            f"The checkpoint of update {update} is sound: {path}. To resume from it ({again}) would diverge again: "
            f"start a run with other settings: {restart} train.optimizer.lr=…"
        )
    return f"The checkpoint of update {update} is sound: {path}. Resume: {again}"
