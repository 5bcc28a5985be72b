"""Where a new run starts: from centres of its data, or from the weights of another run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vqtk.datasets import Split, fixed_subset
from vqtk.errors import CheckpointError, RecipeError
from vqtk.evaluate.evaluation import targets, untracked
from vqtk.evaluate.references import BATCH, MOST_VALUES, kmeans, nearest_centroids
from vqtk.files import file_sha256
from vqtk.io.weights import copy_into, read_weights
from vqtk.models import Model
from vqtk.models.vqdraw import VQDraw
from vqtk.process import generator

if TYPE_CHECKING:
    from vqtk.runs.experiment import Experiment


@torch.no_grad()
def start_at_centres(model: Model, split: Split, *, seed: int) -> None:
    """Set a model's codewords, or the biases of its options, to the centres of a residual K-means of training examples.

    Stage by stage, as far as the model has such a table, the centres of what the stages before leave are found, and
    taken away. With `zero_output`, this is what an untrained model reconstructs; otherwise its deltas are added. If the
    examples have too many values to hold, a seeded subset is used.

    Raises: RecipeError if the model has no biases of options, or reconstructions that are not in units of the data.
    """
    if not isinstance(model, VQDraw):
        raise RecipeError(f"train.init: kmeans: {type(model).__name__} has no biases of options. Use `init: random`.")
    taken = fixed_subset(split, min(len(split), max(1, MOST_VALUES // model.bias[0].numel())), seed)
    parts = targets(model, split, taken, batch=BATCH, track=untracked, what="training examples")
    nothing = model.start(1)[0]
    residual = [model.loss.residual(nothing, part) for part in parts]
    left = [part.flatten(1).float().cpu() for part in residual if part is not None]
    if len(left) < len(residual):
        raise RecipeError(
            f"train.init: kmeans: the reconstructions of the loss {type(model.loss).__name__} are not in units of the "
            "data, so they cannot start at its centres. Use `init: random`."
        )
    _set_biases(model, torch.cat(left), seed)


def _set_biases(model: VQDraw, left: Tensor, seed: int) -> None:
    for stage in range(model.stages):
        rows = model.table(stage)
        if rows is None:
            return
        centres = kmeans(left, model.options, seed=generator(seed, "init", stage).initial_seed() % 2**32)
        missing = model.options - len(centres)  # There are fewer examples than options.
        centres = torch.cat([centres, centres.new_zeros(missing, centres.shape[1])])
        table = rows.of(rows.parameter, model.options)
        table.copy_(centres.view_as(table))
        left -= centres[nearest_centroids(left, centres)]


def begin_with(experiment: Experiment, weights: Path) -> dict[str, Any]:
    """Copy weights into an experiment's model to start a new run from them; return their record for the manifest.

    Raises: CheckpointError if they do not fit, or were trained on text with another vocabulary.
    """
    tensors, metadata = read_weights(weights)
    model, facts = experiment.trainer.model, metadata["facts"]
    copy_into(model, tensors, weights)
    if facts.get("characters") != model.data.characters:
        raise CheckpointError(
            f"{weights}: these weights were trained on text with another vocabulary than that in "
            f"{experiment.splits.source}, so their tokens are other characters. Use weights trained on this text."
        )
    return {"path": os.path.abspath(weights), "sha256": file_sha256(weights), "update": facts.get("update")}
