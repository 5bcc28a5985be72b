"""The answers of a model to the page: images, losses and codes, for questions that are checked first."""

from __future__ import annotations

import base64
import binascii
from math import isfinite, prod
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le, Len
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from vqtk.errors import VqtkError
from vqtk.guides.mask import Mask
from vqtk.models import Model
from vqtk.models.vqdraw import VQDraw
from vqtk.sampling.guided import GuidedRequest, sample_guided
from vqtk.searches.beam import Beam

MOST_BYTES = 1 << 26
"""Bytes of the largest answer: the reconstructions after all stages."""
PAGE_BYTES, PAGE_OPTIONS = 1 << 22, 256
"""The most bytes and options in one answer about a stage; the page asks for further options when it needs them."""

Codes = Annotated[list[int], Len(0, 10_000)]


class Question(BaseModel):
    """What the page asks, as strict JSON. Codes and images are checked against the model when it is answered."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DecodeQuestion(Question):
    """The reconstructions before the first stage and after each stage of `codes`, and their losses for `image`."""

    codes: Codes
    image: str | None = None


class OptionsQuestion(Question):
    """The proposals of the stage after `codes`, from the `first` on, by their index or by their loss for `image`."""

    codes: Codes
    image: str | None = None
    order: Literal["option", "loss"] = "option"
    first: Annotated[int, Ge(0), Le(65_536)] = 0


class EncodeQuestion(Question):
    """The codes of `image` that a beam of some width finds, best first."""

    image: str
    width: Annotated[int, Ge(1), Le(32)] = 8


class CompleteQuestion(Question):
    """Codes for the part of `image` that is not `hidden`: the best one found, and others drawn by their losses."""

    image: str
    hidden: str
    answers: Annotated[int, Ge(1), Le(16)] = 8
    beam: Annotated[int, Ge(1), Le(8)] = 1
    temperature: Annotated[float, Ge(0), Le(10)] = 0.1
    seed: Annotated[int, Ge(0), Le(2**32)] = 0


class Explorer:
    """A model of images that answers questions.

    Images are exchanged in base64, as bytes (h, w, c) from 0 to 255; hidden pixels as bytes (h, w), 0 or 1.

    Arguments:
        model: the model.
        name: what the page and its links call the model.

    Raises: VqtkError if the model's data cannot be shown, or it does not work stage by stage.
    """

    def __init__(self, model: Model, name: str):
        shape = model.data.shape
        if model.data.kind != "image" or len(shape) != 3 or shape[0] not in (1, 3):
            raise VqtkError(
                f"vqtk explore shows models of images with 1 or 3 channels, and the data of this model are "
                f"{model.data.kind} of shape {shape}. See `vqtk tree`, `vqtk sample` and `vqtk reconstruct`."
            )
        if not isinstance(model, VQDraw):
            raise VqtkError(
                f"vqtk explore shows models that work stage by stage, and this model ({type(model).__name__}) decodes "
                "whole codes only. See `vqtk sample` and `vqtk reconstruct`."
            )
        if (model.stages + 1) * prod(shape) > MOST_BYTES:
            raise VqtkError(
                f"vqtk explore shows all stages of a code at once, and {model.stages} images of {shape[2]}×{shape[1]} "
                "pixels are too many. See `vqtk proposals` and `vqtk stages`."
            )
        self.model, self.name = model, name
        self.channels, self.height, self.width = shape

    @property
    def most_question_bytes(self) -> int:
        """The size of the largest question: an image and a mask in base64, and a code in digits."""
        return 2 * (self.channels + 1) * self.height * self.width + 8 * self.model.stages + 4096

    def facts(self) -> dict[str, Any]:
        """Return what the page must know of the model."""
        return {
            "name": self.name,
            "stages": self.model.stages,
            "options": self.model.options,
            "channels": self.channels,
            "height": self.height,
            "width": self.width,
            "loss": "MSE" if type(self.model.loss).__name__ == "MSE" else type(self.model.loss).__name__.lower(),
        }

    @torch.no_grad()
    def decode(self, asked: DecodeQuestion) -> dict[str, Any]:
        """Return the images (s + 1) along a code, and their losses if an image is given."""
        codes = self._codes(asked.codes, most=self.model.stages)
        before = self.model.start(1)[0]
        along = torch.cat([before, self.model.decode_stages(codes)[0]]) if asked.codes else before
        return {"images": self._bytes(along), "losses": self._losses(along, asked.image)}

    @torch.no_grad()
    def options(self, asked: OptionsQuestion) -> dict[str, Any]:
        """Return a page of a stage's proposals: their `options`, images and losses.

        `start` is the image before the stage, and `best` the option with the lowest loss of all.
        """
        codes = self._codes(asked.codes, most=self.model.stages - 1)
        proposals = self.model.proposals(codes)[0]
        losses = self._losses(proposals, asked.image)
        options = list(range(len(proposals)))
        if losses and asked.order == "loss":
            options.sort(key=lambda option: _rank(losses[option]))
        most = max(1, min(PAGE_OPTIONS, PAGE_BYTES // prod(self.model.data.shape)))
        shown = options[asked.first : asked.first + most]
        return {
            "options": shown,
            "start": self._bytes(self.model.decode(codes)),
            "images": self._bytes(proposals[shown]),
            "losses": losses and [losses[option] for option in shown],
            "best": losses and min(options, key=lambda option: _rank(losses[option])),
        }

    @torch.no_grad()
    def encode(self, asked: EncodeQuestion) -> dict[str, Any]:
        """Return the candidates of a beam: their codes, losses and final reconstructions."""
        codes = Beam(width=asked.width).candidates(self.model, self._target(asked.image))[0]
        final = self.model.decode(codes)
        return {"codes": codes.tolist(), "images": self._bytes(final), "losses": self._losses(final, asked.image)}

    def complete(self, asked: CompleteQuestion) -> dict[str, Any]:
        """Return the answers of guided sampling: their codes, losses on the visible part, and reconstructions."""
        guide = Mask.of(self.model, self._hidden(asked.hidden))
        request = GuidedRequest(answers=asked.answers, beam=asked.beam, temperature=asked.temperature, seed=asked.seed)
        target = self._target(asked.image)
        found = sample_guided(self.model, guide, guide.observed(target), asked=request, items=[0])
        losses = [loss if isfinite(loss) else None for loss in found.losses[0].tolist()]
        return {"codes": found.codes[0].tolist(), "images": self._as_bytes(found.shown[0]), "losses": losses}

    # ── between JSON and tensors ─────────────────────────────────────────────────────────────────

    def _codes(self, codes: list[int], *, most: int) -> Tensor:
        if len(codes) > most:
            raise VqtkError(f"codes: {len(codes)} given, expected at most {most}.")
        wrong = next((code for code in codes if not 0 <= code < self.model.options), None)
        if wrong is not None:
            raise VqtkError(f"codes: {wrong} given, expected options from 0 to {self.model.options - 1}.")
        return torch.tensor([codes], dtype=torch.int64, device=self.model.device).reshape(1, len(codes))

    def _target(self, image: str) -> Tensor:
        """Return an image in training units, (1, c, h, w)."""
        pixels = _decoded(image, (self.height, self.width, self.channels), "image").permute(2, 0, 1)
        return self.model.data.normalise(pixels[None].to(self.model.device), self.model.dtype)

    def _hidden(self, hidden: str) -> Tensor:
        return _decoded(hidden, (self.height, self.width), "hidden").bool()

    def _losses(self, x: Tensor, image: str | None) -> list[float | None] | None:
        """Return the model's loss of reconstructions (n, *shape) for an image; None in the place of infinity."""
        if image is None:
            return None
        losses = self.model.loss(x[None], self._target(image))[0].tolist()
        return [loss if isfinite(loss) else None for loss in losses]

    def _bytes(self, x: Tensor) -> str:
        return self._as_bytes(self.model.loss.show(x))

    def _as_bytes(self, shown: Tensor) -> str:
        """Return images (n, c, h, w) in training units as base64, n × (h, w, c)."""
        pixels = (self.model.data.pixels(shown.float()).nan_to_num() * 255).round().to(torch.uint8)
        return base64.b64encode(pixels.permute(0, 2, 3, 1).cpu().numpy().tobytes()).decode()


def _rank(loss: float | None) -> float:
    return float("inf") if loss is None else loss


def _decoded(text: str, shape: tuple[int, ...], field: str) -> Tensor:
    """Return base64 as a tensor of bytes. Raises: VqtkError if it is not base64 or of another size."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise VqtkError(f"{field}: expected base64.") from None
    if len(content) != prod(shape):
        raise VqtkError(f"{field}: {len(content):,} bytes given, expected {prod(shape):,}, of shape {shape}.")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(shape)
