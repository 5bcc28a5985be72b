"""What each of several processes does in a test: trains the recipes of a folder, and keeps what came of it.

torchrun --nproc-per-node 2 -m tests.ranks FOLDER UPDATES [COMMAND …]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vqtk.datasets.mnist
import vqtk.runs.experiment
from vqtk.cli import main as vqtk_main
from vqtk.datasets import data_root
from vqtk.evaluate.evaluation import evaluate
from vqtk.nn.stage import tree_map
from vqtk.recipe.build import build_dataset, build_model
from vqtk.recipe.recipe import load_recipe
from vqtk.training.distributed import Processes, together
from vqtk.training.loop import Batches, Trainer

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
    batches = Batches(recipe, it.model, splits.train, processes=processes)
    for _ in range(updates):
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


def moments(it: Trainer) -> list[Tensor]:
    """Return the optimiser's tensors."""
    kept: list[Tensor] = []
    tree_map(kept.append, [list(state.values()) for state in it.optimizer.state_dict()["state"].values()])
    return kept


def train_all(folder: Path, processes: Processes, updates: int) -> None:
    """Train every recipe of a folder, and write the results of this process beside them."""
    for path in sorted(folder.glob("*.yaml")):
        torch.save(train(path, processes, updates), result(path, processes.size, processes.rank))


def result(recipe: Path, size: int, rank: int) -> Path:
    """Return where the results of a process lie."""
    return recipe.with_suffix(f".{size}.{rank}.pt")


def without_download() -> None:
    """Train on the digits that ship with the package, and draw no report, which takes seconds."""
    vqtk.datasets.mnist._download = lambda root: False  # type: ignore[assignment]
    vqtk.runs.experiment.write_report = lambda path: None  # type: ignore[assignment]


if __name__ == "__main__":
    torch.set_num_threads(1)
    without_download()
    with together(torch.device("cpu")) as joined:
        train_all(Path(sys.argv[1]), joined, int(sys.argv[2]))
        if sys.argv[3:]:
            sys.argv = ["vqtk", *sys.argv[3:]]
            vqtk_main()
