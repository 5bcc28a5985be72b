"""Runs that fail on their way: one paragraph, exit code 2, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import TINY, vqtk_main, without_data

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
    assert "failing.py:14" in out + told
    assert "RuntimeError" in out + told


def test_a_run_that_diverges_stops_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vqtk_main(monkeypatch, "run", "tiny.yaml", "train.optimizer.lr=1e30", "train.updates=50") == 2
    told = refused(capsys)
    assert "training diverged: at update" in told
    assert "Lower train.optimizer.lr" in told


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
