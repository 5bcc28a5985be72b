"""What each of several processes does in a test: trains the recipes of a folder, and keeps what came of it.

torchrun --nproc-per-node 2 -m tests.ranks FOLDER UPDATES [COMMAND … [; COMMAND …]]

A command is one of vqtk, in which paths may have wildcards, or `back RUN`, which undoes the last update of a run.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

import vqtk.datasets.mnist
import vqtk.runs.train
from vqtk.cli import main as vqtk_main
from vqtk.datasets import Splits, data_root
from vqtk.evaluate.evaluation import evaluate
from vqtk.recipe.build import build_dataset, build_model
from vqtk.recipe.recipe import load_recipe
from vqtk.training.batches import Batches
from vqtk.training.distributed import Processes, together
from vqtk.training.loop import Trainer
from vqtk.training.parts_checkpoint import tensors_of

ROOT = Path(__file__).parent.parent


def train(path: Path, processes: Processes, updates: int) -> dict[str, Any]:
    """Train a recipe, and return its weights, moments, metrics and code usage, and an evaluation of 13 examples.

    Those whose name ends in float64 are trained in it.
    """
    recipe = load_recipe(path)
    dtype = torch.float64 if path.stem.endswith("float64") else torch.float32
    splits = build_dataset(recipe).splits(data_root())
    torch.manual_seed(processes.rank)  # Nothing may depend on torch's own generator.
    it = Trainer(recipe, build_model(recipe, dtype=dtype), processes=processes)
    if path.stem == "handed_over" and processes.size > 1:
        hand_over(it, splits, updates)
    batches = Batches(recipe, it.model, splits.train, done=it.done, processes=processes)
    for _ in range(updates - it.done):
        it.update([batch.to(dtype) if batch.is_floating_point() else batch for batch in next(batches)], updates=updates)
    with it.evaluated() as model:
        found = evaluate(model, splits.test, items=torch.arange(min(13, len(splits.test))), processes=processes)
        state = it.held.state_dict() if it.held else model.state_dict()
        weights = {name: value.clone() for name, value in state.items()}
    return {
        "weights": weights,
        "moments": moments(it),
        "metrics": it.metrics(),
        "usage": it.usage(),
        "test": found.row(),
    }


def hand_over(it: Trainer, splits: Splits, updates: int) -> None:
    """Do two updates by one process alone, and let the trainer go on from them."""
    alone = Trainer(it.recipe, build_model(it.recipe))
    batches = Batches(it.recipe, alone.model, splits.train)
    for _ in range(2):
        alone.update(next(batches), updates=updates)
    kept = deepcopy(alone.state())
    with alone.evaluated() as model:
        it.model.load_state_dict(model.state_dict())
    it.restore(kept)


def moments(it: Trainer) -> list[Tensor]:
    """Return the optimiser's tensors, whole."""
    kept = [value for name, value in tensors_of(it).items() if name.startswith("optimizer.")]
    return [value.full_tensor() if isinstance(value, DTensor) else value for value in kept]


def train_all(folder: Path, processes: Processes, updates: int) -> None:
    """Train every recipe of a folder, and write the results of this process beside them."""
    for path in sorted(folder.glob("*.yaml")):
        torch.save(train(path, processes, updates), result(path, processes.size, processes.rank))


def command(words: list[str], processes: Processes) -> None:
    """Do what a command says."""
    words = [str(next(Path().glob(word))) if "*" in word else word for word in words]
    if words[0] == "back":
        if processes.leads:
            go_back(Path(words[1]))
        processes.any(False)
        return
    sys.argv = ["vqtk", *words]
    with suppress(SystemExit):  # If it fails, there are no results to compare.
        vqtk_main()


def go_back(run: Path) -> None:
    """Undo the last update of a finished run, whose weights are kept as `first.safetensors`."""
    (run / "summary.json").unlink()
    weights = sorted((run / "checkpoints").glob("*.safetensors"))[-1]
    shutil.rmtree(weights.with_suffix(".dist"))
    weights.rename(run / "first.safetensors")


def result(recipe: Path, size: int, rank: int) -> Path:
    """Return where the results of a process lie."""
    return recipe.with_suffix(f".{size}.{rank}.pt")


def without_download() -> None:
    """Train on the digits that ship with the package, and draw no report, which takes seconds."""
    vqtk.datasets.mnist._download = lambda root: False  # type: ignore[assignment]
    vqtk.runs.train.write_report = lambda path: None  # type: ignore[assignment]


def main(folder: str, updates: str, *words: str) -> None:
    """Train the recipes of a folder, and then follow the commands."""
    torch.set_num_threads(1)
    without_download()
    with together(torch.device("cpu")) as joined:
        train_all(Path(folder), joined, int(updates))
        ends = [index for index, word in enumerate([*words, ";"]) if word == ";"]
        for start, end in zip([-1, *ends], ends, strict=False):
            if words[start + 1 : end]:
                command(list(words[start + 1 : end]), joined)


if __name__ == "__main__":
    main(*sys.argv[1:])
