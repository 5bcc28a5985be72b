"""vqtk: a modular research toolkit around VQ-DRAW (Nichol 2020, arXiv 2003.01599).

A code is chosen in stages. At each stage a *refiner* proposes K changes to the current reconstruction, the best one is
kept, and its index is the code. Any prefix of a code decodes to a coarser reconstruction.

    import vqtk

    model = vqtk.load("mnist")            # a model that ships, a run directory, or a weights file
    codes = model.random_codes(16)        # (16, stages), integers below model.options
    images = model.data.pixels(model.loss.show(model.decode(codes)))    # (16, 1, 28, 28), in [0, 1]
    proposals = model.proposals(codes[:, :3])                           # (16, options, 1, 28, 28): stage 4

    model = vqtk.build("recipes/mnist.yaml", "model.options=16")        # untrained
    run = vqtk.train("recipes/mnist.yaml", "train.updates=2000")        # as the command `vqtk run` does
    run.model.save("digits.safetensors")                                # every command reads this file

docs/python.md explains these and `vqtk.Run`, `vqtk.show` and `vqtk.Callback`; see `vqtk --help` for the commands.

What a plugin extends: `Model`, `Refiner`, `SkipBackbone`, `Head`, `Loss`, `Objective`, `Selector`, `Guide`, `Dataset`,
`Callback`, `Tracker`.
`vqtk plugin new KIND NAME` writes a plugin to start from; docs/plugins.md explains it.

Where to look: `vqtk.registry` (names of components), `vqtk.models.vqdraw` (the algorithm), `vqtk.training.loop` (the
training loop), `vqtk.recipe` (recipes), `vqtk.evaluate` (measurements), `vqtk.sampling` (guided sampling, priors),
`vqtk.render` (images of examples), `vqtk.compare` and `vqtk.study` (ablation studies), `vqtk.testing` (the contract).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vqtk.process import VERSION, settle

settle()

__version__ = VERSION

if TYPE_CHECKING:
    from vqtk.backbones import SkipBackbone as SkipBackbone
    from vqtk.callbacks import Callback as Callback
    from vqtk.callbacks import Tracker as Tracker
    from vqtk.datasets import Dataset as Dataset
    from vqtk.guides import Guide as Guide
    from vqtk.heads import Head as Head
    from vqtk.io.weights import load as load
    from vqtk.io.weights import save as save
    from vqtk.losses import Loss as Loss
    from vqtk.models import Model as Model
    from vqtk.objectives import Objective as Objective
    from vqtk.recipe.build import build as build
    from vqtk.refiners import Refiner as Refiner
    from vqtk.render.pictures import show as show
    from vqtk.runs.data import data as data
    from vqtk.runs.python import Run as Run
    from vqtk.runs.python import train as train
    from vqtk.selectors import Selector as Selector

_PLACES = {
    "build": "vqtk.recipe.build",
    "data": "vqtk.runs.data",
    "load": "vqtk.io.weights",
    "save": "vqtk.io.weights",
    "show": "vqtk.render.pictures",
    "train": "vqtk.runs.python",
    "Callback": "vqtk.callbacks",
    "Dataset": "vqtk.datasets",
    "Guide": "vqtk.guides",
    "Head": "vqtk.heads",
    "Loss": "vqtk.losses",
    "Model": "vqtk.models",
    "Objective": "vqtk.objectives",
    "Refiner": "vqtk.refiners",
    "Run": "vqtk.runs.python",
    "Selector": "vqtk.selectors",
    "SkipBackbone": "vqtk.backbones",
    "Tracker": "vqtk.callbacks",
}
__all__ = [*_PLACES]


def __getattr__(name: str) -> Any:
    """Import a public name, and with it torch, when it is first used."""
    if name not in _PLACES:
        raise AttributeError(f"module 'vqtk' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*_PLACES, "__version__", "__doc__"])
