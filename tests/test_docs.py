"""What the documents say is true: their commands run, their Python runs, the reference is the code's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.running import TINY, vqtk_main, without_data
from vqtk.io.original import map_original
from vqtk.io.weights import load_weights, weights_of

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = ["model.stages=2", "model.options=4", "train.updates=2", "train.evaluate_items=8"]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[tuple[str, str]]:
    found = []
    for document in DOCUMENTS:
        for block in blocks(document, "bash"):
            for line in block.splitlines():
                text = re.split(r"\s+#\s", line)[0].split("&&")[-1].strip().removeprefix(".venv/bin/")
                if text.startswith("vqtk ") and (document.name, text) not in found:
                    found.append((document.name, text))
    return found


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a checkpoint, of one update out of four."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "tiny.yaml").write_text(TINY.replace("updates: 4", "updates: 1"))
    with pytest.MonkeyPatch.context() as patch:
        without_data(patch, folder)
        assert vqtk_main(patch, "run", folder / "tiny.yaml", "--out", folder / "runs", "--device", "cpu") == 0
    (run,) = (folder / "runs" / "tiny").iterdir()
    return run


@pytest.mark.parametrize(("document", "command"), commands(), ids=lambda text: text)
def test_a_command_in_the_documents_runs(
    document: str, command: str, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    words = [str(stopped) if word == "RUN" else word for word in shlex.split(command)[1:]]
    if words[0] in ("run", "bench") and "--resume" not in words:
        # The documents' commands at a small size: the same arguments, fewer and smaller stages.
        words = [*(word for word in words if not word.startswith("train.updates")), *SMALL]
        words = ["2s" if word == "5m" else word for word in words]
    if words[0] == "validate":
        words = [word for word in words if "*" not in word and "svhn" not in word] + ["recipes/mnist.yaml"]
    if words[0] == "import-original":
        _write_original(stopped, tmp_path / "mnist_model.pt")
        words[2] = str(stopped / "recipe.yaml")
    assert vqtk_main(monkeypatch, *words) == 0


def _write_original(run: Path, path: Path) -> None:
    """A checkpoint in the original's format, under names of its kind, in the order of the layers."""
    import torch

    model, _ = load_weights(weights_of(run))
    state = {f"refiner.{index}": value for index, value in enumerate(model.state_dict().values())}
    assert map_original(model, state)
    torch.save(state, path)


def test_the_readmes_python_runs(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    exec(code.replace('"RUN"', repr(str(stopped))), names)
    assert getattr(names["images"], "shape", None) == (16, 1, 28, 28)


def test_the_component_of_contributing_registers_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks(ROOT / "CONTRIBUTING.md", "python")
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(
        "plugins: [mine.py]\n" + TINY.replace("    head:", "    blocks: [{name: residual, kernel: 3}]\n    head:")
    )
    without_data(monkeypatch, tmp_path)
    assert vqtk_main(monkeypatch, "run", tmp_path / "mine.yaml", "--out", tmp_path / "runs", "--device", "cpu") == 0


def test_the_reference_is_what_the_code_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vqtk.registry import blocks as block_registry

    block_registry.entries()
    monkeypatch.delitem(block_registry._entries, "residual", raising=False)
    assert vqtk_main(monkeypatch, "list", "--markdown") == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"
