"""Idle options redrawn from what the others leave."""

from __future__ import annotations

import torch
from torch import Tensor

from vqtk.errors import ShapeError
from vqtk.models.vqdraw import VQDraw
from vqtk.nn.stage import State
from vqtk.nn.types import Count, Fraction, Positive
from vqtk.registry import revivals
from vqtk.revivals._base import Revival, values_of


@revivals.register("redraw", example={"window": 3})
class Redraw(Revival):
    """Redraw the options that a stage did not choose for `window` updates, from the statistics of its residuals.

    An option's mean delta becomes a draw from a normal distribution: its mean is that of the batch's residuals at the
    stage, and its covariance is theirs times `scale` squared. A small scale makes an option that fits many examples a
    little, and is therefore chosen. Only the option's bias or codeword changes; the optimiser's moments of it become 0.
    After the fraction `until` of the updates, options are left as they are.

    Needs `stage_biases` or a refiner with codewords, and a loss whose reconstructions are in the units of the data.

    Raises: ShapeError if the model or its loss does not have these.
    Source: Vallaeys et al. 2025, QINCo2, arXiv 2501.03078, ICLR 2025, which draws the values independently.
    """

    model: VQDraw

    def __init__(self, model: VQDraw, *, window: Count = 100, scale: Positive = 0.5, until: Fraction = 1.0):
        if not isinstance(model, VQDraw) or any(model.table(stage) is None for stage in range(model.stages)):
            raise ShapeError(
                "`revive: redraw` needs a bias for each stage, or a refiner with codewords. Set `stage_biases: true` "
                "in `model`, or use `revive: copy`."
            )
        if model.loss.residual(model.start(1)[0], model.start(1)[0]) is None:
            raise ShapeError(
                f"`revive: redraw` needs reconstructions in the units of the data, and those of the loss "
                f"{type(model.loss).__name__} are not. Use `revive: copy`."
            )
        super().__init__(model, window=window, until=until)
        self.scale = scale

    def revive(
        self, optimizer: torch.optim.Optimizer, counts: Tensor, target: Tensor, generator: torch.Generator
    ) -> None:
        """Redraw the idle options of each stage, along a greedy pass over the batch."""
        model = self.model
        idle = (counts == 0).cpu()
        x, state = model.start(1)
        for stage in range(model.stages):
            redrawn = idle[stage].nonzero()[:, 0].to(model.device)
            if len(redrawn):
                self._redraw(stage, redrawn, x, state, target, optimizer, generator)
            walk = model.walk(target, stages=[stage], start=(x, state))
            x, state = walk.reconstruction, walk.state

    def _redraw(
        self,
        stage: int,
        options: Tensor,
        x: Tensor,
        state: State,
        target: Tensor,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> None:
        model = self.model
        residual = model.loss.residual(x, target)
        assert residual is not None
        mean = residual.mean(0)
        weights = torch.randn(len(options), len(target), generator=generator).to(residual) / len(target) ** 0.5
        drawn = mean + self.scale * torch.tensordot(weights, residual - mean, 1)
        deltas, _ = model.step(x, state, stage)
        rows = model.table(stage)
        assert rows is not None
        for value, is_moment in values_of(rows, optimizer, model.options):
            if is_moment:
                value[options] = 0
            else:
                value[options] += (drawn - deltas[:, options].mean(0)).view_as(value[options])
