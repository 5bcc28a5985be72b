"""What a run trains and measures: a recipe's model and data on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqtk.callbacks import Callback, Row
from vqtk.datasets import Split, Splits, fixed_subset
from vqtk.evaluate.evaluation import evaluate
from vqtk.evaluate.overview import of_reconstructions
from vqtk.evaluate.references import start_at_centres
from vqtk.metrics import retrieval_metrics
from vqtk.models.vqdraw import VQDraw
from vqtk.plugin.sources import records
from vqtk.process import environment
from vqtk.recipe.build import build_dataset, build_metrics, build_model
from vqtk.recipe.recipe import Recipe
from vqtk.registry import installed
from vqtk.render.pictures import form, write_all
from vqtk.runs.data import recorded_place, require_same
from vqtk.training.distributed import Processes
from vqtk.training.execution import resolve
from vqtk.training.loop import Trainer


@dataclass
class Experiment:
    """A recipe's model and data on a device, ready for training.

    `callbacks` follow the run. `place` is where the data were read from, as the manifest records it. `at_centres` says
    that the model was started at the centres of the data, as `train.init: kmeans` asks, before the run.
    """

    recipe: Recipe
    trainer: Trainer
    splits: Splits
    device: torch.device
    callbacks: Sequence[Callback]
    place: dict[str, str] = field(default_factory=dict)
    at_centres: bool = False

    def __post_init__(self) -> None:
        settings, test, seed = self.recipe.train, self.splits.test, self.recipe.seed
        self.watched = "test" if self.splits.validation is None else "validation"
        """The split of evaluations and images during the run."""
        self.subset = fixed_subset(self.splits.watched, settings.evaluate_items, seed)
        """Indices of the examples of every evaluation during the run: the same ones, so that they form a curve."""
        self.final = fixed_subset(test, settings.final_items or len(test), seed)
        """Indices of the test examples of the final evaluation."""
        self.others = build_metrics(self.recipe, self.trainer.model.data)
        """The metrics that the recipe adds to every evaluation."""
        self._said, self._row = set[str](), Row()
        shown = fixed_subset(self.splits.watched, settings.picture_items, seed)
        self._shown = self._targets(self.splits.watched, shown)

    @property
    def ends_with_more(self) -> bool:
        """Whether the final evaluation is of other examples than those during the run."""
        return self.watched == "validation" or len(self.final) != len(self.subset)

    def start_at_centres(self) -> None:
        """Start the model at the centres of the training examples. Raises: RecipeError if it cannot."""
        start_at_centres(self.trainer.model, self.splits.train, seed=self.recipe.seed)
        self.at_centres = True

    def _targets(self, split: Split, indices: Tensor) -> Tensor:
        return self.trainer.model.data.normalise(split[indices].to(self.device))

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        *,
        data_root: Path,
        device: torch.device,
        callbacks: Sequence[Callback] = (),
        splits: Splits | None = None,
        recorded: dict[str, Any] | None = None,
        place: dict[str, str] | None = None,
        expected_s: float | None = None,
        processes: Processes | None = None,
    ) -> Experiment:
        """Build a recipe's model and read its data.

        Arguments:
            recipe: the recipe.
            data_root: the folder of the data sets.
            device: where to train.
            callbacks: what follows the run, besides the callbacks and trackers that the recipe names; the latter only
                in the process that leads.
            splits: the data, if they are read already.
            recorded: the manifest of a resumed run, whose updates are computed as before.
            place: where these were read from, if that is not below `data_root`.
            expected_s: how long the training will take, in seconds, if that is known.
            processes: the processes that train together; by default this one alone.

        Raises: RecipeError, DataError.
        """
        processes = processes or Processes()
        named = (*recipe.train.callbacks, *recipe.train.track) if processes.leads else ()
        callbacks = [*callbacks, *(make() for make in named)]
        # Of refiners that are held in parts, a device need not hold the whole.
        waits = recipe.train.shard and processes.size > 1
        model, dataset = build_model(recipe, device="cpu" if waits else device), build_dataset(recipe)
        if waits and isinstance(model, VQDraw):
            model.move_rest(device)
        if splits is None:
            with processes.in_turn():
                splits = dataset.splits(data_root)
            if splits.note:
                _say(callbacks, splits.note)
        model.data = replace(model.data, characters=splits.characters)
        before = (recorded or {}).get("execution")
        execution = resolve(recipe, model, recorded=before, expected_s=expected_s, processes=processes.size)
        trainer = Trainer(recipe, model, execution, processes=processes)
        where = recorded_place(dataset, data_root) if place is None else place
        return cls(recipe, trainer, splits, device, callbacks, where)

    def say(self, line: str) -> None:
        """Pass a line for the user to the callbacks."""
        _say(self.callbacks, line)

    def tell(self, found: dict[str, Any]) -> None:
        """Pass the metrics of an evaluation, and the usage of options, to the callbacks.

        `validation` marks the metrics of the validation split.
        """
        marked = {"validation": True} if found["split"] == "validation" else {}
        self._row = Row({**found["row"], **marked}, what="an evaluation", before=self._row)
        for callback in self.callbacks:
            callback.on_evaluation(found["update"], self._row)
            callback.on_usage(found["update"], found["usage"])

    def evaluate(self, items: Tensor | None = None) -> dict[str, Any]:
        """Return the metrics of test examples (indices), by default of the fixed subset of the `watched` split.

        They are `row`, `stages` and `usage` (s, k); `items` is the number of examples, `of` that of the whole `split`.
        """
        split, name = (self.splits.watched, self.watched) if items is None else (self.splits.test, "test")
        chosen, every = self.subset if items is None else items, len(split)
        processes = self.trainer.processes
        # A search among fewer vectors finds more.
        whole = name == "test" and len(chosen) == every and processes.leads
        with self.trainer.evaluated() as model:
            others = of_reconstructions(self.others)
            found = evaluate(model, split, items=chosen, others=others, processes=processes)
            searched = retrieval_metrics(model, self.splits, chosen, found.codes) if whole else {}
            usage = {name: found.value(metric) for name, metric in self.others.items() if name not in found.reached}
            besides = {**found.reached, **usage, **self._besides(split, chosen), **searched}
        return {
            "update": self.trainer.done,
            "split": name,
            "items": found.items,
            "of": every,
            "row": {"items": found.items, "of": every, **found.row(), **besides},
            "stages": found.stages(),
            "usage": found.usage.tolist(),
        }

    def _besides(self, split: Split, items: Tensor) -> dict[str, float]:
        """Return the objective's own metrics of examples: means over them, computed a subset's size at a time."""
        total: dict[str, float] = {}
        processes = self.trainer.processes
        own = []
        for part in items.split(len(self.subset))[processes.rank :: processes.size]:
            found = self.trainer.objective.figures(partial(self._targets, split, part))
            own.append({name: value * len(part) for name, value in found.items()})
        for found in chain(*processes.of_each(own)):
            for name, value in found.items():
                total[name] = total.get(name, 0.0) + value
        return {name: value / len(items) for name, value in total.items()}

    def picture(self, folder: Path, update: int) -> None:
        """Write the images of the current model; report each thing that could not be drawn once."""
        with self.trainer.evaluated() as model:
            lines = write_all(model, self._shown, folder, update)
        for line in lines:
            if line not in self._said:
                self._said.add(line)
                self.say(line)

    def manifest(self) -> dict[str, Any]:
        """Return the facts of the run for its manifest."""
        return {
            "name": self.recipe.name,
            "seed": self.recipe.seed,
            "parameters": sum(p.numel() for p in self.trainer.model.parameters()),
            "bits_per_item": self.trainer.model.bits,
            "options": self.trainer.model.options,
            "kind": self.trainer.model.data.kind,
            "shown_as": form(self.trainer.model.data),
            "loss": self.recipe.loss,
            "recipe": self.recipe.plain(),
            "data": {**self.splits.fingerprint(), **self.place},
            **({"characters": self.splits.characters} if self.splits.characters else {}),
            "execution": self.trainer.execution.recorded(),
            "processes": self.trainer.processes.size,
            "plugins": records(self.recipe.plugins),
            "installed": {one.package: one.version for one in installed()},
            **self.trainer.objective.facts(),
            **environment(self.device),
        }

    def check_same_data(self, manifest: dict[str, Any]) -> None:
        """Raise DataError if the data are not those that a run's manifest records."""
        require_same(manifest.get("data", {}), self.splits)


def _say(callbacks: Sequence[Callback], line: str) -> None:
    for callback in callbacks:
        callback.on_message(line)
