"""What only a GPU can show: captured updates are plain ones, runs repeat, and how long everything takes.

    bash tests/gpu.sh OUT

Each part is tried by itself and says what failed; the exit code is the number of parts that did.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import vqtk
from vqtk.errors import VqtkError, VqtkWarning
from vqtk.evaluate.profile import peak_bytes, profile_update
from vqtk.recipe.build import build_model, synthetic
from vqtk.recipe.recipe import Recipe, load_recipe
from vqtk.training.distributed import Processes
from vqtk.training.execution import Execution, choose_device, prepare, resolve
from vqtk.training.loop import Trainer

RECIPES = Path(__file__).parent.parent / "recipes"
TARGETS_MS = {"mnist update": 4, "svhn update": 25, "cifar10 update": 250, "mnist encode": 2, "mnist decode": 2}


def recipe_of(name: str, *overrides: str) -> Recipe:
    """A shipped recipe, one micro-batch an update."""
    return load_recipe(RECIPES / f"{name}.yaml", ["train.accumulate=1", *overrides])


def trainer_of(recipe: Recipe, execution: Execution) -> Trainer:
    return Trainer(recipe, build_model(recipe, device="cuda"), execution)


def batches(recipe: Recipe, count: int) -> list[Tensor]:
    data = build_model(recipe, device="meta").data
    items = synthetic(data, 32 * count).to("cuda")
    return list(items.split(32))


def median_ms(call: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def captured_equals_plain(name: str, **how: Any) -> dict[str, Any]:
    """Three updates, plain and captured: the largest difference of a weight, relative to the largest change."""
    recipe = recipe_of(name)
    plain, captured = (trainer_of(recipe, Execution(graph=graph, **how)) for graph in (False, True))
    start = [value.detach().clone() for value in plain.model.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("error", VqtkWarning)
        for batch in batches(recipe, 3):
            for one in (plain, captured):
                one.update([batch], updates=1000)
    return nearly_equal(plain.model.parameters(), captured.model.parameters(), start)


def nearly_equal(some: Iterable[Tensor], others: Iterable[Tensor], start: Iterable[Tensor]) -> dict[str, Any]:
    """Check that two trainings from the same start differ by far less than they have moved; return both lengths."""
    pairs = list(zip(some, others, start, strict=True))
    apart = max((p - q).abs().max().item() for p, q, _ in pairs)
    moved = max((p - s).abs().max().item() for p, _, s in pairs)
    assert apart <= 2e-2 * moved, (apart, moved)
    return {"apart": apart, "moved": moved}


def runs_repeat() -> dict[str, Any]:
    """Two captured trainings of 60 updates give equal weights, bit for bit."""
    recipe = recipe_of("mnist")
    found = []
    for _ in range(2):
        it = trainer_of(recipe, Execution(graph=True))
        for batch in batches(recipe, 60):
            it.update([batch], updates=1000)
        found.append([value.detach().clone() for value in it.model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))
    return {"updates": 60}


def times(name: str, rounds: int, executions: dict[str, Execution]) -> dict[str, Any]:
    """Milliseconds of an update of 32, and of encoding and decoding 32, in each way; memory with the capture's."""
    recipe, found = recipe_of(name), {}
    (batch,) = batches(recipe, 1)
    for said, execution in executions.items():
        try:
            with peak_bytes(torch.device("cuda")) as peak:
                it = trainer_of(recipe, execution)
                started = time.perf_counter()
                for _ in range(2):
                    it.update([batch], updates=1000)
                torch.cuda.synchronize()
                ready_s = time.perf_counter() - started
            update = median_ms(lambda it=it: it.update([batch], updates=1000), rounds)
            found[said] = {
                "update_ms": update,
                "peak_mb": peak[0] / 1e6,
                "ready_s": ready_s,
                **calls_ms(it, batch, rounds),
            }
        except Exception as error:
            found[said] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        torch.cuda.empty_cache()
    return found


@torch.no_grad()
def calls_ms(trainer: Trainer, batch: Tensor, rounds: int) -> dict[str, float]:
    """Milliseconds of encoding and of decoding a batch, as the execution computes."""
    model = trainer.model.eval()
    with torch.autocast("cuda", torch.bfloat16, enabled=trainer.bfloat16):
        codes = model.encode(batch)
        for _ in range(2):
            model.encode(batch), model.decode(codes)
        return {
            "encode_ms": median_ms(lambda: model.encode(batch), rounds),
            "decode_ms": median_ms(lambda: model.decode(codes), rounds),
        }


def golden() -> dict[str, Any]:
    """The original's trained numbers, where they are at hand: grids in float64."""
    from tests.parity import CASES, SHARED, case

    if not SHARED.exists():
        return {"skipped": f"{SHARED} is missing"}
    apart = {}
    for name in CASES:
        one = case(name)
        model = one.model().to("cuda")
        grid = model.walk(one.tensors["input"].to("cuda")).grid
        apart[name] = (grid.cpu() - one.tensors["losses"]).abs().max().item()
    assert max(apart.values()) < 1e-9, apart
    return apart


def whole_run() -> dict[str, Any]:
    """A run of a few updates, with what ends it: an evaluation, images and a checkpoint."""
    with TemporaryDirectory() as folder:
        few = ["train.updates=120", "train.final_items=100", "train.evaluate_items=100"]
        run = vqtk.train(RECIPES / "mnist_quick.yaml", *few, out=folder, device="cuda", quiet=True)
        return {"files": sorted(path.name for path in Path(run.path).iterdir())}


def nccl() -> dict[str, Any]:
    """Captured updates of a process that exchanges with itself through NCCL are those of one that does not."""
    recipe = recipe_of("mnist", "train.ema=0.9", "train.clip_norm=1", "train.revive={name: copy, window: 2}")
    found = []
    for exchanges in (False, True):
        processes = Processes(device=torch.device("cuda", 0))
        processes.exchanges = exchanges
        with TemporaryDirectory() as folder, joined("cpu:gloo,cuda:nccl", folder) if exchanges else nullcontext():
            it = Trainer(recipe, build_model(recipe, device="cuda"), Execution(graph=True), processes=processes)
            for batch in batches(recipe, 10):
                it.update([batch], updates=1000)
            update_ms = median_ms(lambda it=it, batch=batch: it.update([batch], updates=1000), 20)
        assert it.captured
        assert not it.captured.failed
        found.append((update_ms, [value.detach().clone() for value in it.model.parameters()]))
    (alone_ms, alone), (update_ms, exchanged) = found
    assert all(torch.equal(p, q) for p, q in zip(alone, exchanged, strict=True))
    return {"update_ms": update_ms, "without_ms": alone_ms}


def two_processes() -> dict[str, Any]:
    """Captured updates of two processes, which share this device and exchange through gloo, are those of one."""
    recipe = recipe_of("mnist")
    with TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(one_of_two, (folder,), nprocs=2)
        together = torch.load(Path(folder, "weights.pt"), map_location="cuda", weights_only=True)
    alone = trainer_of(recipe, Execution(graph=True))
    start = [value.detach().clone() for value in alone.model.parameters()]
    for batch in batches(recipe, 3):
        alone.update([batch], updates=1000)
    return nearly_equal(alone.model.parameters(), together, start)


def one_of_two(rank: int, folder: str) -> None:
    """One of the processes of `two_processes`."""
    choose_device("cuda")
    recipe = recipe_of("mnist")
    with joined("gloo", folder, rank=rank, size=2):
        processes = Processes(rank, 2, device=torch.device("cuda", 0))
        it = Trainer(recipe, build_model(recipe, device="cuda"), Execution(graph=True), processes=processes)
        for batch in batches(recipe, 3):
            it.update([batch[processes.rows(len(batch))]], updates=1000)
        assert it.captured
        assert not it.captured.failed
        if not rank:
            torch.save([value.detach() for value in it.model.parameters()], Path(folder, "weights.pt"))


@contextmanager
def joined(backend: str, folder: str, *, rank: int = 0, size: int = 1) -> Iterator[None]:
    """Join the process group whose members meet in a folder."""
    torch.distributed.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=size)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def profiled() -> dict[str, Any]:
    """Where the time of a captured MNIST update goes."""
    return profile_update(recipe_of("mnist"), batch=32, device=torch.device("cuda")).to_json()


def auto() -> dict[str, Any]:
    """What `auto` takes for each recipe here."""
    found = {}
    for name in ("mnist", "svhn", "cifar10"):
        recipe = load_recipe(RECIPES / f"{name}.yaml", ["train.precision=auto"])
        model = build_model(recipe, device="cuda")
        execution = resolve(recipe, model)
        prepare(execution, model, 32)
        found[name] = execution.recorded()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Check and measure vqtk on a GPU.")
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    try:
        choose_device("cuda")
    except VqtkError as error:
        print(f"error: {error}")
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    plain, graph = Execution(), Execution(graph=True)
    bfloat16 = replace(graph, precision="bfloat16", channels_last=True)
    ways = {
        "plain": plain,
        "graph": graph,
        "graph tf32": replace(graph, precision="tf32"),
        "graph bfloat16": bfloat16,
    }
    compiled = {"graph inductor bfloat16": replace(bfloat16, inductor=True)}
    recomputed = {said: replace(way, recompute=100) for said, way in ways.items() if said not in ("plain", "graph")}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "golden numbers in float64": golden,
        "captured equals plain, mnist": lambda: captured_equals_plain("mnist"),
        "captured equals plain, svhn": lambda: captured_equals_plain("svhn"),
        "captured equals plain, recomputed": lambda: captured_equals_plain("mnist", recompute=10),
        "runs repeat": runs_repeat,
        "mnist": lambda: times("mnist", 30, ways),
        "svhn": lambda: times("svhn", 10, ways),
        "cifar10, recomputed": lambda: times("cifar10", 3, recomputed),
        "mnist compiled": lambda: times("mnist", 30, compiled),
        "svhn compiled": lambda: times("svhn", 10, compiled),
        "cifar10 compiled": lambda: times("cifar10", 3, compiled),
        "a whole run": whole_run,
        "nccl": nccl,
        "two processes": two_processes,
        "auto": auto,
        "profile": profiled,
    }
    results: dict[str, Any] = {}
    failed = 0
    for name, part in parts.items():
        started = time.perf_counter()
        try:
            results[name] = part()
        except Exception as error:
            failed += 1
            traceback.print_exc()
            results[name] = {"failed": f"{type(error).__name__}: {error}"}
        seconds = time.perf_counter() - started
        print(f"{name} ({seconds:.0f} s): {json.dumps(results[name], indent=1)}", flush=True)
        (out / "gpu.json").write_text(json.dumps(results, indent=1))
    print(f"Targets in ms: {TARGETS_MS}. {failed} of {len(parts)} parts failed.")
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
