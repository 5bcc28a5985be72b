"""Checkpoints of weights that several processes hold in parts, written while training goes on.

A checkpoint is a folder, `update_00000100.dist`, by torch.distributed.checkpoint:

shard-00001-….safetensors      the parts of a process: weights, averages, moments, and where in the whole they belong
parts.json                     the update, the recipe, the optimiser's settings, and a checksum of every file

The safetensors form is read without pickle, so that a foreign folder runs no code. Any number of processes reads it.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from vqtk.errors import CheckpointError, VqtkError
from vqtk.files import file_sha256, temporary_folder, write_text
from vqtk.io.run_files import parse_json
from vqtk.training.capture import restore
from vqtk.training.distributed import PATIENCE, Processes

if TYPE_CHECKING:
    from vqtk.training.loop import Trainer

FORMAT = "vqtk parts 1"
MANIFEST = "parts.json"
MOST_MANIFEST_BYTES = 1 << 26
"""Far more than the recipe and the names of very many files take."""


class PartsWriter:
    """Writes checkpoints of the parts while training goes on, one at a time; all processes call it together.

    The folder has a temporary name until every process has written its file.
    """

    def __init__(self, processes: Processes):
        self.processes = processes
        # Training uses the default group at the same time.
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
        self._thread = ThreadPoolExecutor(1)
        self._pending: tuple[Path, Future[None]] | None = None

    def write(
        self, folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any], written: Callable[[], None]
    ) -> None:
        """Begin to write a checkpoint, when the one before is written; return once the tensors are copied.

        Arguments:
            folder: the checkpoint. An existing one is kept.
            tensors: what `tensors_of` returns.
            facts: what the manifest records.
            written: called by the first process when the checkpoint is complete.

        Raises: VqtkError if this one or the one before cannot be written.
        """
        self.wait()
        leads = self.processes.leads
        there = folder.exists()
        temporary = self.processes.of_first(str(temporary_folder(folder.parent)) if leads and not there else "")
        if not temporary:
            return
        writer = dcp.HuggingFaceStorageWriter(temporary, save_distributed=True)
        try:
            saved = dcp.async_save(tensors, storage_writer=writer, process_group=self._group)
        except Exception as error:
            raise _unwritten(folder, error) from error
        completed = self._thread.submit(
            self._complete, cast("Future[Any]", saved), Path(temporary), folder, facts, written
        )
        self._pending = folder, completed

    def wait(self) -> None:
        """Wait until the checkpoint in progress is complete. Raises: VqtkError if it cannot be written."""
        if self._pending:
            (folder, completed), self._pending = self._pending, None
            try:
                completed.result()
            except Exception as error:
                raise _unwritten(folder, error) from error

    def _complete(
        self, saved: Future[Any], temporary: Path, folder: Path, facts: dict[str, Any], written: Callable[[], None]
    ) -> None:
        """Add the manifest, and give the folder its name, once all processes have written their files."""
        saved.result()
        own = {path.name: file_sha256(path) for path in temporary.glob(f"shard-{self.processes.rank + 1:05d}-*")}
        every: list[Any] | None = [None] * self.processes.size if self.processes.leads else None
        dist.gather_object(own, every, dst=0, group=self._group)
        failed: list[str | None] = [None]
        if every is not None:
            try:
                files = {name: sha256 for found in every for name, sha256 in found.items()}
                write_manifest(temporary, {**facts, "files": files})
                temporary.rename(folder)
                written()
            except OSError as error:
                failed = [error.strerror or str(error)]
        dist.broadcast_object_list(failed, 0, group=self._group)
        if failed[0]:
            raise VqtkError(failed[0])


def _unwritten(folder: Path, error: BaseException) -> VqtkError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return VqtkError(f"{folder}: the checkpoint cannot be written ({reason[:300]}).")


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write what a checkpoint's manifest records, with a checksum over all of it. Raises: OSError."""
    text = json.dumps({"format": FORMAT, **facts}, sort_keys=True)
    write_text(
        folder / MANIFEST, json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "facts": text}) + "\n"
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what the manifest of a checkpoint records. Raises: CheckpointError, of one sentence."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MOST_MANIFEST_BYTES:
            raise ValueError("it is too long")
        found = parse_json(path.read_bytes())
        text = found["facts"]
        if hashlib.sha256(text.encode()).hexdigest() != found["sha256"]:
            raise CheckpointError(f"{path}: its checksum does not match its contents.")
        facts = parse_json(text)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the manifest is missing.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not the manifest of a checkpoint ({type(error).__name__}).") from None
    kinds: dict[str, Any] = {"files": dict, "recipe": dict, "optimizer": list, "update": int, "seconds": (int, float)}
    whole = isinstance(facts, dict) and all(isinstance(facts.get(key), kind) for key, kind in kinds.items())
    if not whole or facts["format"] != FORMAT:
        raise CheckpointError(f"{path}: not the manifest of a checkpoint of this version.")
    return facts


def check_parts(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint whose files are all there and intact. Raises: CheckpointError."""
    facts = read_manifest(folder)
    there = {path.name for path in folder.glob("*.safetensors")}
    for name in sorted(there ^ set(facts["files"])):
        raise CheckpointError(
            f"{folder / name}: this part {'does not belong here' if name in there else 'is missing'}."
        )
    for name, sha256 in facts["files"].items():
        if file_sha256(folder / name) != sha256:
            raise CheckpointError(f"{folder / name}: its checksum does not match its contents.")
    return facts


def settings_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the settings of each group of an optimiser's parameters as JSON values."""
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return [
        {key: value.item() if isinstance(value, Tensor) else value for key, value in group.items()} for group in groups
    ]


def tensors_of(trainer: Trainer) -> dict[str, Tensor]:
    """Return the tensors of a trainer's state by name; parts know where they belong, others are equal everywhere.

    Raises: VqtkError if the optimiser keeps anything else.
    """
    found: dict[str, Tensor] = {f"buffers.{name}": value for name, value in trainer.model.named_buffers()}
    for index, (name, weight) in enumerate(trained_by_name(trainer)):
        kept = {f"weights.{name}": weight.detach()}
        if trainer.average and trainer.average.values:
            kept[f"average.{name}"] = trainer.average.values[index]
        for key, value in trainer.optimizer.state.get(weight, {}).items():
            if value is not None and not isinstance(value, Tensor):
                raise VqtkError(
                    f"train.shard: the optimizer {type(trainer.optimizer).__name__} keeps {key!r}, which is not a "
                    "tensor, so no checkpoint can be written. Choose adam, or set `shard` to false."
                )
            kept |= {} if value is None else {f"optimizer.{key}.{name}": value}
        found |= {key: _placed(trainer, index, value) for key, value in kept.items()}
    return found


def trained_by_name(trainer: Trainer) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that a trainer's optimiser changes, whole or in parts, with their names in the model."""
    if trainer.held:
        return list(zip(trainer.held.names, trainer.trained.parameters(), strict=True))
    return list(trainer.model.named_parameters())


def _placed(trainer: Trainer, index: int, value: Tensor) -> Tensor:
    return trainer.held.placed(index, value) if trainer.held else value


def read_parts(trainer: Trainer, folder: Path, facts: dict[str, Any]) -> None:
    """Restore a trainer from a checkpoint; with `held`, all processes read their parts together.

    Arguments:
        trainer: the trainer.
        folder: the checkpoint, written by any number of processes.
        facts: what its manifest records.

    A trainer that will hold its weights in parts, but does not yet, is only given the update; it then reads the parts
    in `shard`.

    Raises: CheckpointError if it is not the state of such a trainer.
    """
    if trainer.is_sharded and not trainer.held:
        trainer.resumes_at = folder
        trainer.done = trainer.logged = int(facts["update"])
        return
    if trainer.average:
        trainer.average.start([weight for _, weight in trained_by_name(trainer)])
    reader = dcp.HuggingFaceStorageReader(str(folder))
    try:
        wanted = {key: value for key, value in tensors_of(trainer).items() if not key.startswith("optimizer.")}
        moments, parts = _moments(trainer, reader, wanted)
        with warnings.catch_warnings():  # That there is one process alone.
            warnings.simplefilter("ignore", UserWarning)
            dcp.load({**wanted, **parts}, storage_reader=reader, no_dist=trainer.held is None)
        own = trainer.optimizer.state_dict()["param_groups"]
        groups = [_as_before(*pair) for pair in zip(own, facts["optimizer"], strict=True)]
        restore(trainer.optimizer, {"state": moments, "param_groups": groups})
        trainer.done, trainer.seconds = int(facts["update"]), float(facts["seconds"])
        trainer.logged = trainer.done
    except Exception as error:  # The readers and planners of torch raise anything.
        raise CheckpointError(f"{folder}: not the state of this run's trainer ({type(error).__name__}).") from error


def _moments(
    trainer: Trainer, reader: dcp.HuggingFaceStorageReader, wanted: dict[str, Tensor]
) -> tuple[dict[int, dict[str, Tensor]], dict[str, Tensor]]:
    """Return new tensors for the optimiser's state: by parameter and name, and as parts by their names in the file.

    Raises: KeyError or ValueError if there is a tensor of another size than a parameter's.
    """
    state: dict[int, dict[str, Tensor]] = {}
    parts: dict[str, Tensor] = {}
    indices = {name: (index, weight) for index, (name, weight) in enumerate(trained_by_name(trainer))}
    for full, stored in reader.read_metadata().state_dict_metadata.items():
        if full.startswith("optimizer.") and isinstance(stored, TensorStorageMetadata):
            _, key, name = full.split(".", 2)
            index, weight = indices[name]
            whole = wanted[f"weights.{name}"].shape
            if stored.size != whole and stored.size.numel() > 1:
                raise ValueError(f"{full} has the shape {tuple(stored.size)}")
            made = torch.zeros_like(weight) if stored.size == whole else torch.zeros(stored.size)
            state.setdefault(index, {})[key] = made.detach()
            parts[full] = _placed(trainer, index, made.detach())
    return state, parts


def _as_before(own: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """Return a group's stored settings, in the types that JSON does not have."""
    typed = {key: tuple(value) if isinstance(own.get(key), tuple) else value for key, value in stored.items()}
    return {**own, **typed, "params": own["params"]}
