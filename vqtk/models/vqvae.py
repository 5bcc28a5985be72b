"""VQ-VAE: one codebook, and a code for each position of a coarse image."""

from vqtk.models._quantised import Quantised
from vqtk.nn.types import Count, DataSpec, Stages
from vqtk.registry import Inherited, models


@models.register("vqvae", example={"stages": 4, "options": 4, "loss": "mse", "width": 8, "code_width": 4, "blocks": 1})
class VQVAE(Quantised):
    """The vector-quantised auto-encoder: the vector at every position is replaced by the nearest one of a codebook.

    A code has `stages` positions, with `options` vectors to choose among. If `stages` is the number of positions of the
    image at a quarter of its size (49 for 28×28), each code belongs to one; otherwise a linear map computes the vectors
    from the whole image. The vectors of the codebook have `code_width` values; encoder and decoder have `blocks`
    residual blocks of `width` channels. Samples are drawn from the `prior`, or uniformly without one. The model is
    trained by the objective `quantisation`. Prefixes of a code cannot be decoded. Needs the extra `baselines`.

    With `codebook: ema` codebooks start by k-means and follow the encoder by moving averages with `decay`; with
    `gradient` the optimiser moves them, as in the paper. A vector whose average number of choices in an update falls
    below `dead_below` is replaced by one of the update's; 0 replaces none. `rotation: true` passes the gradient through
    the quantisation by the rotation trick.

    Shapes: images (n, c, h, w), h and w multiples of 4 ↔ codes (n, stages) ↔ reconstructions (n, *shape).
    Raises: ShapeError if the data are not such images; VqtkError if the extra is not installed.
    Source: van den Oord et al. 2017, arXiv 1711.00937; Fifty et al. 2024, arXiv 2410.06424, the rotation trick.
    """

    def __init__(self, data: DataSpec, *, stages: Stages, code_width: Count = 16, **quantised: Inherited):
        super().__init__(data, stages, 1, code_width=code_width, **quantised)
