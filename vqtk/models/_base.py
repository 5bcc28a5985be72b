"""The base class of models: an encoder of data to discrete codes, and a decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from vqtk.errors import VqtkError
from vqtk.losses import Loss
from vqtk.models._samples import Samples
from vqtk.nn.graph import is_capturing
from vqtk.nn.stage import OptionRows
from vqtk.nn.types import DataSpec

if TYPE_CHECKING:
    from vqtk.recipe.recipe import Recipe


class Model(nn.Module, ABC):
    """Data (n, *data shape) in training units ↔ codes (n, stages) in [0, options) ↔ reconstructions (n, *shape).

    `loss` scores reconstructions and owns their shape. A `stepwise` model decodes any prefix of a code, and returns the
    proposals of each stage.
    """

    stepwise: ClassVar[bool] = False
    segments = 1
    revives = False
    """Whether `after_update` does anything; if not, training does not count the usage of options for it."""
    loss: Loss
    recipe: Recipe | None = None
    """The recipe that the model was built from, which `save` stores with the weights; None without one."""

    def __init__(self, data: DataSpec, *, stages: int, options: int):
        super().__init__()
        self.data = data
        self.stages, self.options = stages, options

    @property
    def bits(self) -> float:
        """The number of bits of a code."""
        return self.stages * log2(self.options)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.parameters()).dtype

    @abstractmethod
    def encode(self, target: Tensor) -> Tensor:
        """Return the codes of a target (n, *data shape) → (n, stages)."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Return the reconstructions of codes (n, stages) → (n, *shape)."""

    @abstractmethod
    def trial(self, target: Tensor) -> Tensor:
        """Return a scalar that depends on every trained weight, by which a recipe is validated."""

    # ── stepwise models ──────────────────────────────────────────────────────────────────────────

    def decode_stages(self, codes: Tensor) -> Tensor:
        """Return the reconstruction after each stage: (n, s) → (n, s, *shape). Raises: VqtkError if not stepwise."""
        raise self._decodes_whole_codes()

    def proposals(self, codes: Tensor) -> Tensor:
        """Return the proposals of the stage after codes (n, s): (n, k, *shape). Raises: VqtkError if not stepwise."""
        raise self._decodes_whole_codes()

    def scored(self, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the grids (n, s, k), codes (n, s) and reconstructions (n, *shape) of a greedy encoding pass.

        Raises: VqtkError if not stepwise.
        """
        raise self._decodes_whole_codes()

    def _decodes_whole_codes(self) -> VqtkError:
        return VqtkError(f"this model ({type(self).__name__}) decodes whole codes only, not single stages.")

    # ── sampling ─────────────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None, stages: int | None = None) -> Tensor:
        """Decode random codes, or their first `stages` → (n, *shape); in a notebook, the result shows itself."""
        decoded = self.decode(self.random_codes(n, generator=generator)[:, :stages])
        return Samples.of(decoded, self)

    def random_codes(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Return uniformly drawn codes (n, stages), drawn on the CPU so that a seed gives the same ones everywhere."""
        codes = torch.randint(self.options, (n, self.stages), generator=generator)
        return codes.to(self.device)

    def save(self, path: str | Path) -> None:
        """Write the weights with the recipe to a file, which `vqtk.load` and every command read.

        Raises: CheckpointError if the model was not built from a recipe, a weight is not finite, or the file cannot be
        written.
        """
        import vqtk  # The top of the package: the chapter that writes files is above this one.

        vqtk.save(self, path)

    def option_rows(self, stage: int) -> list[OptionRows]:
        """Return the rows of each option in the parameters that belong to single options at a stage; [] if unknown."""
        return []

    def after_update(self, optimizer: torch.optim.Optimizer, usage: Tensor) -> None:
        """Revive unused options after an update; usage (s, k) counts how often each option was chosen."""

    def _check_target(self, target: Tensor) -> None:
        if tuple(target.shape[1:]) != self.data.shape or target.is_floating_point() == (self.data.classes is not None):
            raise self._unfit(target)

    def _unfit(self, target: Tensor) -> VqtkError:
        """Return the error for a target that does not fit the model's data."""
        if tuple(target.shape[1:]) != self.data.shape:
            expected = ", ".join(map(str, self.data.shape))
            return VqtkError(f"examples of shape {tuple(target.shape)}: expected (n, {expected}).")
        if self.data.classes is not None:
            return VqtkError(f"examples of type {target.dtype}: expected token indices, whole numbers.")
        return VqtkError(
            f"examples of type {target.dtype}: expected training units, floating point. For raw pixels from 0 to 255: "
            "model.encode(model.data.normalise(pixels))."
        )

    def _check_codes(self, codes: Tensor, *, most: int) -> None:
        if codes.is_floating_point():
            raise VqtkError(f"codes of type {codes.dtype}: expected integers from 0 to {self.options - 1}.")
        if codes.dim() != 2 or codes.shape[1] > most:
            raise VqtkError(f"codes of shape {tuple(codes.shape)}: expected (n, s) with s ≤ {most} stages.")
        # Reading the values waits for the device, which a graph being exported or captured cannot do.
        if codes.device.type == "meta" or not codes.numel() or torch.compiler.is_compiling() or is_capturing(codes):
            return
        lowest, highest = int(codes.min()), int(codes.max())
        if not 0 <= lowest <= highest < self.options:
            raise VqtkError(f"codes from {lowest} to {highest}: expected 0 to {self.options - 1}.")
