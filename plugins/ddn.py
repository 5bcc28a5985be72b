"""Discrete Distribution Networks: options that split when chosen too often, and die when chosen too rarely.

The paper trains the chosen option alone, so an option that no item ever chooses learns nothing. Instead of pulling at
all options, as VQ-DRAW does, it replaces the rarest by a copy of the most frequent: split-and-prune. The chosen
option's features go on to the next stage. The paper's chain dropout is the selector `epsilon`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vqtk.errors import ShapeError
from vqtk.nn.convolution import chosen_convolution, convolution
from vqtk.nn.stage import State
from vqtk.nn.types import Count, NonNegative, Size, Whole
from vqtk.refiners.composed import Composed
from vqtk.registry import Inherited, refiners

_EXAMPLE = {
    "backbone": {"name": "conv", "layers": [{"width": 8, "kernel": 5, "stride": 2}]},
    "blocks": [{"name": "conv", "width": 8}],
    "head": {"name": "conv", "layers": [{"width": 6, "upsample": 2}]},
    "channels": 4,
}


@refiners.register("ddn", example=_EXAMPLE, staged=True)
class DDN(Composed):
    """Backbone, blocks, head; the chosen option's features are carried; options split and are pruned.

    Each option has a 1-wide convolution of its own, from the blocks' features to `channels` channels. The next stage's
    blocks take those of the chosen option besides the backbone's features; 0 at first.

    After an update, if the most frequent of K options has more than `split_threshold`/K of all choices so far, and
    the rarest less than `prune_threshold`/K, the former overwrites the latter: weights, biases and what the optimiser
    knows of them. Both then have half of its count. An output that all stages share counts them together; one of each
    stage's own counts alone. Between two replacements there are `pace` choices for each option on average: a copy has
    to come apart from what it was copied of. The paper's batches of 256 have 40 of them in an update.

    Shapes: x (n, in_width, *size), state (n, channels, *size of the features) → deltas (n, options, out_channels,
    *size).
    Raises: ShapeError if parts do not fit, the blocks change the size of the features, or the head has no rows.
    Source: Yang 2025, Discrete Distribution Networks, arXiv 2401.00036, ICLR 2025, in its recurrence paradigm.
    """

    def __init__(
        self,
        in_width: int,
        size: Size,
        stages: int,
        options: int,
        out_channels: int,
        *,
        channels: Count = 32,
        split_threshold: NonNegative = 2.0,
        prune_threshold: NonNegative = 0.5,
        pace: Whole = 40,
        **composed: Inherited,
    ):
        self.carried = channels
        super().__init__(in_width, size, stages, options, out_channels, **composed)
        self.options, self.pace = options, pace
        self.split_threshold, self.prune_threshold = split_threshold, prune_threshold
        if self.blocks.size != self.backbone.size:
            raise ShapeError(
                f"the blocks make features of size {self.blocks.size} out of {self.backbone.size}, so those of an "
                "option cannot enter the next stage. Take `stride` and `upsample` out of the blocks."
            )
        outputs = outputs_of(self.head, options * out_channels)
        self.passing = nn.ModuleList(
            convolution(self.blocks.width, options * channels, self.blocks.size, kernel=1)[0] for _ in outputs
        )
        self.counts: Tensor
        self.since: Tensor
        self.register_buffer("counts", torch.zeros(len(outputs), options, dtype=torch.int64))
        self.register_buffer("since", torch.zeros(len(outputs), dtype=torch.int64))

    def initial_state(self, like: Tensor) -> State:
        """Return the features before any choice (n, channels, *size of the features): zero."""
        return like.new_zeros(len(like), self.carried, *self.backbone.size)

    def features(self, x: Tensor, stage: int, state: State) -> Tensor:
        """Return the features, which the blocks make of the backbone's and of the chosen option's."""
        return self.blocks(torch.cat([self.backbone(x, stage), state], 1), stage)

    def carry(self, features: Tensor, stage: int, state: State) -> State:
        """Return the features, from which `advance` makes those of the chosen option, and the stage."""
        return features, stage

    def advance(self, carry: State, codes: Tensor, x: Tensor) -> State:
        """Return the features of the chosen options (n, channels, *size), computed for these alone."""
        features, stage = carry
        weight, bias = self._rows(stage)
        return chosen_convolution(features, weight[codes], bias[codes])

    def _rows(self, stage: int) -> tuple[Tensor, Tensor]:
        """Return the weights (k, channels, …) and biases (k, channels) that yield each option's features."""
        passing: Any = self.passing[stage if len(self.passing) > 1 else 0]
        return passing.weight.unflatten(0, (self.options, -1)), passing.bias.unflatten(0, (self.options, -1))

    # ── split-and-prune ──────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def after_update(self, optimizer: torch.optim.Optimizer, usage: Tensor) -> None:
        """Count the choices of the update (s, k), and replace the rarest option of each output if it is time."""
        used = usage.sum(0, keepdim=True) if len(self.passing) == 1 else usage
        self.counts[: len(used)] += used
        self.since[: len(used)] += used.sum(1)
        outputs = outputs_of(self.head)
        for index, choices in enumerate(self.since.tolist()):
            if choices == 0 or choices < self.pace * self.options:
                continue
            pair = split_and_prune(self.counts[index], self.split_threshold, self.prune_threshold)
            if pair:
                self.since[index] = 0
                for parameter in (*outputs[index].parameters(), *self.passing[index].parameters()):
                    copy_option(parameter, *pair, options=self.options, optimizer=optimizer)


def split_and_prune(counts: Tensor, split_threshold: float, prune_threshold: float) -> tuple[int, int] | None:
    """Return which option to copy over which, and give each half of the copied one's count; None if neither is due.

    Shapes: counts (k,), whole numbers; changed in place. The pruned option's own count is forgotten.
    """
    most, least = int(counts.argmax()), int(counts.argmin())
    fair = counts.sum().item() / len(counts)
    if counts[most] <= split_threshold * fair or counts[least] >= prune_threshold * fair:
        return None
    counts[least] = counts[most] // 2
    counts[most] -= counts[least]
    return most, least


def copy_option(parameter: Tensor, source: int, target: int, *, options: int, optimizer: torch.optim.Optimizer) -> None:
    """Copy an option's rows over another's, in a parameter (options · c, …) and in its moments in the optimiser."""
    for value in (parameter, *optimizer.state.get(parameter, {}).values()):
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            rows = value.unflatten(0, (options, -1))
            rows[target] = rows[source]


def outputs_of(head: nn.Module, rows: int | None = None) -> list[Any]:
    """Return the last convolutions of a head: one, or one for each stage.

    Raises: ShapeError if there is none that has `rows` rows, an option's one after the other.
    """
    outputs = list(getattr(head, "outputs", [])) or [getattr(head, "output", None)]
    if rows and any(getattr(getattr(output, "weight", None), "shape", [0])[0] != rows for output in outputs):
        raise ShapeError(
            f"the head {type(head).__name__} has no `output` or `outputs` with {rows} rows, so an option of it cannot "
            "be copied. Use the head `conv` or `conv_per_stage`."
        )
    return outputs
