"""Checkpoints of the original implementation: read without executing pickled code, and renamed."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from vqtk.errors import CheckpointError

_BUFFERS = {"_stages", "_grad_decay"}


def read_original(path: Path) -> dict[str, Tensor]:
    """Read a torch state dict of tensors. Raises: CheckpointError if it is anything else."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Expected a checkpoint of the original implementation.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Bytes that are not a pickle can raise anything: they are read as random opcodes.
        raise CheckpointError(
            f"{path}: not a file of tensors that can be read without executing code ({type(error).__name__}). Expected "
            "a complete file that torch.save wrote, holding a state dict (names to tensors) and nothing else."
        ) from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: expected a state dict, names to tensors; this holds a {type(state).__name__}.")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            held = f"{key!r} is of type {type(value).__name__}"
            raise CheckpointError(f"{path}: expected a state dict, names to tensors and nothing else; here {held}.")
    return state


def load_original(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy an original state dict into the model that its recipe builds.

    Raises: CheckpointError that names the first tensor that does not fit.
    """
    model.load_state_dict(map_original(model, state))


def map_original(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return an original state dict under the model's own names.

    The original lists its layers in the order in which they are applied, and so does a recipe; so the tensors
    correspond in order, except the text refiner's positions, which the original lists first.

    Raises: CheckpointError that names the first tensor that does not fit.
    """
    theirs = _applied_order({key: value for key, value in state.items() if key not in _BUFFERS})
    ours = model.state_dict()
    for (key, value), (name, own) in zip(theirs.items(), ours.items(), strict=False):
        if value.shape != own.shape:
            raise CheckpointError(
                f"the checkpoint's {key!r} has shape {tuple(value.shape)}, where the recipe's model has {name!r} of "
                f"shape {tuple(own.shape)}. Expected the recipe that the checkpoint was trained with: the same stages, "
                "options, segment and data shape."
            )
    if len(theirs) != len(ours):
        raise CheckpointError(
            f"the checkpoint has {len(theirs)} tensors, the recipe's model {len(ours)}. Expected the recipe that the "
            "checkpoint was trained with: the same stages, segment and layers."
        )
    return dict(zip(ours, theirs.values(), strict=True))


def _applied_order(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Move the positions (`pos_enc`) of each refiner behind the embedding that they are added to."""
    keys = [key for key in state if not key.endswith("pos_enc")]
    for key in state:
        if key.endswith("pos_enc"):
            embedding = re.sub("pos_enc$", "embed.0.bias", key)
            if embedding not in keys:
                raise CheckpointError(
                    f"the checkpoint has {key!r} but no {embedding!r}: not the original's text refiner."
                )
            keys.insert(keys.index(embedding) + 1, key)
    return {key: state[key] for key in keys}
