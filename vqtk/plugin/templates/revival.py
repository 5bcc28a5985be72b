"""A revival: gives options that training does not choose a new start, after every window of updates.

In a recipe: `plugins: [example.py]`, and `revive: {name: example, window: 50}` in `train`.
"""

import torch
from torch import Tensor

from vqtk.models import Model
from vqtk.nn.types import Count
from vqtk.registry import revivals
from vqtk.revivals import Revival


@revivals.register("example", example={"window": 3})
class Example(Revival):
    """Let an option that no example chose start again from the most frequent option of its stage, with some noise."""

    # A recipe may set the parameters after the `*`.
    def __init__(self, model: Model, *, window: Count = 100):
        super().__init__(model, window=window)

    def revive(
        self, optimizer: torch.optim.Optimizer, counts: Tensor, target: Tensor, generator: torch.Generator
    ) -> None:
        """Overwrite the parameters of idle options; all that is random is drawn with the generator."""
        for stage, chosen in enumerate(counts):
            for option in (chosen == 0).nonzero()[:, 0].tolist():
                for rows in self.model.option_rows(stage):
                    values = rows.of(rows.parameter, self.model.options)
                    noise = torch.randn(values[option].shape, generator=generator).to(values)
                    values[option] = values[int(chosen.argmax())] + 0.01 * noise
