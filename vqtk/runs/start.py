"""How a new run starts: from centres of its data or the weights of another run, with the updates of its budget."""

from __future__ import annotations

import copy
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vqtk.datasets import Split, fixed_subset
from vqtk.errors import CheckpointError, RecipeError, VqtkError
from vqtk.evaluate.evaluation import targets, untracked
from vqtk.evaluate.references import BATCH, MOST_VALUES, kmeans, nearest_centroids
from vqtk.files import file_sha256
from vqtk.io.weights import copy_into, read_weights
from vqtk.models import Model
from vqtk.models.vqdraw import VQDraw
from vqtk.process import generator
from vqtk.train.batches import Batches
from vqtk.train.execution import synchronize
from vqtk.train.loop import FIRST_PICTURES_S, Trainer

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


# ── budgets ──────────────────────────────────────────────────────────────────────────────────────

WARM_UP = 20
MOST_OF_BUDGET = 0.5
"""The largest part of a budget that is reserved for the final evaluation."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float:
    """Return a duration such as 90s, 5m, 1h30m. Raises: VqtkError."""
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        raise VqtkError(f"--budget {text!r}: expected a duration such as 90s, 5m or 1h30m.")
    total = sum(float(number) * _UNITS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)([smhd])", text))
    if total <= 0:
        raise VqtkError(f"--budget {text!r}: expected more than zero time, at least a few seconds.")
    return total


@dataclass(frozen=True)
class Durations:
    """How long the parts of a run take on this machine."""

    step_s: float
    evaluation_s: float
    pictures_s: float

    def updates_within(self, left_s: float, *, evaluate_every: int, picture_minutes: float, final_s: float) -> int:
        """Return how many updates fit, with the evaluations and images in between and at the end; at least 1."""
        pictures = 2 + max(0.0, left_s - FIRST_PICTURES_S) // (60 * picture_minutes)
        per_update = self.step_s + self.evaluation_s / evaluate_every
        return max(1, int((left_s - final_s - pictures * self.pictures_s) / per_update))


def durations(
    trainer: Trainer, data: Split, evaluate: Callable[[], object], picture: Callable[[], object]
) -> Durations:
    """Time 20 updates of a copy of the trainer, one evaluation and one set of images; the trainer does not change."""
    trial = copy.deepcopy(trainer)
    batches = Batches(trial.recipe, trial.model, data, done=trial.done)
    times = []

    def update() -> None:
        trial.update(next(batches), updates=10**9)
        synchronize(batches.device)

    for _ in range(WARM_UP):
        times.append(_timed(update))
    return Durations(statistics.mean(times[WARM_UP // 4 :]), _timed(evaluate), _timed(picture))


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def updates_within(experiment: Experiment, budget: str) -> int:
    """Return the number of updates that fit the budget on this machine; the experiment does not change."""
    allowed, settings = seconds(budget), experiment.recipe.train
    started = time.monotonic()
    experiment.say(f"Timing {WARM_UP} updates to see how many fit into {budget} …")
    with tempfile.TemporaryDirectory() as scratch:
        measured = durations(
            experiment.trainer,
            experiment.splits.train,
            experiment.evaluate,
            lambda: experiment.picture(Path(scratch), 0),
        )
    left_s = allowed - (time.monotonic() - started)
    updates = measured.updates_within(
        left_s,
        evaluate_every=settings.evaluate_every,
        picture_minutes=settings.picture_minutes,
        final_s=_final_s(experiment, measured.evaluation_s, left_s, budget),
    )
    if updates == 1:
        experiment.say(f"Timing alone takes about {budget} here: training for one update.")
    experiment.say(f"{budget}: {updates} updates of {1e3 * measured.step_s:.0f} ms each.")
    return updates


def _final_s(experiment: Experiment, evaluation_s: float, left_s: float, budget: str) -> float:
    """Return the seconds to reserve for the final evaluation; report it if the budget cannot cover them.

    The evaluation is on the examples that the recipe sets, whatever the budget, so that what a run measures does not
    depend on the machine.
    """
    items, subset = len(experiment.final), len(experiment.subset)
    takes, most = evaluation_s * (items + subset) / subset, MOST_OF_BUDGET * max(0.0, left_s)
    if takes > most:
        experiment.say(
            f"The final evaluation of {items:,} test examples will take about {takes:.0f} s of {budget}, or exceed "
            f"it. train.final_items={subset} evaluates fewer."
        )
    return min(takes, most)
