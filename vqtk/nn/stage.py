"""Modules that know the stage they are applied at."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from vqtk.nn.types import Size


class StageModule(nn.Module):
    """A map from features to features, conditioned on the stage.

    `width` and `size` say what it yields. Shapes: `forward(features (n, in_width, *in_size), stage)` →
    (n, width, *size), with `stage` in [0, stages).
    """

    def __init__(self, width: int, size: Size):
        super().__init__()
        self.width = width
        self.size = size


class StageSequential(StageModule):
    """Stage modules applied in order; yields what the last one yields, or its input if there are none."""

    def __init__(self, width: int, size: Size, modules: Iterable[StageModule] = ()):
        super().__init__(width, size)
        self.layers = nn.ModuleList()
        for module in modules:
            self.append(module)

    def append(self, module: StageModule) -> None:
        """Add a module at the end; it must take the width and size yielded so far."""
        self.layers.append(module)
        self.width, self.size = module.width, module.size

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Apply the modules in order."""
        for layer in self.layers:
            features = layer(features, stage)
        return features


class ChannelAffine(nn.Module):
    """A condition that multiplies each channel by a number of the stage, and may add another.

    A convolution before it can do both by its filters, and those are far fewer numbers than a feature map of a batch:
    see `LayerUnit`. `scales` and `shifts` are (stages, width); `shifts` may be None.

    Shapes: features (n, width, *size) → the same.
    """

    def __init__(self, scales: Tensor, shifts: Tensor | None = None):
        super().__init__()
        self.scales = nn.Parameter(scales)
        self.shifts = None if shifts is None else nn.Parameter(shifts)

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Multiply and shift."""
        vector = (-1, *[1] * (features.dim() - 2))
        scale = self.scales[stage].reshape(vector)
        return features * scale if self.shifts is None else self.shifts[stage].reshape(vector).addcmul(features, scale)
