"""The notebooks: run at small size, and committed with their outputs."""

from __future__ import annotations

import shlex
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.images import write_svhn
from tests.parity import ROOT, shared
from tests.running import vqtk_main
from vqtk.io.weights import shipped

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.thorough
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_at_small_size(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, with its commands: a process for each would mostly import."""
    data = write_svhn(tmp_path / "data" / "svhn").parent if path.stem == "svhn" else shared("data")
    folder = tmp_path / "docs" / "notebooks"
    folder.mkdir(parents=True)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(folder)
    for name, value in {"VQTK_SMALL": "1", "VQTK_DATA": str(data)}.items():
        monkeypatch.setenv(name, value)
    if not data.is_dir():
        monkeypatch.delenv("VQTK_DATA")
    shell = InteractiveShell()

    def system(command: str) -> None:
        words = shlex.split(shell.var_expand(command, depth=1).partition(" > ")[0])
        assert words[0] == "vqtk"
        assert vqtk_main(monkeypatch, *words[1:]) == 0, command

    monkeypatch.setattr(shell, "system", system)
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source).raise_error()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_its_outputs_and_without_the_paths_of_a_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    for place in (str(Path.home()), f"{ROOT.parent}/", "/tmp/"):
        assert place not in path.read_text(encoding="utf-8")


def test_there_is_a_model_to_look_at() -> None:
    assert "mnist" in shipped()
