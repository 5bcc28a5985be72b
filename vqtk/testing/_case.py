"""One component under test: how it is made, and how it fails."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
from torch import Tensor, nn

from vqtk.errors import RecipeError, VqtkError
from vqtk.nn.stage import leaves_of
from vqtk.nn.types import Size
from vqtk.recipe.node import Node, Problems
from vqtk.recipe.schema import Scope, parse
from vqtk.registry import Entry, Registry, Settings

SIZES: dict[int, Size] = {0: (), 1: (8,), 2: (4, 8), 3: (4, 2, 8)}
"""The features that a component is tried on, by the number of dimensions."""
WIDTH, STAGES, OPTIONS, ITEMS = 8, 3, 4, 3
Clause = Callable[["Case"], None]
"""One clause of a contract: it raises ContractError if a component does not keep to it. Its name is a sentence."""


class ContractError(VqtkError):
    """A component does not keep to the contract of its registry."""


class Case:
    """A component under test, the plugins that it comes from, and what has been made of it so far.

    `place` says what it is being tried on. `backend` is that of `torch.compile`. Checks share a case, and take copies
    of what it keeps.
    """

    def __init__(self, registry: Registry, entry: Entry, plugins: tuple[Path, ...], backend: str):
        self.registry, self.entry = registry, entry
        self.plugins, self.backend = plugins, backend
        self.place = ""
        self._kept: dict[Any, Any] = {}

    @property
    def component(self) -> str:
        """Its registry and name, as in "block conv"."""
        return f"{self.registry.kind} {self.entry.name}"

    @property
    def spec(self) -> Settings:
        """What a recipe says of it: its name, and its example's settings."""
        return {"name": self.entry.name, **self.entry.example}

    def fail(self, found: str, advice: str) -> NoReturn:
        """Raise a ContractError that says which component, where it was tried, what was found and what to do."""
        place = f", {self.place}" if self.place else ""
        raise ContractError(f"{self.component} ({self.entry.origin}){place}: {found} {advice}")

    def sizes(self) -> Iterator[Size]:
        """Yield the size of features in each number of dimensions that it claims, and have it as the place."""
        for dimensions in self.entry.dimensions:
            self.place = f"in {dimensions} dimensions"
            yield SIZES[dimensions]
        self.place = ""

    def made(self, *supplied: Any, dtype: torch.dtype = torch.float64) -> Any:
        """Return a new one, from its example's settings and what the toolkit supplies.

        Its weights are drawn from a fixed seed, and moved off their starting values, since some start at 0.
        """
        return copy.deepcopy(self.kept(("made", *supplied), lambda: self._make(*supplied, dtype=dtype)))

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made for this key before, or now."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def _make(self, *supplied: Any, dtype: torch.dtype) -> Any:
        problems = Problems()
        chosen = parse(Node.of(self.spec, "its settings"), Annotated[Any, self.registry], "", Scope(problems))
        if problems.found:
            self.fail(
                f"it cannot be tried: {' '.join(problems.found)}",
                "Write settings to try it with, `example={…}`, where it is registered.",
            )
        try:
            made = seeded(lambda: chosen(*supplied))
        except RecipeError as error:
            self.fail(
                f"it cannot be built: {error}",
                "Write an `example={…}` that fits where it is registered; if it does not work in so many dimensions, "
                "say in how many it does, as in `dimensions=(2,)`.",
            )
        return moved(made.to(dtype), by=0.1) if isinstance(made, nn.Module) else made


def seeded(make: Callable[[], Any]) -> Any:
    """Call a function with the default generator at a fixed seed, and leave that generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return make()


def moved(module: Any, *, by: float) -> Any:
    """Return a module with normal noise of this standard deviation added to each weight."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by * draw(*parameter.shape).to(parameter)
    return module


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal numbers of this shape, float64, always the same for a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
