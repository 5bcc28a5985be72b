"""Refiners whose weights several processes hold in parts, as `train.shard` asks.

Of each refiner's weights, gradients and moments of the optimiser, a process keeps one part, by torch's `fully_shard`:

the first stage of a segment   the refiner's weights are gathered; those of the segment before are let go of
its backward pass              they are gathered again; gradients of its stages add up, and each part's sum over the
                               processes goes to the process that keeps the part
optimizer.step()               each process changes its own parts
evaluation, images             all weights are gathered, for the context

The optimiser, the clipping and the average see the parts as plain tensors, and so need not know of one another. The
bias of the model, and scalars, which have no parts, are whole in every process, as they are without `train.shard`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from vqtk.errors import RecipeError
from vqtk.models import Model
from vqtk.models.vqdraw import VQDraw
from vqtk.nn.stage import leaves_of, tree_map
from vqtk.recipe.recipe import Recipe
from vqtk.refiners import Refiner
from vqtk.training.distributed import Processes
from vqtk.training.parts_checkpoint import PartsWriter

OF_STAGE = ("propose", "choose", "choose_many", "choose_by", "factors", "guess")
"""The methods of a refiner that compute with its weights for a stage, which is their second argument."""
BESIDE = ("initial_state", "advance")
"""Others that may compute with its weights."""


class HeldParts:
    """The parts of a model's weights that this process holds.

    All processes build it together, of equal models; it changes the model's refiners in place. `trained` has this
    process's part of each parameter, or all of it, in the order of `names`.
    """

    def __init__(self, model: VQDraw, processes: Processes):
        self.model, self.processes, self.are_whole = model, processes, False
        self._gathered: FSDPModule | None = None
        self._unsent: set[FSDPModule] = set()
        self.names = [name for name, _ in model.named_parameters()]
        self.keys = list(model.state_dict())
        mesh = init_device_mesh(processes.device.type, (processes.size,))
        for refiner in model.refiners:
            scalars = {weight for weight in refiner.parameters() if not weight.dim()}
            for weight in scalars:
                weight.data = weight.data.to(processes.device)
            # When to let go of weights is decided here: a refiner is called once for every stage of its segment.
            fully_shard(refiner, mesh=mesh, reshard_after_forward=False, ignored_params=scalars)
            refiner.set_reshard_after_backward(False)
            refiner.set_gradient_divide_factor(1.0)  # Gradients are sums over the processes, not means.
            refiner.set_force_sum_reduction_for_comms(True)
            self._route(refiner)
        self.refiners = cast(list[FSDPModule], list(model.refiners))
        weights = dict(model.named_parameters())
        self.sources = [weights[name] for name in self.names]
        self.whole = [weight for weight in self.sources if not isinstance(weight, DTensor)]
        self.trained = nn.ParameterList(map(_part, self.sources))
        self.writer = PartsWriter(processes)

    def _route(self, refiner: Refiner) -> None:
        """Gather a refiner's weights where the model calls it, but not where one of its methods calls another."""
        inside = False

        def forward(stage: int | None, method: Callable[..., Any], *given: Any) -> Any:
            nonlocal inside
            inside = True
            try:
                result = tree_map(partial(_apart, _storages(refiner)), method(*given))
            finally:
                inside = False
            for value in leaves_of(result):
                if value.requires_grad:  # Before torch's own hook, which gathers the weights.
                    value.register_hook(partial(self._on_backward, refiner, stage))
            return result

        def called(of_stage: bool, method: Callable[..., Any], *given: Any) -> Any:
            if inside:
                return method(*given)
            self._hold(refiner)
            with warnings.catch_warnings():  # Of views, which nobody changes in place.
                warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
                return refiner(given[1] if of_stage else None, method, *given)

        refiner.forward = forward
        for name in (*OF_STAGE, *BESIDE):
            setattr(refiner, name, partial(called, name in OF_STAGE, getattr(refiner, name)))
        # Factors are multiplied after the call, when the weights among them may be gone.
        has_factors = refiner.has_factors
        setattr(refiner, "has_factors", lambda n: self.are_whole and has_factors(n))  # noqa: B010

    def _hold(self, refiner: Any) -> None:
        """Let go of the weights that were gathered before, if they are another refiner's."""
        if self._gathered is not None and self._gathered is not refiner and not self.are_whole:
            self._gathered.reshard()
        self._gathered = refiner

    def _on_backward(self, refiner: Any, stage: int | None, gradient: Tensor) -> None:
        """Prepare for the backward pass of a stage; with the first of its segment, the sum of all gradients is sent."""
        self._hold(refiner)
        if stage is not None:
            refiner.set_requires_gradient_sync(stage == 0, recurse=False)
            (self._unsent.add if stage else self._unsent.discard)(refiner)

    # ── an update ────────────────────────────────────────────────────────────────────────────────

    def add_gradients(self) -> None:
        """Give each part its gradient, summed over the processes, and let go of whole weights, which will be old.

        Raises: RecipeError if gradients of a segment were not summed.
        """
        if self._unsent:
            raise RecipeError(
                "train.shard: the first stage of a segment has no gradient, but a later one has. Lower "
                "model.grad_decay, or set `shard` to false."
            )
        self._hold(None)
        self.processes.add_gradients(self.whole)
        for part, source in zip(self.trained, self.sources, strict=True):
            if isinstance(source, DTensor):
                part.grad = None if source.grad is None else cast(DTensor, source.grad).to_local()

    def gradient_norm(self) -> Tensor:
        """Return the norm of the gradient of all weights. Does not wait for the device."""
        squares = torch.zeros(2, device=self.processes.device)
        for part, source in zip(self.trained, self.sources, strict=True):
            if part.grad is not None:
                squares[int(isinstance(source, DTensor))] += part.grad.norm().square()
        return (squares[0] + self.processes.total(squares[1])).sqrt()

    # ── whole weights ────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Let the model hold all weights within the context, in which a process may compute without the others."""
        for refiner in self.refiners:
            refiner.unshard()
        self.are_whole = True
        try:
            yield
        finally:
            self.are_whole = False
            for refiner in self.refiners:
                refiner.reshard()
            self._gathered = None

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of the model's state, within `gathered`; its own method would let go of the weights."""
        values = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        # A copy, because memory that NumPy shares, as for a checksum, cannot be let go of.
        return {name: values[name].detach().to("cpu", copy=True) for name in self.keys}

    # ── parts of tensors ─────────────────────────────────────────────────────────────────────────

    def own(self, index: int, value: Tensor) -> Tensor:
        """Return this process's part of a tensor that belongs to a parameter; all of it if it has another shape."""
        source = self.sources[index]
        if not isinstance(source, DTensor) or value.shape != source.shape:
            return value
        parts = value.chunk(self.processes.size)
        part = parts[self.processes.rank] if self.processes.rank < len(parts) else value[:0]
        # A fused step reads moments in the order of memory, which for a weight's part is the usual one.
        return part.to(self.processes.device, copy=True, memory_format=torch.contiguous_format)

    def parts_of_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return this process's part of an optimiser's state for whole weights."""
        own = {
            index: {key: self.own(index, value) if isinstance(value, Tensor) else value for key, value in kept.items()}
            for index, kept in state["state"].items()
        }
        return {**state, "state": own}

    def placed(self, index: int, value: Tensor) -> Tensor:
        """Return a part as a tensor that knows where in the whole it belongs; a tensor of another shape as it is."""
        source = self.sources[index]
        if not isinstance(source, DTensor) or value.shape != source.to_local().shape:
            return value
        mesh, shape, stride = source.device_mesh, source.shape, source.stride()
        return DTensor.from_local(value.detach(), mesh, source.placements, run_check=False, shape=shape, stride=stride)


def check_shards(recipe: Recipe, model: Model, optimizer: torch.optim.Optimizer) -> None:
    """Raise RecipeError if a setting or component of a recipe does not work with refiners that are held in parts."""
    settings = recipe.train
    refused = {
        "model": not isinstance(model, VQDraw) and f"the model {recipe.model.entry.name} has no refiners",
        "train.revive": settings.revive is not None and "options are revived in whole weights. Set it to null",
        "model.refiner": model.revives and "this refiner revives options, in whole weights. Choose another",
        "train.compile": settings.compile not in ("auto", "off")
        and "compiled and captured updates need weights that stay where they are. Set it to off",
        "train.optimizer": not getattr(optimizer, "elementwise", False)
        and f"the steps of {type(optimizer).__name__} need whole weights. Choose adam, adamw, sgd or schedule_free",
    }
    for name, reason in refused.items():
        if reason:
            raise RecipeError(f"train.shard: {name} does not work with it: {reason}, or set `shard` to false.")


def _part(source: nn.Parameter) -> nn.Parameter:
    """Return this process's part of a parameter; both are one memory."""
    if not isinstance(source, DTensor):
        return source
    return nn.Parameter(cast(DTensor, source.detach()).to_local(), requires_grad=source.requires_grad)


def _storages(refiner: Refiner) -> set[int]:
    return {weight.untyped_storage().data_ptr() for weight in refiner.parameters()}


def _apart(storages: set[int], value: Tensor) -> Tensor:
    """Return a value in memory of its own if it is in that of a weight, which is let go of."""
    return value.clone() if value.untyped_storage().data_ptr() in storages else value
