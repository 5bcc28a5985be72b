"""Functions of tensors as CUDA graphs: captured once, then replayed without Python or separate kernel launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from vqtk.nn.stage import leaves_of, tree_map, with_leaves

WARM_UP = 3
"""Calls before a capture, in which libraries choose algorithms and allocate workspaces: a capture cannot do that."""


def is_capturing(value: Tensor) -> bool:
    """Return whether a capture is in progress on a tensor's device; its values cannot be read then."""
    return value.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def is_exporting() -> bool:
    """Return whether a model is being exported: its batch size is then a symbol, which cannot be compared."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


class Recorder(Protocol):
    """Records a function without arguments, and replays it."""

    def warm_up(self, function: Callable[[], Any]) -> None:
        """Call a function as often as a capture needs."""

    def record(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Return a function that repeats the work, and the output, which every replay overwrites."""


class CudaRecorder:
    """Captures CUDA graphs, which share a pool of memory."""

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
        """Capture a function. Raises: RuntimeError if it waits for the device or draws on the host."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            output = function()
        return graph.replay, output


class Captured:
    """A function of tensors, captured at the first call with each signature of its inputs.

    Inputs are copied to where the graph reads them, and outputs from where it writes them. The function may read and
    change other tensors in place, such as weights and gradients. `guard` is called before the warm-up, and returns a
    function that undoes the changes that the warm-up made.

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
        """Call the function with these inputs; those that are not tensors are part of the signature."""
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
    """The calls of a model without gradients, captured at the second call with inputs of the same sizes.

    The first call is not captured, because most sizes that occur once do not occur again. A call that cannot be
    captured is always computed without a graph.
    """

    def __init__(self, recorder: Recorder):
        self.recorder = recorder
        self._captured: dict[str, Captured] = {}
        self._times: dict[str, int] = {}
        self._refused: set[str] = set()

    def __call__(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Return the result of a function for these inputs."""
        name = function.__name__
        key = repr((name, tree_map(_signature, inputs), _precision()))
        self._times[key] = self._times.get(key, 0) + 1
        if self._times[key] == 1 or key in self._refused:
            return function(*inputs)
        try:
            return self._captured.setdefault(name, Captured(function, self.recorder))(*inputs)
        except RuntimeError:  # Something in it reads a value.
            self._refused.add(key)
            return function(*inputs)


def _precision() -> Any:
    """Return the types that autocast computes in now: a captured function keeps the precision of its capture."""
    return [torch.get_autocast_dtype(device) for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]


def _signature(value: Tensor) -> Any:
    return tuple(value.shape), value.dtype, value.device
