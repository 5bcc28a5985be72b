"""Samples of a model: a tensor that shows itself in a notebook."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vqtk.errors import VqtkError

if TYPE_CHECKING:
    from vqtk.models._base import Model


class Samples(Tensor):
    """Reconstructions (n, *shape) that a notebook shows as an image, or as text.

    Whatever is computed from them is a plain tensor, and so are a copy and what is stored: only what `Model.sample`
    returns shows itself, so no other tensor is ever drawn as if it were samples.
    """

    model: Model

    @classmethod
    def of(cls, decoded: Tensor, model: Model) -> Samples:
        """Return a tensor as samples of a model; they share memory."""
        samples = decoded.as_subclass(cls)
        samples.model = model
        return samples

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(Tensor).__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.as_subclass(Tensor).clone()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Return what IPython shows: the drawn examples, or the numbers of data that cannot be drawn."""
        import vqtk  # The top of the package: the chapter that draws is above this one.

        try:
            return vqtk.show(self.model, self.as_subclass(Tensor))._repr_mimebundle_()
        except VqtkError:
            return {"text/plain": repr(self.as_subclass(Tensor))}
