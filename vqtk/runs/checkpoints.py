"""Checkpoints as files, in two forms.

update_00000100.safetensors, update_00000100.trainer.pt     the weights; the trainer's state
update_00000100.dist/                                       both in parts, with `train.shard`

Each file is replaced atomically. The state is written first, so a file of weights means a complete checkpoint. A folder
of parts receives its name when all parts are written.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vqtk.errors import CheckpointError
from vqtk.files import file_sha256, set_apart, write_bytes
from vqtk.io.run_files import PARTS
from vqtk.io.weights import copy_into, read_weights, save_weights
from vqtk.training.loop import Trainer

_WEIGHTS = ".safetensors"
_STATE = ".trainer.pt"

# ── writing ──────────────────────────────────────────────────────────────────────────────────────


def checkpoint_at(run: Path, trainer: Trainer) -> Path:
    """Return where a run has the checkpoint of its trainer's last update: a weights file, or a folder of parts."""
    return run / "checkpoints" / f"update_{trainer.done:08d}{PARTS if trainer.held else _WEIGHTS}"


def write_checkpoint(path: Path, trainer: Trainer, facts: dict[str, Any], written: Callable[[], None]) -> None:
    """Write a checkpoint, and call `written` once it is complete.

    Parts are written by all processes while training continues, and the first process calls it.

    Raises: VqtkError if it cannot be written.
    """
    facts = {**facts, "update": trainer.done}
    if not trainer.held:
        _write_whole(path, trainer, facts)
        written()
        return
    from vqtk.training.parts_checkpoint import settings_of, tensors_of

    facts |= {"seconds": trainer.seconds, "recipe": trainer.recipe.plain(), "processes": trainer.processes.size}
    facts |= {"optimizer": settings_of(trainer.optimizer)}
    trainer.held.writer.write(path, tensors_of(trainer), facts, written)


def _write_whole(weights: Path, trainer: Trainer, facts: dict[str, Any]) -> None:
    """Write the trainer's state and then the weights: once these exist, the checkpoint is complete."""
    state, buffer = _state_of(weights), io.BytesIO()
    torch.save(trainer.state(), buffer)  # Not to the file: torch.save does not report a full disk.
    sha256 = hashlib.sha256(buffer.getbuffer()).hexdigest()
    try:
        write_bytes(state, buffer.getvalue())
        with trainer.evaluated() as model:
            save_weights(weights, model, trainer.recipe, trainer_sha256=sha256, **facts)
    except BaseException:  # Without weights, the state belongs to no checkpoint.
        state.unlink(missing_ok=True)
        raise


def write_weights(run: Path, trainer: Trainer, facts: dict[str, Any]) -> None:
    """Write the weights file of a trainer whose processes hold the weights in parts; all of them call this.

    Raises: VqtkError if it cannot be written.
    """
    assert trainer.held is not None
    weights = checkpoint_at(run, trainer).with_suffix(_WEIGHTS)
    with trainer.evaluated() as model:
        if trainer.processes.leads and not weights.exists():
            save_weights(weights, model, trainer.recipe, state=trainer.held.state_dict(), update=trainer.done, **facts)


def _state_of(weights: Path) -> Path:
    return weights.with_suffix(_STATE)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


def check_checkpoint(path: Path) -> None:
    """Raise CheckpointError if the weights of a checkpoint are damaged."""
    if path.suffix == PARTS:
        from vqtk.training.parts_checkpoint import check_parts

        check_parts(path)
    else:
        read_weights(path)


def open_checkpoint(path: Path) -> tuple[dict[str, Any], Callable[[Trainer], None]]:
    """Return the recipe of a checkpoint, as plain values, and what restores a trainer to it.

    Raises: CheckpointError if it is damaged; what is returned does if it is not the state of such a trainer.
    """
    if path.suffix == PARTS:
        from vqtk.training.parts_checkpoint import check_parts, read_parts

        facts = check_parts(path)
        return facts["recipe"], partial(read_parts, folder=path, facts=facts)
    tensors, metadata = read_weights(path)
    state = _read_state(_state_of(path), metadata["trainer_sha256"])

    def restore(trainer: Trainer) -> None:
        copy_into(trainer.model, tensors, path)
        try:
            trainer.restore(state)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            raise CheckpointError(f"{_state_of(path)}: not the state of this run's trainer.") from None

    return metadata["recipe"], restore


def _read_state(path: Path, sha256: str) -> dict[str, Any]:
    """Return a trainer's state; `sha256` is the expected checksum of its file, empty if none was recorded."""
    try:
        if sha256 and file_sha256(path) != sha256:
            raise CheckpointError(f"{path}: its checksum does not match its contents.")
        return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the trainer's state is missing.") from None
    except Exception as error:  # Bytes that are not a pickle can raise anything: they are read as random opcodes.
        raise CheckpointError(f"{path}: not a trainer's state, or cut short ({type(error).__name__}).") from None


# ── removing ─────────────────────────────────────────────────────────────────────────────────────


def mark_damaged(checkpoint: Path) -> None:
    """Rename a damaged checkpoint, so that it no longer counts as the newest one."""
    for path in {checkpoint, checkpoint.with_suffix(_WEIGHTS), _state_of(checkpoint)}:
        if path.exists():
            path.replace(path.with_name(path.name + ".damaged"))


def remove_checkpoint(path: Path) -> None:
    """Remove all files of a checkpoint."""
    path.with_suffix(_WEIGHTS).unlink(missing_ok=True)
    _state_of(path).unlink(missing_ok=True)
    if path.suffix == PARTS:
        shutil.rmtree(set_apart(path))


def sweep_states(run: Path) -> None:
    """Remove the trainers' states that killed processes left without weights."""
    for state in (run / "checkpoints").glob(f"update_*{_STATE}"):
        if not state.with_name(state.name.removesuffix(_STATE) + _WEIGHTS).exists():
            state.unlink(missing_ok=True)
