"""Weights files: safetensors stored with the recipe that they were trained by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from vqtk.errors import CheckpointError, VqtkError, nearest
from vqtk.files import write_bytes
from vqtk.io.hub import BUNDLED, SCHEME, fetched_weights
from vqtk.io.run_files import checkpoints, parse_json, resumable
from vqtk.models import Model
from vqtk.models.vqdraw import VQDraw
from vqtk.nn.convolution import channels_last, prefers_channels_last
from vqtk.nn.graph import CapturedCalls, CudaRecorder
from vqtk.plugin.loading import use_plugins
from vqtk.plugin.sources import found, records
from vqtk.process import VERSION
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import Recipe, from_plain

Loaded = tuple[Model, Recipe]
FORMAT, _WITHOUT_CHECKSUM = "vqtk 2", "vqtk"
"""The format that a weights file states; files of the first one have no checksum."""
STORED = (torch.float32, torch.float16)
"""The types that weights are stored in: those of training, and of `export --half`."""
NAMED = 5
"""The most tensors that do not fit that a message names."""
PRETRAINED = Path(__file__).parent.parent / "pretrained"


def save_weights(
    path: Path,
    model: Model,
    recipe: Recipe,
    *,
    trainer_sha256: str = "",
    state: dict[str, Tensor] | None = None,
    **facts: Any,
) -> None:
    """Write a model's weights with its recipe and a checksum over everything, replacing the file atomically.

    Arguments:
        path: the file.
        model: the model.
        recipe: its recipe.
        trainer_sha256: the checksum of the trainer's state that belongs to the weights, if any.
        state: the model's state, if its own method does not return it.
        facts: further JSON values to store.

    Raises: CheckpointError if the file cannot be written.
    """
    known = {"characters": model.data.characters} if model.data.characters else {}
    tensors = {name: value.detach().cpu().contiguous() for name, value in (state or model.state_dict()).items()}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "recipe": json.dumps(recipe.plain()),
        "plugins": json.dumps(records(recipe.plugins)),
        "facts": json.dumps({**facts, **known}),
        "trainer_sha256": trainer_sha256,
    }
    metadata["sha256"] = _checksum(tensors, metadata)
    try:
        write_bytes(path, to_bytes(tensors, metadata=metadata))
    except OSError as error:
        raise CheckpointError(
            f"{path}: the weights cannot be written ({error.strerror}). Choose another path."
        ) from error


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a weights file, and its `recipe`, `facts`, `plugins` and `trainer_sha256`.

    Raises: CheckpointError if it cannot be read, its checksum is wrong, or a weight is not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such weights file.") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: not a complete safetensors file ({error}). Expected a run directory, or a .safetensors file "
            "written by vqtk."
        ) from None
    if metadata.get("format") not in (FORMAT, _WITHOUT_CHECKSUM):
        raise CheckpointError(
            f"{path}: this file holds no vqtk recipe, so the model of its weights is not known. To convert a "
            "checkpoint of the original implementation: vqtk import-original CKPT RECIPE --out FILE."
        )
    if metadata["format"] == FORMAT and metadata.get("sha256") != _checksum(tensors, metadata):
        raise CheckpointError(
            f"{path}: the file is damaged: its checksum does not match its contents. Use an earlier checkpoint, or "
            "copy the file again."
        )
    broken = next((name for name, value in tensors.items() if not torch.isfinite(value).all()), None)
    if broken:
        raise CheckpointError(f"{path}: the weight {broken!r} is not finite. Use an earlier checkpoint.")
    kinds = {"recipe": dict, "facts": dict, "plugins": list}
    read = {key: _from_json(metadata.get(key, "[]"), key, kind, path) for key, kind in kinds.items()}
    return tensors, {**read, "trainer_sha256": metadata.get("trainer_sha256", "")}


def facts_of(path: Path) -> dict[str, Any]:
    """Return the facts of a weights file that was checked before, such as the SHA-256 of its training data."""
    with safe_open(path, framework="pt") as file:
        return _from_json((file.metadata() or {}).get("facts", "{}"), "facts", dict, path)


def weights_sha256(model: nn.Module) -> str:
    """Return the fingerprint of a model: the SHA-256 of its weights, with their names, types and shapes."""
    digest = hashlib.sha256()
    _add_tensors(digest, {name: value.detach().cpu() for name, value in model.state_dict().items()})
    return digest.hexdigest()


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Return the SHA-256 of tensors, with names, types and shapes, and of all metadata except the checksum itself."""
    digest = hashlib.sha256()
    for key in sorted(metadata.keys() - {"sha256"}):
        digest.update(f"{key}\0{metadata[key]}\0".encode())
    _add_tensors(digest, tensors)
    return digest.hexdigest()


def _add_tensors(digest: Any, tensors: dict[str, Tensor]) -> None:
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)


def _from_json(text: str, key: str, kind: type, path: Path) -> Any:
    try:
        value = parse_json(text)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise CheckpointError(f"{path}: the {key} stored in this file cannot be read. Use an earlier checkpoint.")
    return value


def load_weights(path: Path, *, device: str | torch.device = "cpu") -> Loaded:
    """Return the model of a weights file, in evaluation mode, and its recipe.

    Raises: CheckpointError if the file is damaged or does not fit its recipe.
    """
    tensors, metadata = read_weights(path)
    plugins = found(metadata["plugins"], path)
    try:
        recipe = from_plain(metadata["recipe"], origin=str(path), plugins=plugins)
        model = build_model(recipe)
    except VqtkError as error:
        raise CheckpointError(f"{path}: the recipe stored in this file cannot be built here: {error}") from None
    copy_into(model, tensors, path)
    model.data = replace(model.data, characters=metadata["facts"].get("characters"))
    model = model.to(device).eval()
    if prefers_channels_last(model):
        channels_last(model)
    if model.device.type == "cuda" and isinstance(model, VQDraw):
        model.captured_calls = CapturedCalls(CudaRecorder())
    return model, recipe


def copy_into(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into a model. Raises: CheckpointError that names those that do not fit."""
    own = model.state_dict()
    differing = [found for name in dict.fromkeys([*own, *tensors]) if (found := _differing(name, tensors, own))]
    if differing:
        more = f"; and {len(differing) - NAMED:,} more" if len(differing) > NAMED else ""
        others = f" Also different: {'; '.join(differing[1:NAMED])}{more}." if differing[1:] else ""
        raise CheckpointError(
            f"{path}: these are weights of another recipe: {differing[0]}. Use the recipe that they were trained "
            f"by.{others}"
        )
    for name, ours in own.items():
        theirs = tensors[name]
        if theirs.dtype != ours.dtype and not (ours.is_floating_point() and theirs.dtype in STORED):
            raise CheckpointError(
                f"{path}: {name!r} is {theirs.dtype} in the file and {ours.dtype} in the model. Expected float32 or "
                "half precision, as vqtk writes them."
            )
    model.load_state_dict(tensors)


def _differing(name: str, tensors: dict[str, Tensor], own: dict[str, Tensor]) -> str | None:
    """Return in words how the shape of a file's tensor differs from the model's; None if it does not."""
    theirs, ours = (tuple(held[name].shape) if name in held else "absent" for held in (tensors, own))
    return None if theirs == ours else f"{name!r} is {theirs} in the file and {ours} in the model"


def weights_of(path: Path) -> Path:
    """Return the weights file of a run directory (its newest), a bundle, a file's path, a shipped model's name, or a
    name on the hub, `hf://user/name`, from which it is downloaded.

    Raises: CheckpointError.
    """
    if str(path).startswith(SCHEME[:-1]):  # A path joins the slashes.
        return fetched_weights(str(path))
    if path.suffix in (".yaml", ".yml") and path.is_file():
        raise CheckpointError(f"{path}: this is a recipe, not a model. Train it first: vqtk run {path}.")
    if path.is_file():
        return path
    if not path.exists():
        if str(path) in shipped():
            return PRETRAINED / f"{path}.safetensors"
        advice = nearest_run(path.parent) or nearest(str(path), shipped())
        raise CheckpointError(
            f"{path}: no such run or weights file. {advice}Expected a run directory or bundle, a .safetensors file, "
            f"hf://user/name, or a model that ships with vqtk: {', '.join(shipped())}."
        )
    found = checkpoints(path)
    if not found and (path / BUNDLED).is_file():
        return path / BUNDLED
    if not found and resumable(path):
        raise CheckpointError(
            f"{path}: the checkpoints of this run are parts of weights (train.shard). It writes a weights file when it "
            "ends or is stopped: stop it, or resume it."
        )
    if not found:
        raise CheckpointError(
            f"{path}: not a run directory with a checkpoint: it has no checkpoints/update_*.safetensors. "
            f"{nearest_run(path)}Expected a path like runs/mnist/20260101-120000."
        )
    return found[-1]


def run_of(path: Path) -> Path | None:
    """Return the run directory of a model's path, which is the directory or one of its checkpoints; None otherwise."""
    if path.is_dir():
        return None if (path / BUNDLED).is_file() and not checkpoints(path) else path
    run = path.resolve().parent.parent
    return run if path.resolve().parent.name == "checkpoints" and (run / "manifest.json").exists() else None


def shipped() -> list[str]:
    """Return the names of the models that ship with vqtk."""
    return sorted(path.stem for path in PRETRAINED.glob("*.safetensors"))


def nearest_run(path: Path) -> str:
    """Return `Did you mean …? ` for the newest run in a folder of runs, or an empty string."""
    runs = sorted(manifest.parent for manifest in path.glob("*/manifest.json"))
    return f"Did you mean {runs[-1]}? " if runs else ""


def load(path: str | Path, *, device: str = "cpu", plugins: Sequence[str | Path] = ()) -> Model:
    """Return a trained model: `vqtk.load("mnist")`.

    Arguments:
        path: a run directory, a weights file, a bundle, a shipped model, or `hf://user/name` on the hub.
        device: where to load it.
        plugins: files or package folders with its components. They are imported; those that a bundle or a weights file
            names are not.

    Raises: CheckpointError if it does not exist or is damaged.
    """
    with use_plugins([Path(plugin) for plugin in plugins]):
        return load_weights(weights_of(Path(path)), device=device)[0]


def save(model: Model, path: str | Path) -> None:
    """Write a model's weights with its recipe to a file that `load` and every command read: as `model.save(path)`.

    Raises: CheckpointError if the model was not built from a recipe, a weight is not finite, or the file cannot be
    written.
    """
    if model.recipe is None:
        raise CheckpointError(
            f"{path}: this {type(model).__name__} was not built from a recipe, so no command could build it again. "
            "Build it by vqtk.build or vqtk.load."
        )
    broken = next((name for name, value in model.state_dict().items() if not torch.isfinite(value).all()), None)
    if broken:
        raise CheckpointError(f"{path}: the weight {broken!r} is not finite, so nothing was written. Train it again.")
    save_weights(Path(path), model, model.recipe)
