"""Options copied over others: split-and-prune."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vqtk.errors import ShapeError
from vqtk.models import Model
from vqtk.nn.stage import OptionRows
from vqtk.nn.types import Count, Fraction
from vqtk.registry import revivals
from vqtk.revivals._base import Revival, values_of


@dataclass(frozen=True)
class _Group:
    """Stages whose options share parameters, so that they are counted and copied together."""

    stages: list[int]
    rows: list[OptionRows]


@revivals.register("copy", example={"window": 3})
class Copy(Revival):
    """Overwrite the rarest options with copies of the most frequent: their parameters, and the optimiser's moments.

    After every `window` updates, the most frequent of K options replaces the rarest, the second the second rarest, and
    so on, while their shares of the choices are too different: the larger is at least 2/K and the smaller below 1/K, or
    they differ by more than 1/K, or the smaller is below 1/(2K). The parameters of the original grow by the fraction
    `spread`, and those of the copy shrink by it, so that they are chosen by different examples.

    After the fraction `until` of the updates, options are left as they are: late copies have no time to become
    different. A long window counts usage exactly; a short one also copies options whose usage differs by chance.

    Stages that share the parameters of their options are counted together. Nothing is random.

    Raises: ShapeError if the model does not say which parameters belong to an option.
    Source: Yang 2025, Discrete Distribution Networks, arXiv 2401.00036, ICLR 2025; the spread, Linde, Buzo and Gray
    1980.
    """

    def __init__(self, model: Model, *, window: Count = 100, spread: Fraction = 0.01, until: Fraction = 1.0):
        super().__init__(model, window=window, until=until)
        self.spread = spread
        self.groups = groups_of(model)

    def revive(
        self, optimizer: torch.optim.Optimizer, counts: Tensor, target: Tensor, generator: torch.Generator
    ) -> None:
        """Copy options in each group of stages."""
        for group in self.groups:
            for most, least in pairs_to_copy(counts[group.stages].sum(0)):
                for rows in group.rows:
                    self._copy(rows, most, least, optimizer)

    def _copy(self, rows: OptionRows, most: int, least: int, optimizer: torch.optim.Optimizer) -> None:
        for value, is_moment in values_of(rows, optimizer, self.model.options):
            value[least] = value[most]
            if not is_moment:
                value[most] *= 1 + self.spread
                value[least] *= 1 - self.spread


def pairs_to_copy(counts: Tensor) -> list[tuple[int, int]]:
    """Return the pairs of an option to copy and one to overwrite, from how often each was chosen (k,)."""
    total, k = int(counts.sum()), len(counts)
    order = counts.argsort(descending=True, stable=True).tolist()
    shares = (counts.double() / max(total, 1)).tolist()
    found = []
    for most, least in zip(order[: k // 2], reversed(order[k - k // 2 :]), strict=True):
        large, small = shares[most], shares[least]
        if not ((large >= 2 / k and small < 1 / k) or large - small > 1 / k or small < 1 / (2 * k)):
            break
        found.append((most, least))
    return found if total else []


def groups_of(model: Model) -> list[_Group]:
    """Return the stages in groups that share parameters of their options. Raises: ShapeError if a stage has none."""
    groups: list[_Group] = []
    for stage in range(model.stages):
        rows = model.option_rows(stage)
        if not rows:
            raise ShapeError(
                f"`revive: copy`: {type(model).__name__} or its refiner's head does not say which parameters belong to "
                "an option. Use `redraw`, or the head conv, conv_per_stage, subpixel or lowrank."
            )
        keys = {row.key for row in rows}
        sharing = [group for group in groups if keys & {row.key for row in group.rows}]
        group = _Group([stage], rows)
        for other in sharing:
            known = {row.key for row in other.rows}
            group = _Group(
                [*other.stages, *group.stages], [*other.rows, *(row for row in group.rows if row.key not in known)]
            )
        groups = [one for one in groups if one not in sharing] + [group]
    return groups
