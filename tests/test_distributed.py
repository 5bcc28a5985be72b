"""Several processes train one model as one process does: the same batches, draws, weights, metrics and files."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig

from tests import ranks
from tests.ranks import ROOT, result, train_all
from tests.running import vqtk_main, without_data
from tests.tiny import RECIPE
from vqtk.errors import CheckpointError, LostError, RecipeError, VqtkError
from vqtk.io.weights import read_weights, weights_of
from vqtk.process import stopping_on_signals
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import load_recipe
from vqtk.runs.python import Run
from vqtk.training.distributed import Processes, computing, launch_id, together
from vqtk.training.execution import Execution
from vqtk.training.loop import Trainer
from vqtk.training.parts_checkpoint import check_parts, write_manifest

UPDATES = 5
CODEBOOKS = """
  name: vqvae
  stages: 49
  options: 8
  loss: mse
  width: 8
  code_width: 4
  blocks: 1
"""
TEXT = """name: text
data: {name: text, path: words.txt, length: 16, vocabulary: 20, batch: 8}
model:
  stages: 2
  options: 4
  segment: 1
  loss: categorical
  refiner:
    backbone: {name: conv, layers: [{width: 8, kernel: 1, then: [relu, positions]}]}
    head: {name: conv, layers: [{width: 8, kernel: 1, then: [relu]}], kernel: 1}
train: {updates: 5, optimizer: {eps: 1e-5}}
"""
VARIANTS = {
    "augmented": "data: {augment: [{name: crop, padding: 2}]}\ntrain: {clip_norm: 0.1, ema: 0.9}",
    "accumulated": "model: {selector: {name: epsilon, epsilon: 0.5}}\n"
    "train: {accumulate: 2, micro_batch: 3, objective: {sampled: 2, final: 0.1}}",
    "recomputed": "train: {gradient_checkpointing: true}",
    "beam": "train: {objective: {path: {name: beam, width: 2}, all: 0}}",
    "redrawn": "model: {stage_biases: true}\ntrain: {revive: {name: redraw, window: 2}, ema: 0.9}",
    "copied": "train: {revive: {name: copy, window: 2}}",
    "recurrent": "plugins: [PLUGINS/recurrent.py]\nmodel: {refiner: {name: recurrent, keep: true, memory: 6}}",
    "ddn": "plugins: [PLUGINS/ddn.py]\nmodel: {refiner: {name: ddn, keep: true, channels: 4, pace: 1}}",
    "sharded": "model: {stages: 3, segment: 2}\ntrain: {shard: true, clip_norm: 0.1, ema: 0.9}",
    "handed_over": "train: {shard: true, ema: 0.9}",
    "sharded_pieces": "plugins: [PLUGINS/recurrent.py]\n"
    "model: {stages: 3, segment: 2, refiner: {name: recurrent, keep: true, memory: 6}, selector: {name: epsilon, "
    "epsilon: 0.5}}\n"
    "train: {shard: true, accumulate: 2, micro_batch: 3, gradient_checkpointing: 1, objective: {sampled: 2}}",
    "codebooks": f"model:{CODEBOOKS}train: {{objective: {{name: quantisation}}}}",
}


def write_recipes(folder: Path) -> None:
    """Write a recipe of each kind that keeps a state, draws, or computes over a whole batch."""
    (folder / "mnist.yaml").write_text(
        RECIPE.replace("updates: 20", "updates: 20\n  optimizer: {eps: 1e-5}\n  gradient_checkpointing: false")
    )
    for name, text in VARIANTS.items():
        (folder / f"{name}.yaml").write_text(
            f"extends: mnist.yaml\nname: {name}\n{text}\n".replace("PLUGINS", str(ROOT / "plugins"))
        )
    words = np.random.default_rng(0).choice(["all", "the", "sea", "ran", "by"], 800)
    (folder / "words.txt").write_text(" ".join(words))
    (folder / "text.yaml").write_text(TEXT)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    own = {"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "test", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **own, **{name: str(value) for name, value in launched.items()}}


SHORT = ["train.updates=6", "train.init=kmeans", "train.evaluate_every=3", "train.evaluate_items=10"]
SHORT += ["train.final_items=21", "train.picture_items=2", "train.checkpoint_minutes=0.0001"]


FORKS = multiprocessing.get_context("fork")
"""Begins processes with what this one has imported, which takes many seconds."""


def work(variables: dict[str, str], folder: Path, words: list[str]) -> None:
    """Do, in a process of its own, what `tests.ranks` does; what it prints goes to `said.RANK`."""
    os.environ |= variables
    os.chdir(folder)
    with (folder / f"said.{variables['RANK']}").open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        sys.stdout = sys.stderr = said
        ranks.main(*words)


@pytest.mark.thorough
def test_two_processes_do_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They train the recipes, and do runs by `vqtk run`. All in one test, because to prepare them takes seconds."""
    write_recipes(tmp_path)
    runs = [["run", str(tmp_path / f"{name}.yaml"), *SHORT, "--device", "cpu"] for name in ("redrawn", "sharded")]
    two = [*runs[0], "--out", "two", ";", *runs[1], "--out", "two", ";", "back", "two/sharded/*", ";"]
    two += ["run", "--resume", "two/sharded/*", "--device", "cpu"]
    port, words = free_port(), [str(tmp_path), str(UPDATES), *two]
    processes = [FORKS.Process(target=work, args=(environment(rank, 2, port), tmp_path, words)) for rank in range(2)]
    for process in processes:
        process.start()
    monkeypatch.chdir(tmp_path)
    without_data(monkeypatch, tmp_path)
    monkeypatch.setattr("vqtk.runs.train.write_report", lambda path: None)
    train_all(tmp_path, Processes(), UPDATES)
    for run in runs:
        assert vqtk_main(monkeypatch, *run, "--out", "one") == 0
    for process in processes:
        process.join(300)
    said = [(tmp_path / f"said.{rank}").read_text() for rank in range(2)]
    assert [process.exitcode for process in processes] == [0, 0], said
    for path in sorted(tmp_path.glob("*.yaml")):
        check_equal(path)
    for name in ("redrawn", "sharded"):
        check_runs(*(Run(next((tmp_path / which / name).iterdir())) for which in ("one", "two")))
    assert "test after 6" in said[0]
    assert "Resuming after update 5 of 6" in said[0]
    assert said[1] == ""
    run_in_parts = next((tmp_path / "two" / "sharded").iterdir())
    check_damage_is_found(next((run_in_parts / "checkpoints").glob("*05.dist")), tmp_path)
    check_resumed(run_in_parts, monkeypatch, capsys)


def check_resumed(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes resumed it, bit for bit. One process passes over damaged parts, and differs by rounding."""
    weights = run / "checkpoints" / "update_00000006.safetensors"
    first, again = read_weights(run / "first.safetensors")[0], read_weights(weights)[0]
    assert all(torch.equal(first[name], again[name]) for name in first)
    (run / "summary.json").unlink()
    part = sorted(weights.with_suffix(".dist").glob("*.safetensors"))[1]
    part.write_bytes(part.read_bytes()[:-1] + bytes([part.read_bytes()[-1] ^ 1]))
    assert vqtk_main(monkeypatch, "run", "--resume", run, "--device", "cpu") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "update_00000006.dist is damaged" in shown
    assert "its checksum does not match its contents); went back to update 5" in shown
    assert weights.with_suffix(".dist.damaged").is_dir()
    alone = read_weights(weights)[0]
    for name, value in first.items():
        torch.testing.assert_close(alone[name], value, rtol=1e-5, atol=1e-6)


def check_damage_is_found(whole: Path, folder: Path) -> None:
    assert check_parts(whole)["processes"] == 2
    files = sorted(path.name for path in whole.iterdir())
    assert files == ["parts.json", *(f"shard-0000{number}-model-00001-of-00001.safetensors" for number in (1, 2))]
    manifest, part = files[:2]
    damage: dict[str, Callable[[Path], object]] = {
        "this part is missing": lambda harmed: (harmed / part).unlink(),
        "this part does not belong here": lambda harmed: shutil.copy(harmed / part, harmed / "more.safetensors"),
        "the manifest is missing": lambda harmed: (harmed / manifest).unlink(),
        "its checksum does not match": lambda harmed: change(harmed / manifest, "seconds", "minutes"),
        "not the manifest of a checkpoint": lambda harmed: (harmed / manifest).write_text("[1]"),
        "of this version": lambda harmed: write_manifest(harmed, {"format": "vqtk parts 9"}),
    }
    for number, (message, harm) in enumerate(damage.items()):
        harmed = folder / f"harmed{number}"
        shutil.copytree(whole, harmed)
        harm(harmed)
        with pytest.raises(CheckpointError, match=message):
            check_parts(harmed)


def change(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def test_a_run_whose_checkpoints_are_parts_alone_says_when_it_has_a_weights_file(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "update_00000005.dist").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="are parts of weights"):
        weights_of(tmp_path)


REFUSED = {
    "train.revive": "train: {revive: {name: copy, window: 2}}",
    "train.compile": "train: {compile: inductor}",
    "train.optimizer": "train: {optimizer: {name: muon}}",
    "model.refiner": "plugins: [PLUGINS/ddn.py]\nmodel: {refiner: {name: ddn, keep: true, channels: 4, pace: 1}}",
    "model": f"model:{CODEBOOKS}train: {{objective: {{name: quantisation}}}}",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_what_does_not_work_with_parts_is_refused_by_name_and_with_one_process_nothing_is(
    setting: str, tmp_path: Path
) -> None:
    write_recipes(tmp_path)
    path = tmp_path / "refused.yaml"
    path.write_text(f"extends: mnist.yaml\n{REFUSED[setting]}\n".replace("PLUGINS", str(ROOT / "plugins")))
    recipe = load_recipe(path, ["train.shard=true"])
    model = build_model(recipe)
    with pytest.raises(RecipeError, match=f"train.shard: {setting} does not work with it"):
        Trainer(recipe, model, processes=Processes(0, 2))
    alone = Trainer(recipe, model, Execution())
    alone.shard()
    assert alone.held is None


def check_equal(recipe: Path) -> None:
    one, *two = [torch.load(result(recipe, *which)) for which in ((1, 0), (2, 0), (2, 1))]
    for found in two:
        assert found["weights"].keys() == one["weights"].keys()
        for name, value in one["weights"].items():
            torch.testing.assert_close(found["weights"][name], value, rtol=1e-5, atol=1e-5, msg=f"{recipe.stem} {name}")
        for ours, theirs in zip(found["moments"], one["moments"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        assert torch.equal(found["usage"], one["usage"])
        for part in ("metrics", "test"):
            assert found[part] == pytest.approx(one[part], rel=1e-5)
    for ours, theirs in zip(*(found["weights"].values() for found in two), strict=True):
        assert torch.equal(ours, theirs), recipe


def check_runs(one: Run, two: Run) -> None:
    assert one.checkpoints[-1].name == two.checkpoints[-1].name
    assert len(one.metrics) == len(two.metrics)
    for ours, theirs in zip(two.metrics, one.metrics, strict=True):
        assert ours.pop("part") == theirs.pop("part")
        assert {**ours, "step_ms": 0} == pytest.approx({**theirs, "step_ms": 0}, rel=1e-5)
    assert two.summary["test"] == pytest.approx(one.summary["test"], rel=1e-5)
    assert (two.manifest["processes"], one.manifest["processes"]) == (2, 1)


# ── without other processes ──────────────────────────────────────────────────────────────────────


def test_a_batch_without_equal_parts_is_refused_before_processes_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipes(tmp_path)
    assert vqtk_main(monkeypatch, "run", tmp_path / "mnist.yaml", "--devices", "3", "--device", "cpu") == 2
    assert "data.batch is 8, and 3 processes take equal parts of it" in capsys.readouterr().err


def test_rows_of_processes_are_disjoint_and_complete() -> None:
    for size in (1, 2, 4):
        taken = [index for rank in range(size) for index in range(8)[Processes(rank, size).rows(8)]]
        assert taken == list(range(8))
    with pytest.raises(RecipeError, match="Use a multiple of 3"):
        Processes(0, 3).check_divides(8)


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A group of one process, in which collective calls return what they are given."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_gradients_are_summed_in_buckets_and_those_that_no_process_has_stay_away(
    group: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqtk.training.distributed.BUCKET_BYTES", 10)
    weights = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (1,), (5,))]
    weights[1].data = weights[1].data.double()
    weights[3].requires_grad_(False)
    for weight in (weights[0], weights[1]):
        weight.grad = torch.arange(float(weight.numel()), dtype=weight.dtype).view_as(weight)
    kept = [weight.grad for weight in weights]
    Processes(0, 2).add_gradients(weights)
    assert [weight.grad is before for weight, before in zip(weights, kept, strict=True)] == [True] * 4
    assert torch.equal(weights[0].grad, torch.arange(6.0).view(2, 3))  # type: ignore[arg-type]


def test_a_lost_process_is_an_error_in_one_line(group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise RuntimeError("[pair.cc:1] Connection closed by peer\nmore")

    monkeypatch.setattr("torch.distributed.all_reduce", lost)
    with pytest.raises(LostError, match=r"was lost \(\[pair\.cc:1\] Connection closed by peer\)"):
        Processes(0, 2).any(True)
    with pytest.raises(LostError, match="was lost"), computing():
        raise RuntimeError("[third_party/gloo/transport/pair.cc:1] Connection closed by peer")
    with pytest.raises(RuntimeError, match="a bug"), computing():
        raise RuntimeError("a bug")


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for device, expected in (("cuda", "there are 1 GPUs for 2"), ("cuda:1", "GPU of its own"), ("mps", "CPUs or CUDA")):
        with pytest.raises(VqtkError, match=expected), together(torch.device(device)):
            pass
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(VqtkError, match="RANK is 'first'"), together(torch.device("cpu")):
        pass


def test_a_launch_is_known_by_its_id_or_by_the_process_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launch_id() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-7")
    assert launch_id() == "job-7"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert launch_id() == f"{socket.gethostname()}:{os.getppid()}"


def test_a_signal_that_a_launcher_repeats_does_not_interrupt() -> None:
    class Task:
        stop = False

    it = Task()
    with suppress(KeyboardInterrupt), stopping_on_signals(it, echo_s=60.0) as received:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGINT, signal.SIGTERM]
    assert it.stop


def test_devices_start_this_command_in_processes_and_say_how_they_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[Any] = []
    ends: list[Any] = [0, 3, -signal.SIGKILL]

    def elastic_launch(config: LaunchConfig, entrypoint: str) -> Any:
        def run(*arguments: str) -> None:
            started.append((config.nproc_per_node, config.max_restarts, arguments))
            code = ends.pop(0)
            if code:
                raise ChildFailedError("vqtk", {1: ProcessFailure(1, 7, code, "")})

        return run

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", elastic_launch)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_recipes(tmp_path)
    command = ["run", str(tmp_path / "mnist.yaml"), "--devices", "2", "--max-restarts", "3", "--device", "cpu"]
    assert [vqtk_main(monkeypatch, *command) for _ in range(3)] == [0, 3, 2]
    assert started == [(2, 3, ("-m", "vqtk", *command))] * 3
    assert "process 1 of 2 was ended by SIGKILL, and they were started again 3 times before" in capsys.readouterr().err
