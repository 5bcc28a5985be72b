"""A component under test: how it is built, and how its failures are reported."""

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
"""The sizes of features to test with, by the number of dimensions."""
WIDTH, STAGES, OPTIONS, EXAMPLES = 8, 3, 4, 3
Clause = Callable[["Case"], None]
"""One clause of a contract; it raises ContractError if a component violates it. Its name, after the component's, is a
sentence."""


class ContractError(VqtkError):
    """A component violates the contract of its registry."""


class Case:
    """A component under test, the plugins that it comes from, and the objects built from it so far.

    `place` says what it is being tested on, and `backend` is that of `torch.compile`. The checks of a component share a
    case, and receive copies of what it stores.
    """

    def __init__(self, registry: Registry, entry: Entry, plugins: tuple[Path, ...], backend: str):
        self.registry, self.entry = registry, entry
        self.plugins, self.backend = plugins, backend
        self.place = ""
        self._kept: dict[Any, Any] = {}

    @property
    def component(self) -> str:
        """The registry and name of the component, as in "block conv"."""
        return f"{self.registry.kind} {self.entry.name}"

    @property
    def spec(self) -> Settings:
        """The component's spec in a recipe: its name and its example settings."""
        return {"name": self.entry.name, **self.entry.example}

    def fail(self, found: str, advice: str) -> NoReturn:
        """Raise a ContractError with the component, what it was tested on, what was found and what to do."""
        place = f", {self.place}" if self.place else ""
        raise ContractError(f"{self.component} ({self.entry.origin}){place}: {found} {advice}")

    def sizes(self) -> Iterator[Size]:
        """Yield the size of features in each number of dimensions that the component supports, and set the place."""
        for dimensions in self.entry.dimensions:
            self.place = f"in {dimensions} dimensions"
            yield SIZES[dimensions]
        self.place = ""

    def made(self, *supplied: Any, dtype: torch.dtype = torch.float64) -> Any:
        """Return a new component, built from its example settings and what the toolkit supplies.

        Its weights are drawn from a fixed seed and then perturbed, since some are initialised to 0.
        """
        return copy.deepcopy(self.kept(("made", *supplied), lambda: self.new(*supplied, dtype=dtype)))

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made for a key, making it at the first request."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def new(self, *supplied: Any, dtype: torch.dtype = torch.float64) -> Any:
        """Return a new component that shares what is supplied, such as a model; otherwise as `made`."""
        problems = Problems()
        chosen = parse(Node.of(self.spec, "its settings"), Annotated[Any, self.registry], "", Scope(problems))
        if problems.found:
            self.fail(
                f"it cannot be tested: {' '.join(problems.found)}",
                "Register it with settings to test it with: `example={…}`.",
            )
        try:
            made = seeded(lambda: chosen(*supplied))
        except RecipeError as error:
            self.fail(
                f"it cannot be built: {error}",
                "Register it with an `example={…}` that fits; if it does not support this number of dimensions, also "
                "with those that it does, as in `dimensions=(2,)`.",
            )
        return moved(made.to(dtype), by=0.1) if isinstance(made, nn.Module) else made


def seeded(make: Callable[[], Any]) -> Any:
    """Call a function with the default generator at a fixed seed, and restore the generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return make()


def moved(module: Any, *, by: float) -> Any:
    """Return a module with normal noise of std `by` added to each weight."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += by * draw(*parameter.shape).to(parameter)
    return module


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal numbers of a shape, float64, which depend only on the seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def near(actual: Tensor, expected: Tensor, *, tolerance: float = 1e-9) -> bool:
    """Return whether two results agree up to the rounding of another order of summation."""
    return actual.shape == expected.shape and torch.allclose(
        actual, expected, rtol=tolerance, atol=1e-3 * tolerance, equal_nan=True
    )


def apart(actual: Tensor, expected: Tensor) -> str:
    """Return in words how two results differ."""
    if actual.shape != expected.shape:
        return f"shapes {tuple(actual.shape)} and {tuple(expected.shape)}"
    return f"up to {(actual - expected).abs().max().item():.2g} apart"


class Untouched:
    """A copy of inputs, to detect whether a call changes them in place."""

    def __init__(self, case: Case, **inputs: Any):
        self.case = case
        self.inputs = {name: leaves_of(value) for name, value in inputs.items()}
        self.before = {name: [leaf.clone() for leaf in found] for name, found in self.inputs.items()}

    def check(self, call: str) -> None:
        """Fail if an input has changed; `call` names what was called."""
        for name, found in self.inputs.items():
            for leaf, before in zip(found, self.before[name], strict=True):
                if not torch.equal(leaf, before):
                    self.case.fail(
                        f"`{call}` changes its input `{name}` in place.",
                        "Do not write to inputs: replace in-place operations (`relu_`, `+=`, `inplace=True`) by ones "
                        "that return a new tensor.",
                    )


def check_gradients(case: Case, module: nn.Module, *, over: str) -> None:
    """Fail unless each trainable parameter has a finite gradient that is not 0 everywhere."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None or not parameter.grad.any():
            case.fail(
                f"the parameter `{name}` {tuple(parameter.shape)} receives no gradient, over {over}.",
                "Use it in the computation, or remove it; register what should not be trained as a buffer, "
                "or set `requires_grad=False`.",
            )
        if not parameter.grad.isfinite().all():
            case.fail(
                f"the gradient of the parameter `{name}` {tuple(parameter.shape)} is not finite, over {over}.",
                "Look for a division by 0, a root or a logarithm at 0, or an overflow.",
            )


def compiled(case: Case, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function compiled by `torch.compile`, without the caches of earlier compilations."""
    torch._dynamo.reset()
    return torch.compile(function, backend=case.backend, dynamic=False)


def named(module: Any, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> str:
    """Return the first layer of a type within a module, in words; an empty string if there is none."""
    for name, layer in module.named_modules() if isinstance(module, nn.Module) else ():
        if isinstance(layer, kind):
            return f"its {type(layer).__name__} `{name}`" if name else f"it is a {type(layer).__name__}, which"
    return ""
