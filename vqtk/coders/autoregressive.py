"""The prior that a model has itself."""

from vqtk.coders._entropy import FEW, Entropy, Walk, too_large
from vqtk.models import Model, integer_prior
from vqtk.registry import coders


@coders.register("autoregressive")
class AutoregressiveCoder(Entropy):
    """The network over codes that `vqvae` and `residual_vq` train with `prior: autoregressive`, in whole numbers.

    Raises: VqtkError if the model has no such prior or too many options, or constriction is not installed.
    """

    def __init__(self, model: Model, tables: bytes):
        super().__init__(model, tables)
        if model.options > FEW:
            raise too_large("autoregressive", model)
        self._prior = integer_prior(model, total=self.total)

    def walk(self, n: int) -> Walk:
        """Walk through the network's stages."""
        return self._prior.walk(n)
