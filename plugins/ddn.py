"""Discrete Distribution Networks: options are split if they are chosen too often, and pruned if too rarely.

The paper trains only the chosen option, so an option that no example chooses learns nothing. Where VQ-DRAW trains all
options a little, the paper replaces the rarest one by a copy of the most frequent: split-and-prune. The features of
the chosen option are passed to the next stage. The paper's chain dropout is the selector `epsilon`.
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
    """The refiner `composed` that carries the features of the chosen option, and splits and prunes options.

    Each option has its own 1×1 convolution, from the features after the blocks to `channels` channels. The blocks of
    the next stage take those of the chosen option together with the backbone's features; they are 0 at first.

    After an update, if the most frequent of K options has more than `split_threshold`/K of all choices so far, and the
    rarest has less than `prune_threshold`/K, the former overwrites the latter: weights, biases and the optimiser's
    moments. Each then has half of the count. An output that all stages share is counted over all stages, and one for
    each stage separately. Between two replacements there are on average `pace` choices for each option, so that a copy
    can diverge from its original; the paper's batches of 256 have 40 of them in an update.

    Shapes: x (n, in_width, *size), state (n, channels, *size of the features) → deltas (n, options, out_channels,
    *size).
    Raises: ShapeError if the components do not fit together, the blocks change the size of the features, or the head
    has no output whose options can be copied.
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
                f"the blocks change the size of the features from {self.backbone.size} to {self.blocks.size}, so those "
                "of an option cannot enter the next stage. Remove `stride` and `upsample` from the blocks."
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
        """Return the features of the blocks, which take the backbone's and those of the last chosen option."""
        return self.blocks(torch.cat([self.backbone(x, stage), state], 1), stage)

    def carry(self, features: Tensor, stage: int, state: State) -> State:
        """Return the features and the stage, from which `advance` computes those of the chosen option."""
        return features, stage

    def advance(self, carry: State, codes: Tensor, x: Tensor) -> State:
        """Return the features of the chosen options (n, channels, *size), computed for these only."""
        features, stage = carry
        weight, bias = self._rows(stage)
        return chosen_convolution(features, weight[codes], bias[codes])

    def _rows(self, stage: int) -> tuple[Tensor, Tensor]:
        """Return the weights (k, channels, …) and biases (k, channels) that compute the features of each option."""
        passing: Any = self.passing[stage if len(self.passing) > 1 else 0]
        return passing.weight.unflatten(0, (self.options, -1)), passing.bias.unflatten(0, (self.options, -1))

    # ── split-and-prune ──────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def after_update(self, optimizer: torch.optim.Optimizer, usage: Tensor) -> None:
        """Count the choices of the update (s, k), and replace the rarest option of each output if that is due."""
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
    """Return the option to split and the one to prune, and divide the count between them; None if that is not due.

    Shapes: counts (k,), whole numbers, modified in place. The count of the pruned option is discarded.
    """
    most, least = int(counts.argmax()), int(counts.argmin())
    fair = counts.sum().item() / len(counts)
    if counts[most] <= split_threshold * fair or counts[least] >= prune_threshold * fair:
        return None
    counts[least] = counts[most] // 2
    counts[most] -= counts[least]
    return most, least


def copy_option(parameter: Tensor, source: int, target: int, *, options: int, optimizer: torch.optim.Optimizer) -> None:
    """Copy the rows of an option over another's, in a parameter (options · c, …) and in the optimiser's moments."""
    for value in (parameter, *optimizer.state.get(parameter, {}).values()):
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            rows = value.unflatten(0, (options, -1))
            rows[target] = rows[source]


def outputs_of(head: nn.Module, rows: int | None = None) -> list[Any]:
    """Return the last convolutions of a head: one, or one for each stage.

    Raises: ShapeError if they do not have `rows` rows, option by option.
    """
    outputs = list(getattr(head, "outputs", [])) or [getattr(head, "output", None)]
    if rows and any(getattr(getattr(output, "weight", None), "shape", [0])[0] != rows for output in outputs):
        raise ShapeError(
            f"the head {type(head).__name__} has no `output` or `outputs` with {rows} rows, so its options cannot be "
            "copied. Use the head `conv` or `conv_per_stage`."
        )
    return outputs
