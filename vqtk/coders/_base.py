"""The base class of coders: codes ↔ the bytes of each stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from vqtk.errors import CheckpointError, VqtkError
from vqtk.models import Model
from vqtk.registry import coders

if TYPE_CHECKING:
    from vqtk.sampling.prior import Markov


class Coder(ABC):
    """Codes (n, s) in [0, options) ↔ the bytes of each stage; the bytes of later stages are not needed to decode.

    Coding and decoding agree on every machine, so probabilities are whole numbers.

    Arguments:
        model: whose codes they are.
        tables: what a file holds of a fitted prior, from `tables_of`; otherwise empty.
    """

    fitted: ClassVar[bool] = False
    """Whether the coder needs a prior that is fitted to codes."""

    name: str = ""
    """The name that it was made by."""

    def __init__(self, model: Model, tables: bytes):
        self.stages, self.options, self.tables = model.stages, model.options, tables

    @classmethod
    def tables_of(cls, model: Model, prior: Markov) -> bytes:
        """Return what a file must hold of a fitted prior."""
        return b""

    @abstractmethod
    def encode(self, codes: Tensor) -> list[bytes]:
        """Return the bytes of each stage of codes (n, s)."""

    @abstractmethod
    def decode(self, parts: Sequence[bytes], n: int) -> Tensor:
        """Return the codes (n, s) of the bytes of the first s stages. Raises: CheckpointError if they are not codes."""

    @abstractmethod
    def nats(self, codes: Tensor) -> float:
        """Return the sum of the negative log probabilities of codes (n, s), of which the bytes are a rounding."""

    def checked(self, columns: list[Tensor], n: int) -> Tensor:
        """Return the codes of each stage (n,) as one tensor (n, s). Raises: CheckpointError if one is not an option."""
        codes = torch.stack(columns, 1) if columns else torch.empty(n, 0, dtype=torch.int64)
        if codes.numel() and int(codes.max()) >= self.options:
            raise CheckpointError(f"a code is {int(codes.max())}, of {self.options} options")
        return codes


def coder_of(
    name: str, model: Model, *, fitted: Callable[[], Markov] | None = None, tables: bytes | None = None
) -> Coder:
    """Return a coder of a model's codes by its name: packed, uniform, frequencies, markov or autoregressive.

    Arguments:
        name: the name.
        model: the model.
        fitted: returns the prior of coders that need one; called only for them.
        tables: instead of fitting, what a file holds of the prior.

    Raises: RegistryError if there is no such coder; VqtkError if the model is too large for it, or lacks the prior;
    CheckpointError if the tables are damaged.
    """
    component: Any = coders.get(name).component
    if tables is None and component.fitted:
        if fitted is None:
            raise VqtkError(f"the coder {name} needs a prior. Give `fitted`, a function that returns one.")
        tables = component.tables_of(model, fitted())
    coder: Coder = component(model, tables or b"")
    coder.name = name
    return coder
