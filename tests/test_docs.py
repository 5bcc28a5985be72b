"""What the documents say is true: their commands run, their Python runs, the reference is the code's."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

import vqtk
from tests.images import write_images
from tests.running import TINY, vqtk_main, without_data
from vqtk.cli import app
from vqtk.io.original import map_original
from vqtk.io.weights import load_weights, shipped, weights_of
from vqtk.models import CompiledStage
from vqtk.plugin.sources import new_plugin
from vqtk.recipe.recipe import load_recipe
from vqtk.registry import REGISTRIES

ROOT = Path(__file__).parent.parent
PAGES = [page for folder in ("", "experiments", "examples") for page in sorted((ROOT / "docs" / folder).glob("*.md"))]
IN_ORDER = ROOT / "docs" / "plugins.md"
"""A page whose commands build on one another."""
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
SMALL = ["train.updates=2", "train.evaluate_items=8", "train.final_items=8", "train.picture_items=4"]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)


def commands(documents: list[Path]) -> list[str]:
    found = []
    for document in documents:
        for block in blocks(document, "bash"):
            for line in block.splitlines():
                text = re.split(r"\s+#\s", line)[0].split("&&")[-1].strip().removeprefix(".venv/bin/")
                if text.startswith("vqtk ") and text not in found:
                    found.append(text)
    return found


def own_recipes() -> dict[str, str]:
    """The recipes that documents tell a user to write: YAML that begins with a comment of its file's name."""
    texts = [text for document in DOCUMENTS for text in blocks(document, "yaml")]
    named = [(re.match(r"# (\w+\.yaml)", text), text) for text in texts]
    return {name[1]: text for name, text in named if name}


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


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory that the documents' commands are given in: recipes, and no data."""
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "digits").mkdir()
    Image.new("L", (28, 28)).save(tmp_path / "digits" / "0.png")
    write_images(tmp_path / "my_images", "0.png", "1.png")
    for name, text in own_recipes().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("command", commands([document for document in DOCUMENTS if document != IN_ORDER]))
def test_a_command_in_the_documents_runs(
    command: str, stopped: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that need voxels, or data that do not ship with vqtk, are parsed and their recipes resolved."""
    words = shlex.split(command)[1:]
    parsed = _parsed(words)
    if "--stl" in words or (words[0] in ("run", "show", "bench") and not _has_data(parsed)):
        return
    if parsed.get("model") == Path("mnist") and not shipped():
        pytest.skip("vqtk/pretrained/mnist.safetensors is not there")
    if words[0] == "runs":
        monkeypatch.chdir(stopped.parents[2])
    if words[0] == "import-original":
        _write_original(stopped, place / "mnist_model.pt")
        words[2] = str(stopped / "recipe.yaml")
    if words[0] == "decompress":
        assert vqtk_main(monkeypatch, "compress", "digits", "-m", "mnist", "-o", words[1]) == 0
    monkeypatch.setattr("vqtk.codec.measure.QUALITIES", (10, 90))
    monkeypatch.setattr("vqtk.evaluate.quality.inception", lambda device: (None, "no Inception in tests"))
    monkeypatch.setattr("vqtk.evaluate.quality.UPDATES", 5)
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: None)
    monkeypatch.setattr("webbrowser.open", lambda url: True)
    monkeypatch.setattr("vqtk.guides.label.EPOCHS", 1)
    monkeypatch.setattr("vqtk.runs.budget.WARM_UP", 4)
    monkeypatch.setattr("vqtk.evaluate.references.STEPS", 10)
    monkeypatch.setattr("vqtk.training.execution.CompiledStage", partial(CompiledStage, backend="eager"))
    monkeypatch.setattr("vqtk.study.runner.step_s", lambda recipe, device, *, steps: 0.1)
    assert vqtk_main(monkeypatch, *_small(words, stopped)) == 0


def test_the_page_on_plugins_holds_from_start_to_end(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands in their order, in one folder; that of each recipe of its own has been written there."""
    for command in commands([IN_ORDER]):
        words = [str(found) for word in shlex.split(command)[1:] for found in (_glob(word) or [word])]
        assert vqtk_main(monkeypatch, *_small(words, place)) == 0, command


def _glob(word: str) -> list[Path]:
    return sorted(Path().glob(word)) if word.endswith("*") else []


def _parsed(words: list[str]) -> dict[str, Any]:
    """The command's arguments by name; wrong ones fail here, and so does a recipe that they do not fit."""
    command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    parsed = command.make_context(words[0], words[1:]).params
    if isinstance(parsed.get("recipe"), Path) and not parsed.get("like"):
        load_recipe(parsed["recipe"], parsed.get("overrides") or [])
    return parsed


def _has_data(parsed: dict[str, Any]) -> bool:
    """Whether the recipe's data ship with vqtk or are drawn; those of the others are not to be had in a test."""
    return (
        parsed["recipe"] is None
        or parsed.get("like")
        or load_recipe(parsed["recipe"]).data.entry.name in ("mnist", "toy2d")
    )


def _small(words: list[str], run: Path) -> list[str]:
    """The same command at a small size: fewer and smaller stages, fewer items, a tiny run."""
    words = [str(run) if word == "RUN" else word.replace("=RUN", f"={run}") for word in words]
    if "--from" in words:
        return ["run", "--from", str(run), str(run / "recipe.yaml"), *SMALL]
    if words[0] in ("run", "bench") and "--resume" not in words:
        distils = any("distill" in word for word in words)
        sizes = ["model.stages=3", "model.options=4"] if distils else ["model.stages=2", "model.options=4"]
        teacher = [f"train.objective.teacher={run}", "data.batch=8"] if distils else []
        words = [*(word for word in words if not word.startswith("train.updates")), *sizes, *teacher, *SMALL]
        if words[0] == "bench":
            words = [*words, "--rounds", "1", "--batch", "4"]
        return ["2s" if re.fullmatch(r"\d+[mh]", word) else word for word in words]
    if words[0] == "validate":
        return [word for word in words if "*" not in word and "svhn" not in word] + ["recipes/mnist.yaml"]
    if words[0] == "results":
        return [*words, "--items", "8", "--prior-items", "8"]
    if words[0] == "eval":
        probed = ["--probe-items", "20"] if "--probe" in words else []
        return [*words, "--items", "8", *probed]
    return words


def _write_original(run: Path, path: Path) -> None:
    """A checkpoint in the original's format, under names of its kind, in the order of the layers."""
    import torch

    model, _ = load_weights(weights_of(run))
    state = {f"refiner.{index}": value for index, value in enumerate(model.state_dict().values())}
    assert map_original(model, state)
    torch.save(state, path)


def test_the_readmes_python_runs(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_data(monkeypatch, stopped.parent)
    monkeypatch.chdir(ROOT)
    short = ["updates=1", "evaluate_items=8", "final_items=8", "picture_items=4"]
    asked = ", ".join([*(f"'train.{setting}'" for setting in short), f"quiet=True, out={str(stopped.parent)!r}"])
    for code in blocks(ROOT / "README.md", "python"):
        names: dict[str, object] = {}
        exec(code.replace('"RUN"', repr(str(stopped))).replace('budget="5m"', asked), names)
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
    for registry in REGISTRIES.values():
        for name, entry in registry.entries().items():
            if not entry.component.__module__.startswith("vqtk."):  # Another test's.
                monkeypatch.delitem(registry._entries, name)
    assert vqtk_main(monkeypatch, "list", "--markdown") == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


def test_a_recipe_in_the_documents_can_be_built(place: Path) -> None:
    new_plugin("residual", "block", place)
    for name in own_recipes():
        vqtk.build(place / name, device="meta")


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"
