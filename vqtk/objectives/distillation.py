"""Distillation: a feed-forward model learns the codes and the reconstructions of a trained VQ-DRAW."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vqtk.errors import ShapeError, VqtkError
from vqtk.models.distilled import Distilled
from vqtk.nn.stage import State
from vqtk.nn.types import NonNegative
from vqtk.objectives._base import Load, Objective, Pass
from vqtk.registry import objectives


@objectives.register("distillation", example={"teacher": "any"})
class Distillation(Objective):
    """The student's loss on the teacher's codes and reconstructions, of training data and of random codes.

    On data, the encoder's term is the mean negative log-likelihood of the teacher's codes, and the decoder's is the
    distance between the student's and the teacher's decoding of these codes. The terms on samples are the same, for
    uniformly drawn codes and the teacher's decoding of them. `data` and `samples` are the weights of the two pairs;
    `teacher` is a run directory, a weights file, or the name of a model that ships with vqtk. The log also has
    *end_to_end*, the distortion of encoding and decoding by the student.

    Raises: ShapeError if student and teacher do not have the same codes and data.
    Source: Nichol 2020, the distilled MNIST model of the original implementation.
    """

    def __init__(
        self, model: Distilled, load: Load, *, teacher: str, data: NonNegative = 1.0, samples: NonNegative = 1.0
    ):
        if not isinstance(model, Distilled):
            raise ShapeError(
                f"{type(model).__name__} cannot be the student of a distillation. Use `model: {{name: distilled, …}}`."
            )
        self.model = model
        self.name = teacher
        try:
            self.teacher = load(teacher).to(model.device)
        except VqtkError as error:
            raise ShapeError(f"the `teacher` cannot be loaded: {error}") from None
        self.weights = {"data": data, "samples": samples}
        self._taught: tuple[Tensor, Tensor, Tensor] | None = None
        _check_same(model, self.teacher, teacher)

    def draw(self, n: int, generator: torch.Generator, *, progress: float) -> Tensor:
        """Return uniformly drawn codes (n, s), which the teacher decodes to samples."""
        return self.model.random_codes(n, generator=generator)

    def __call__(self, batch: Tensor, *, draws: State, recompute: int) -> Pass:
        """Encode and decode by the teacher, and score the student."""
        assert draws is not None
        with torch.no_grad():
            codes = self.teacher.encode(batch)
            decoded, sampled = self.teacher.decode(codes), self.teacher.decode(draws)
            samples = self.teacher.loss.show(sampled)
        encoder, decoder = self._terms(batch, codes, self.teacher.loss.show(decoded))
        sample_encoder, sample_decoder = self._terms(samples, draws, samples)
        loss = self.weights["data"] * (encoder + decoder) + self.weights["samples"] * (sample_encoder + sample_decoder)
        own = self.model.encode(batch)
        terms = {
            "encoder": encoder,
            "decoder": decoder,
            "sample_encoder": sample_encoder,
            "sample_decoder": sample_decoder,
            "end_to_end": self._end_to_end(batch, own),
            "sample_end_to_end": self._end_to_end(samples, self.model.encode(samples)),
        }
        return Pass(loss, terms, own)

    def _terms(self, inputs: Tensor, codes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        nats = self.model.code_nats(inputs, codes).mean()
        return nats, self._distance(self.model.decode(codes), targets)

    def _distance(self, x: Tensor, targets: Tensor) -> Tensor:
        return self.model.loss(x[:, None], targets).mean()

    @torch.no_grad()
    def _end_to_end(self, targets: Tensor, codes: Tensor) -> Tensor:
        return self._distance(self.model.decode(codes), targets)

    @torch.no_grad()
    def figures(self, targets: Callable[[], Tensor]) -> dict[str, float]:
        """Return the terms on test examples, the fraction of codes that equal the teacher's, and its distortion."""
        examples = targets()
        if self._taught is None or not torch.equal(self._taught[0], examples):
            codes = self.teacher.encode(examples)
            self._taught = examples, codes, self.teacher.decode(codes)
        _, codes, decoded = self._taught
        encoder, decoder = self._terms(examples, codes, self.teacher.loss.show(decoded))
        own = self.model.encode(examples)
        return {
            "encoder": encoder.item(),
            "decoder": decoder.item(),
            "agreement": (own == codes).double().mean().item(),
            "teacher": self.teacher.loss(decoded[:, None], examples).mean().item(),
        }

    def facts(self) -> dict[str, Any]:
        """Return the name and size of the teacher."""
        return {"teacher": {"name": self.name, "parameters": sum(p.numel() for p in self.teacher.parameters())}}


def _check_same(student: Any, teacher: Any, name: str) -> None:
    if (student.data.kind, student.data.shape) != (teacher.data.kind, teacher.data.shape):
        ours, theirs = (f"{data.kind} of shape {data.shape}" for data in (student.data, teacher.data))
        raise ShapeError(f"the data are {ours}, and the teacher {name} expects {theirs}. Train on its data set.")
    for what in ("stages", "options"):
        ours, theirs = getattr(student, what), getattr(teacher, what)
        if ours != theirs:
            advice = f"Give the model `{what}: {theirs}`."
            raise ShapeError(f"the student has {ours} {what}, and its teacher {name} has {theirs}. {advice}")
