"""Encoding and decoding as graphs for other programs: ONNX, or programs of torch.export."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vqtk.errors import VqtkError
from vqtk.files import replacing
from vqtk.models import Model
from vqtk.models.vqdraw import VQDraw
from vqtk.plugin.loading import described
from vqtk.process import VERSION
from vqtk.recipe.build import synthetic
from vqtk.recipe.recipe import Recipe

GraphForm = Literal["onnx", "torch"]
SUFFIXES: dict[GraphForm, str] = {"onnx": ".onnx", "torch": ".pt2"}
FACTS = "vqtk.json"
"""The name under which a graph stores the facts of its model, as JSON."""
_TRACED = 3
"""Examples of the pass that is traced; a graph of one would hold for one alone."""
_CHECKED = (1, 5)
"""The batch sizes with which a written graph is compared with the model."""
_TOLERANCE = 1e-4


class _Encode(nn.Module):
    """The greedy encoding pass: a search that looks ahead compares values to decide what to compute."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, target: Tensor) -> Tensor:
        return self.model.walk(target).codes if isinstance(self.model, VQDraw) else self.model.encode(target)


class _Decode(nn.Module):
    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor) -> Tensor:
        return self.model.decode(codes)


def graph_paths(folder: Path, form: GraphForm) -> list[Path]:
    """Return the files that `export_graphs` writes."""
    return [folder / f"{name}{SUFFIXES[form]}" for name in ("encode", "decode")]


@torch.no_grad()
def export_graphs(
    folder: Path, model: Model, recipe: Recipe, form: GraphForm, *, say: Callable[[str], None] = lambda line: None
) -> list[Path]:
    """Write a model's encoding and decoding passes as two graphs, `encode` and `decode`, for any batch size.

    Each file also stores `facts_for_graph`. After it is written it is read again, and compared with the model.

    Arguments:
        folder: where to write.
        model: a model in evaluation mode, on the CPU; it does not change.
        recipe: its recipe.
        form: `onnx`, for onnxruntime and others; `torch`, for torch.export.load.
        say: shows a line to the user, before each step and with the result of each comparison.

    Shapes: encode: target (n, *data shape) in training units → codes (n, stages), int64; decode: codes (n, stages) →
        reconstruction (n, *shape).
    Raises: VqtkError if the packages are missing, a component cannot be traced, or a graph computes something else.
    """
    if form == "onnx":
        _require_onnx()
    traced = copy.deepcopy(model).to(memory_format=torch.contiguous_format).float().eval()
    target, facts = synthetic(model.data, _TRACED), json.dumps(facts_for_graph(model, recipe))
    target = target.float() if target.is_floating_point() else target
    codes = _Encode(traced)(target)
    written = []
    for name, module, given, names in (
        ("encode", _Encode(traced), target, ("target", "codes")),
        ("decode", _Decode(traced), codes, ("codes", "reconstruction")),
    ):
        path = folder / f"{name}{SUFFIXES[form]}"
        say(f"{path}: tracing the {'encoding' if name == 'encode' else 'decoding'} pass …")
        program = _traced(module, given, f"{name}, {type(model).__name__}")
        with replacing(path) as temporary:
            say(f"{path}: writing the graph …")
            (_write_onnx if form == "onnx" else _write_torch)(temporary, program, given, names, facts)
            apart = _check(path, _reader(temporary, form), traced, name)
        what, counts = "losses of codes" if name == "encode" else "reconstructions", " and ".join(map(str, _CHECKED))
        say(f"{path}: compared with the model on {counts} examples: {what} differ by at most {apart:.1e}.")
        written.append(path)
    return written


def facts_for_graph(model: Model, recipe: Recipe) -> dict[str, Any]:
    """Return what a program needs to use a graph without vqtk: the units of the data, and the sizes of a code."""
    data = model.data
    units = {"mean": data.mean, "std": data.std} if data.kind == "image" else {}
    return {
        "vqtk": VERSION,
        "name": recipe.name,
        "kind": data.kind,
        "shape": list(data.shape),
        "stages": model.stages,
        "options": model.options,
        "loss": type(model.loss).__name__,
        **units,
        **({"characters": data.characters} if data.characters else {}),
    }


def _traced(module: nn.Module, given: Tensor, what: str) -> torch.export.ExportedProgram:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(module, (given,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    except Exception as error:
        raise VqtkError(
            f"{what}: this model cannot be written as a graph: {described(error)[:400]} A component must use neither "
            "the values of tensors nor `len` of a batch to decide what to compute; `shape[0]` is allowed."
        ) from error


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise VqtkError(f"ONNX needs the package {error.name}: pip install 'vqtk[onnx]'.") from None


def _write_onnx(
    path: Path, program: torch.export.ExportedProgram, given: Tensor, names: tuple[str, str], facts: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.onnx.export(
            program, (given,), dynamo=True, verbose=False, input_names=names[:1], output_names=names[1:]
        )
    assert found
    found.model.metadata_props[FACTS] = facts
    for value in (*found.model.graph.inputs, *found.model.graph.outputs):
        if value.shape is not None:
            value.shape[0] = "n"  # Instead of a symbol's number.
    found.save(path, external_data=False)


def _write_torch(
    path: Path, program: torch.export.ExportedProgram, given: Tensor, names: tuple[str, str], facts: str
) -> None:
    with warnings.catch_warnings(), path.open("wb") as file:
        warnings.simplefilter("ignore")
        torch.export.save(program, file, extra_files={FACTS: facts})


def _reader(path: Path, form: GraphForm) -> Callable[[Tensor], Tensor]:
    """Return a written graph as a function."""
    if form == "torch":
        with path.open("rb") as file:
            module = torch.export.load(file).module()
        return lambda given: module(given)
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda given: torch.from_numpy(session.run(None, {name: given.numpy()})[0])


def _check(path: Path, graph: Callable[[Tensor], Tensor], model: Model, name: str) -> float:
    """Compare a graph with the model; return the largest difference. Raises: VqtkError.

    Where two options are equally good up to rounding, the codes may differ, and their distortion is the same.
    """
    apart = 0.0
    for n in _CHECKED:
        target = synthetic(model.data, n)
        codes = _Encode(model)(target)
        given = target if name == "encode" else codes
        found, expected = graph(given), codes if name == "encode" else model.decode(codes)
        if name == "encode" and found.shape == codes.shape:
            found, expected = (model.loss(model.decode(one)[:, None], target) for one in (found, codes))
        if found.shape != expected.shape or not torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise VqtkError(
                f"{path}: for {n} examples the graph computes something else than the model, so it was not written. "
                "Does a component draw random numbers, or decide by values what to compute?"
            )
        apart = max(apart, (found - expected).abs().max().item())
    return apart
