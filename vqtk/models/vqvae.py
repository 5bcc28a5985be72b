"""VQ-VAE: one codebook, and a code for each place of a coarse image."""

from typing import Literal

from vqtk.models._quantised import Quantised
from vqtk.nn.types import Count, DataSpec, Layers, Options, Stages
from vqtk.registry import Loss, models


@models.register("vqvae", example={"stages": 4, "options": 4, "loss": "mse", "width": 8, "code_width": 4, "blocks": 1})
class VQVAE(Quantised):
    """The vector-quantised auto-encoder: every position's vector becomes the nearest of one codebook.

    A code has `stages` positions and `options` vectors to choose among. Where `stages` is the number of places of
    the image at a quarter of its size (49 for 28×28), each code belongs to a place; otherwise a linear map makes the
    vectors out of all of the image. The codebook's vectors have `code_width` values; encoder and decoder have
    `blocks` residual blocks of `width` channels. With a `prior`, samples are drawn from it, else uniformly. Trained
    by the objective `quantisation`. Prefixes of a code cannot be decoded. Needs the extra `baselines`.

    Shapes: images (n, c, h, w), h and w multiples of 4 ↔ codes (n, stages) ↔ reconstructions (n, *shape).
    Raises: ShapeError if the data are not such images; VqtkError if the extra is not installed.
    Source: van den Oord et al. 2017, arXiv 1711.00937.
    """

    def __init__(
        self,
        data: DataSpec,
        *,
        stages: Stages,
        options: Options,
        loss: Loss,
        width: Count = 64,
        code_width: Count = 16,
        blocks: Layers = 2,
        prior: Literal["none", "autoregressive"] = "none",
    ):
        super().__init__(
            data,
            positions=stages,
            codebooks=1,
            options=options,
            loss=loss,
            width=width,
            code_width=code_width,
            blocks=blocks,
            prior=prior,
        )
