"""What checks compare: numbers that should agree, inputs that should stay, gradients that should be there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vqtk.nn.state import leaves_of
from vqtk.testing._case import Case


def near(actual: Tensor, expected: Tensor, *, tolerance: float = 1e-9) -> bool:
    """Say whether two results agree up to the rounding of another order of summation."""
    return actual.shape == expected.shape and torch.allclose(
        actual, expected, rtol=tolerance, atol=1e-3 * tolerance, equal_nan=True
    )


def apart(actual: Tensor, expected: Tensor) -> str:
    """Return in words how far two results are apart."""
    if actual.shape != expected.shape:
        return f"shapes {tuple(actual.shape)} and {tuple(expected.shape)}"
    return f"up to {(actual - expected).abs().max().item():.2g} apart"


class Untouched:
    """Inputs as they were when this was made, to tell whether a call has changed them in place."""

    def __init__(self, case: Case, **inputs: Any):
        self.case = case
        self.inputs = {name: leaves_of(value) for name, value in inputs.items()}
        self.before = {name: [leaf.clone() for leaf in found] for name, found in self.inputs.items()}

    def check(self, call: str) -> None:
        """Fail if an input is not what it was; `call` says what was called."""
        for name, found in self.inputs.items():
            for leaf, before in zip(found, self.before[name], strict=True):
                if not torch.equal(leaf, before):
                    self.case.fail(
                        f"`{call}` changes its input `{name}` in place.",
                        "Do not write to what it is given: replace in-place operations (`relu_`, `+=`, "
                        "`inplace=True`) by ones that return a new tensor.",
                    )


def check_gradients(case: Case, module: nn.Module, *, over: str) -> None:
    """Fail unless each parameter that is to be trained has a finite gradient that is not 0 everywhere."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None or not parameter.grad.any():
            case.fail(
                f"the parameter `{name}` {tuple(parameter.shape)} receives no gradient, over {over}.",
                "Use it in what is computed, or leave it out; what is not to be trained is a buffer "
                "(`register_buffer`), or has `requires_grad=False`.",
            )
        if not parameter.grad.isfinite().all():
            case.fail(
                f"the gradient of the parameter `{name}` {tuple(parameter.shape)} is not finite, over {over}.",
                "Look for a division by 0, a root or a logarithm at 0, or an overflow.",
            )


def compiled(case: Case, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function as `torch.compile` makes it, with nothing of earlier compilations left."""
    torch._dynamo.reset()
    return torch.compile(function, backend=case.backend, dynamic=False)


def named(module: Any, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> str:
    """Return the first layer of such a type within a module, in words, or an empty string."""
    for name, layer in module.named_modules() if isinstance(module, nn.Module) else ():
        if isinstance(layer, kind):
            return f"its {type(layer).__name__} `{name}`" if name else f"it is a {type(layer).__name__}, which"
    return ""
