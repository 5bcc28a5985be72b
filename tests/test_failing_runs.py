"""Runs that fail on their way: one paragraph, exit code 2, and nothing is lost."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.images import write_images
from tests.running import TINY, vqtk_main, without_data
from tests.soaking.comparing import Found, compare, leftovers
from vqtk.errors import VqtkError, is_out_of_memory
from vqtk.io.run_files import checkpoints
from vqtk.io.weights import read_weights
from vqtk.optimizers.adam import Adam
from vqtk.runs.directory import RunDirectory
from vqtk.training.loop import Trainer

PLUGIN = '''
from vqtk.nn.stage import StageModule
from vqtk.registry import blocks


@blocks.register("failing")
class Failing(StageModule):
    """A block whose forward pass does not work."""

    def __init__(self, in_width: int, size: tuple[int, ...], stages: int):
        super().__init__(in_width, size)

    def forward(self, features, stage):
        return features.reshape(3, 5)
'''


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)


@pytest.mark.parametrize("command", ["run", "show", "validate"])
def test_a_plugin_whose_forward_pass_fails_is_told_with_its_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("failing.py").write_text(PLUGIN.replace('"failing"', f'"failing_{command}"'))
    Path("bad.yaml").write_text(
        "plugins: [failing.py]\n" + TINY.replace("    head:", f"    blocks: [failing_{command}]\n    head:")
    )
    assert vqtk_main(monkeypatch, command, "bad.yaml") == 2
    out, told = capsys.readouterr()
    assert "Traceback" not in out + told
    assert f"block 'failing_{command}': RuntimeError" in out + told
    assert "failing.py:14" in out + told
    assert "RuntimeError" in out + told


def test_a_run_that_diverges_stops_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vqtk_main(monkeypatch, "run", "tiny.yaml", "train.optimizer.lr=1e30", "train.updates=50") == 2
    told = refused(capsys)
    assert "training diverged: at update" in told
    assert "Lower train.optimizer.lr" in told
    assert "recipe.yaml train.optimizer.lr=…" in told


def test_a_run_that_cannot_write_says_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("taken").write_text("a file")
    assert vqtk_main(monkeypatch, "run", "tiny.yaml", "--out", "taken") == 2
    assert "taken" in refused(capsys)


def test_a_damaged_checkpoint_is_set_aside_at_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vqtk_main(monkeypatch, "run", "tiny.yaml", "train.checkpoint_minutes=1e-9") == 0
    (run,) = Path("runs/tiny").iterdir()
    newest = run / "checkpoints" / "update_00000004.safetensors"
    newest.write_bytes(b"")
    assert vqtk_main(monkeypatch, "sample", run) == 2
    assert "update_00000004.safetensors" in refused(capsys)
    assert vqtk_main(monkeypatch, "run", "--resume", run) == 0
    assert newest.with_name(newest.name + ".damaged").exists()
    assert vqtk_main(monkeypatch, "sample", run) == 0


# ── what fails in the middle ─────────────────────────────────────────────────────────────────────

SETTINGS = ("train.updates=6", "train.evaluate_every=3", "train.checkpoint_minutes=1e-9", "--device", "cpu")
Patch = Callable[[pytest.MonkeyPatch], None]
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8028160000 bytes."
FULL = OSError(errno.ENOSPC, "No space left on device")


def before(owner: Any, name: str, update: int, act: Callable[..., object]) -> Patch:
    """Have something happen before a method is called after so many updates, or at a row of that update."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, name)

        def called(*arguments: Any, **named: Any) -> Any:
            trainer = next((one for one in (*arguments, _newest[-1]) if isinstance(one, Trainer)), None)
            if trainer and trainer.done == update:
                act(trainer)
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, called)

    return patch


_newest: list[Trainer] = []


def quick(patch: pytest.MonkeyPatch) -> None:
    """Log every update, and leave out at the end what takes longer than the training."""
    patch.setattr("vqtk.training.loop.LOG_EVERY", 1)
    patch.setattr("vqtk.runs.train.write_report", lambda run: None)
    patch.setattr("vqtk.runs.experiment.write_all", lambda *_: [])


@pytest.fixture(autouse=True)
def _remember_trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    made = Trainer.__init__

    def init(self: Trainer, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **named)
        _newest.append(self)

    monkeypatch.setattr(Trainer, "__init__", init)


def raising(error: Exception) -> Callable[..., object]:
    def act(*_: object, **__: object) -> None:
        raise error

    return act


def spoil(trainer: Trainer) -> None:
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))


FAILURES: dict[str, tuple[Patch, int, list[str]]] = {
    "memory in an update": (
        before(Trainer, "backward", 4, raising(RuntimeError(NO_MEMORY))), 4,
        ["out of memory on cpu", "train.micro_batch=4", "gradient_checkpointing", "precision", "after update 4"],
    ),
    "memory of the host": (
        before(Trainer, "backward", 4, raising(MemoryError())), 4, ["out of memory on cpu", "MemoryError"],
    ),
    "memory in the optimiser's step": (
        before(Adam, "step", 4, raising(RuntimeError(NO_MEMORY))), 4, ["out of memory"],
    ),
    "a full disk at the metrics": (
        before(RunDirectory, "log", 4, raising(FULL)), 3, ["the disk is full", "No space left", "Free some"],
    ),
    "a full disk at the test metrics": (
        before(RunDirectory, "write_evaluation", 3, raising(FULL)), 3, ["the disk is full"],
    ),
    "a full disk at the checkpoint": (
        before(RunDirectory, "save", 4, raising(FULL)), 3, ["the disk is full"],
    ),
    "a directory that cannot be written": (
        before(RunDirectory, "log", 4, raising(PermissionError(errno.EACCES, "Permission denied", "metrics.jsonl"))), 3,
        ["metrics.jsonl: it cannot be read or written (Permission denied)"],
    ),
    "weights that are not finite": (
        before(RunDirectory, "save", 4, spoil), 3, ["the weights are not finite", "Lower train.optimizer.lr"],
    ),
    "a process that reads the data": (
        before(Trainer, "update", 4, raising(RuntimeError("DataLoader worker (pid 1) is killed by signal: 9."))), 4,
        ["the system ended a process that reads the data", "memory"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        without_data(patch, folder)
        quick(patch)
        (folder / "tiny.yaml").write_text(TINY)
        assert vqtk_main(patch, "run", folder / "tiny.yaml", *SETTINGS, "--out", folder) == 0
    return next(folder.glob("tiny/*"))


@pytest.mark.parametrize(("patch", "kept", "told"), FAILURES.values(), ids=FAILURES)
def test_what_fails_leaves_a_sound_checkpoint_and_is_resumed_to_the_same_end(
    patch: Patch,
    kept: int,
    told: list[str],
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patched:
        patch(patched)
        assert vqtk_main(patched, "run", "tiny.yaml", *SETTINGS) == 2
    message = refused(capsys)
    (run,) = Path("runs/tiny").iterdir()
    assert message.count("\n") == 1
    for fragment in [*told, f"The checkpoint of update {kept} is sound: {run}", f"vqtk run --resume {run}"]:
        assert fragment in message
    assert vqtk_main(monkeypatch, "run", "--resume", run, "--device", "cpu") == 0
    assert_same_end(run, whole)


def assert_same_end(run: Path, whole: Path) -> None:
    found = Found("run")
    compare([run], [whole], found)
    assert not found.remarks
    assert not leftovers(run)


def test_a_run_directory_that_is_removed_is_made_again_with_a_checkpoint(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        before(Trainer, "update", 4, lambda _: shutil.rmtree("runs"))(patched)
        assert vqtk_main(patched, "run", "tiny.yaml", *SETTINGS) == 2
    message = refused(capsys)
    (run,) = Path("runs/tiny").iterdir()
    assert f"{run}: the run directory was removed or moved during training, after update 5" in message
    assert f"The checkpoint of update 5 is sound: {run}" in message
    assert vqtk_main(monkeypatch, "run", "--resume", run, "--device", "cpu") == 0
    tensors = [read_weights(checkpoints(one)[-1])[0] for one in (run, whole)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[1])


def test_a_bug_in_a_picture_keeps_its_traceback_and_leaves_a_checkpoint(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("vqtk.training.loop.FIRST_PICTURES_S", 0.0)
        patched.setattr("vqtk.runs.experiment.write_all", raising(KeyError("a bug")))
        with pytest.raises(KeyError, match="a bug"):
            vqtk_main(patched, "run", "tiny.yaml", *SETTINGS)
    (run,) = Path("runs/tiny").iterdir()
    assert f"The checkpoint of update 1 is sound: {run}" in capsys.readouterr().out
    assert vqtk_main(monkeypatch, "run", "--resume", run, "--device", "cpu") == 0
    assert_same_end(run, whole)


def test_a_file_that_vanishes_stops_the_run_until_it_is_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vqtk.datasets._images.HELD_AT_MOST", 0)
    monkeypatch.setattr("vqtk.datasets._split.Files.workers", 1)
    write_images(Path("pics"), *(f"{index:02}.png" for index in range(60)), size=(28, 28))
    data = "{name: image_folder, path: pics, size: 28, batch: 8, colours: grey}"
    with monkeypatch.context() as patched:
        before(Trainer, "update", 1, lambda _: Path("pics").rename("away"))(patched)
        assert vqtk_main(patched, "run", "tiny.yaml", f"data={data}", *SETTINGS) == 2
    message = refused(capsys)
    (stopped,) = Path("runs/tiny").iterdir()
    assert "this file existed when training started, and is gone. Restore it" in message
    assert f"is sound: {stopped}" in message
    Path("away").rename("pics")
    assert vqtk_main(monkeypatch, "run", "--resume", stopped, "--device", "cpu") == 0


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (VqtkError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_known_whichever_library_raises_them(error: Exception, is_one: bool) -> None:
    assert is_out_of_memory(error) is is_one


def test_memory_that_runs_out_before_training_is_one_paragraph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vqtk.runs.experiment.build_model", raising(RuntimeError(NO_MEMORY)))
    assert vqtk_main(monkeypatch, "run", "tiny.yaml") == 2
    message = refused(capsys)
    assert "out of memory" in message
    assert "train.micro_batch" in message
