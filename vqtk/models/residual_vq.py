"""Residual vector quantisation: one vector for each example, approximated by one codebook after another."""

from vqtk.models._codebook import Decay
from vqtk.models._quantised import Quantised
from vqtk.nn.types import Count, DataSpec, Stages
from vqtk.registry import Inherited, models

_EXAMPLE = {
    "stages": 4,
    "options": 4,
    "loss": "mse",
    "width": 8,
    "code_width": 4,
    "blocks": 1,
    "prior": "autoregressive",
}


@models.register("residual_vq", example=_EXAMPLE)
class ResidualVQ(Quantised):
    """An auto-encoder with residual quantisation: each stage's codebook approximates the residual of those before it.

    One vector of `code_width` values represents an example; stage s adds the one of its `options` vectors that is
    nearest to the residual. Encoder and decoder have `blocks` residual blocks of `width` channels. Samples are drawn
    from the `prior`, or uniformly without one. The objective `quantisation` trains whole codes; a prefix of a code can
    be decoded, but its reconstruction is not trained. Needs the extra `baselines`.

    With `codebook: ema` codebooks start by k-means and follow the encoder by moving averages with `decay`; with
    `gradient` the optimiser moves them, as in the paper. A vector whose average number of choices in an update falls
    below `dead_below` is replaced by one of the update's; 0 replaces none. `rotation: true` passes the gradient through
    the quantisation by the rotation trick.

    Shapes: images (n, c, h, w), h and w multiples of 4 ↔ codes (n, stages) ↔ reconstructions (n, *shape).
    Raises: ShapeError if the data are not such images; VqtkError if the extra is not installed.
    Source: Zeghidour et al. 2021, arXiv 2107.03312, the residual quantiser; van den Oord et al. 2017 for the rest;
        Fifty et al. 2024, arXiv 2410.06424, the rotation trick.
    """

    # An update has one vector for each example, so averages over few updates would be noisy.
    def __init__(
        self, data: DataSpec, *, stages: Stages, code_width: Count = 64, decay: Decay = 0.99, **quantised: Inherited
    ):
        super().__init__(data, 1, stages, code_width=code_width, decay=decay, **quantised)
