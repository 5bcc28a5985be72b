"""Limits on a model's size and memory, enforced before the memory is allocated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

from vqtk.errors import RecipeError, ShapeError
from vqtk.models import Model
from vqtk.recipe.recipe import Recipe

MOST_MODULES = 20_000
"""The most modules of a model; each takes about a millisecond and ten kilobytes, however small its weights are."""


@contextmanager
def affordable() -> Iterator[None]:
    """Refuse to build, within the block, too many modules or more weights than this machine's memory holds.

    Weights are counted when they are requested, before memory is allocated; on the device `meta` they need none.

    Raises: ShapeError with the count.
    """
    count = 0

    def counted(module: nn.Module, name: str, submodule: nn.Module | None) -> None:
        nonlocal count
        count += 1
        if count > MOST_MODULES:
            raise ShapeError(
                f"this model has more than {MOST_MODULES:,} modules. Use fewer segments (a larger model.segment) or "
                "fewer layers."
            )

    hook = register_module_module_registration_hook(counted)
    try:
        with _Counting(memory_bytes()):
            yield
    finally:
        hook.remove()


def check_update(recipe: Recipe, model: Model, *, batch: int | None = None) -> None:
    """Refuse a recipe whose update alone needs more than this machine's memory, before it is allocated.

    An update holds its examples, and the loss's input for every option of the examples that are computed at a time.
    `batch` is the number of examples in a batch; by default the recipe's.

    Raises: RecipeError with the memory needed and present.
    """
    train, most = recipe.train, memory_bytes()
    batch = batch or recipe.batch
    examples, piece = batch * train.accumulate, min(batch, train.micro_batch or batch)
    example, proposal = 4 * prod(model.data.shape), 4 * prod(model.loss.shape)
    needed = max(examples * example, piece * proposal * model.options if model.stepwise else 0)
    if needed > most:
        raise RecipeError(
            f"recipe {recipe.name!r}: an update of {examples:,} examples, {piece:,} at a time, needs {_shown(needed)} "
            f"or more, and this machine has {_shown(most)} of memory. Lower data.batch or train.accumulate, or set "
            "train.micro_batch."
        )


class _Counting(TorchDispatchMode):
    """Counts the bytes of new tensors from the sizes that they are requested with."""

    def __init__(self, most: int):
        super().__init__()
        self.most, self.asked = most, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # To keep the compiler away, torch would import it first, which takes two seconds.

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        sizes = args[0] if args else None
        if isinstance(sizes, (list, tuple)) and all(isinstance(size, int) for size in sizes):
            device = kwargs.get("device")
            if device is None or torch.device(device).type != "meta":
                self._add(list(sizes), kwargs.get("dtype") or torch.get_default_dtype())
        return func(*args, **kwargs)

    def _add(self, sizes: list[int], dtype: torch.dtype) -> None:
        self.asked += prod(sizes) * dtype.itemsize
        if self.asked > self.most:
            shape = " × ".join(map(str, sizes))
            raise ShapeError(
                f"weights of {_shown(self.asked)} or more, with one of {shape}, and this machine has "
                f"{_shown(self.most)} of memory. Lower the widths, stages, options or the size of the data."
            )


def memory_bytes() -> int:
    """Return the bytes of this machine's memory; 16 TB, which limits nothing, where the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 44


def _shown(count: int) -> str:
    value = float(count)
    for unit in ("bytes", "KB", "MB", "GB", "TB", "PB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} EB"
