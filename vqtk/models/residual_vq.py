"""Residual vector quantisation: one vector an item, approximated by codebook after codebook."""

from typing import Literal

from vqtk.models._quantised import Quantised
from vqtk.nn.types import Count, DataSpec, Layers, Options, Stages
from vqtk.registry import Loss, models

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
    """An auto-encoder with residual quantisation: each stage's codebook approximates what those before it left over.

    One vector of `code_width` values stands for an item; stage s adds the nearest of its `options` vectors to what
    is missing. Encoder and decoder have `blocks` residual blocks of `width` channels. With a `prior`, samples are
    drawn from it, else uniformly. Trained by the objective `quantisation`, on whole codes; a prefix of a code can be
    decoded, but nothing trains what it decodes to. Needs the extra `baselines`.

    Shapes: images (n, c, h, w), h and w multiples of 4 ↔ codes (n, stages) ↔ reconstructions (n, *shape).
    Raises: ShapeError if the data are not such images; VqtkError if the extra is not installed.
    Source: Zeghidour et al. 2021, arXiv 2107.03312, the residual quantiser; van den Oord et al. 2017 for the rest.
    """

    def __init__(
        self,
        data: DataSpec,
        *,
        stages: Stages,
        options: Options,
        loss: Loss,
        width: Count = 64,
        code_width: Count = 64,
        blocks: Layers = 2,
        prior: Literal["none", "autoregressive"] = "none",
    ):
        super().__init__(
            data,
            positions=1,
            codebooks=stages,
            options=options,
            loss=loss,
            width=width,
            code_width=code_width,
            blocks=blocks,
            prior=prior,
        )
