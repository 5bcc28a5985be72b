"""Models: VQ-DRAW, and the baselines behind the same protocol."""

from vqtk.models._base import Model
from vqtk.models._compiled import CompiledStage
from vqtk.models._guided import Guided, guided_walk
from vqtk.models._integers import IntegerPrior, integer_prior
from vqtk.models._quantised import Quantised
from vqtk.models._walk import Walk, usage_of

__all__ = [
    "CompiledStage",
    "Guided",
    "IntegerPrior",
    "Model",
    "Quantised",
    "Walk",
    "guided_walk",
    "integer_prior",
    "usage_of",
]
