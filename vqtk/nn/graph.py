"""A function of tensors as a CUDA graph: captured once, replayed afterwards without Python or launches one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from vqtk.nn.stage import leaves_of, tree_map, with_leaves

WARM_UP = 3
"""Calls before a capture: libraries choose algorithms and allocate workspaces in them, which a capture cannot hold."""


def is_capturing(value: Tensor) -> bool:
    """Return whether a capture is under way on a tensor's device: nothing may look at its numbers then."""
    return value.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class Recorder(Protocol):
    """Turns a function without arguments into one that does the same again."""

    def warm_up(self, function: Callable[[], Any]) -> None:
        """Call a function as often as a capture needs."""

    def record(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Return what does the function's work again, and its output, which each time overwrites."""


class CudaRecorder:
    """Captures on a stream of its own; the graphs share a pool of memory."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def warm_up(self, function: Callable[[], Any]) -> None:
        """Call a function on a side stream."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(side)

    def record(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Capture a function. Raises: RuntimeError if something in it waits for the device or draws on the host."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            output = function()
        return graph.replay, output


class Captured:
    """A function of tensors, captured at its first call with each signature of its inputs.

    The inputs are copied to where the captured work reads them, and the outputs away from where it writes them. The
    function may read and change other tensors, such as weights and gradients, in place. `guard` is called before
    warming up, and returns what undoes the changes that warming up made.

    Raises: RuntimeError at the first call if the function cannot be captured.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        recorder: Recorder,
        *,
        guard: Callable[[], Callable[[], None]] = lambda: lambda: None,
    ):
        self.function, self.recorder, self.guard = function, recorder, guard
        self._recorded: dict[str, tuple[list[Tensor], Callable[[], None], Any]] = {}

    def __call__(self, *inputs: Any) -> Any:
        """Do the function's work on these inputs, tensors or values that belong to the signature."""
        signature = repr((tree_map(_signature, inputs), _precision()))
        if signature not in self._recorded:
            self._recorded[signature] = self._record(inputs)
        static, replay, output = self._recorded[signature]
        for place, value in zip(static, leaves_of(inputs), strict=True):
            place.copy_(value, non_blocking=True)
        replay()
        return tree_map(torch.clone, output)

    def _record(self, inputs: tuple[Any, ...]) -> tuple[list[Tensor], Callable[[], None], Any]:
        static = [value.clone() for value in leaves_of(inputs)]
        given = with_leaves(inputs, static)
        put_back = self.guard()
        try:
            self.recorder.warm_up(lambda: self.function(*given))
            put_back()
            replay, output = self.recorder.record(lambda: self.function(*given))
        finally:
            put_back()
        return static, replay, output


class CapturedCalls:
    """The calls of a model without gradients, captured when inputs of the same sizes come back.

    The first time they are computed plainly, for most sizes that come once do not come again; so is what cannot be
    captured, every time.
    """

    def __init__(self, recorder: Recorder):
        self.recorder = recorder
        self._captured: dict[str, Captured] = {}
        self._times: dict[str, int] = {}
        self._refused: set[str] = set()

    def __call__(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Return what a function returns for these inputs."""
        name = function.__name__
        key = repr((name, tree_map(_signature, inputs), _precision()))
        self._times[key] = self._times.get(key, 0) + 1
        if self._times[key] == 1 or key in self._refused:
            return function(*inputs)
        try:
            return self._captured.setdefault(name, Captured(function, self.recorder))(*inputs)
        except RuntimeError:  # Something in it looks at a number.
            self._refused.add(key)
            return function(*inputs)


def _precision() -> Any:
    """Return what autocast computes in at the moment: a captured function stays in the precision it was captured in."""
    return [torch.get_autocast_dtype(device) for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]


def _signature(value: Tensor) -> Any:
    return tuple(value.shape), value.dtype, value.device
