"""The house: public addresses, and names that keep their meaning."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

import vqtk
from vqtk import registry
from vqtk.errors import RegistryError
from vqtk.plugin.loading import load_plugin
from vqtk.registry import ConditionFactory

ROOT = Path(__file__).parent.parent
CALLERS = [
    path
    for folder in ("plugins", "docs", "vqtk/plugin/templates", "README.md", "CONTRIBUTING.md")
    for path in [ROOT / folder, *(ROOT / folder).rglob("*")]
    if path.suffix in (".py", ".md", ".ipynb", ".txt")
]


@pytest.mark.parametrize("path", CALLERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_users_read_and_copy_imports_public_modules_alone(path: Path) -> None:
    assert re.findall(r"(?:from|import) vqtk(?:\.\w+)*\._\w+", path.read_text(encoding="utf-8")) == []


def test_no_signature_says_any_for_a_model() -> None:
    told = {path.name for path in (ROOT / "vqtk").rglob("*.py") if "model: Any" in path.read_text(encoding="utf-8")}
    assert told == set()


def test_plugins_kept_with_runs_of_the_first_version_find_the_factories_by_their_old_names() -> None:
    assert registry.Condition is ConditionFactory
    with pytest.raises(AttributeError, match="no attribute 'Conditions'"):
        _ = registry.Conditions


def test_plugins_kept_with_runs_of_the_first_version_find_what_has_moved(tmp_path: Path) -> None:
    plugin = tmp_path / "kept.py"
    plugin.write_text(
        "from vqtk.io.atomic import replacing\nfrom vqtk.nn.state import State, chosen_of\n"
        "from vqtk.train.loop import Order\n"
    )
    assert load_plugin(plugin).entries == ()
    assert "vqtk.nn.state" not in sys.modules, "the old address is for plugins alone"
    plugin.write_text("from vqtk.nn.states import State\n")
    with pytest.raises(RegistryError, match=r"kept\.py:1: the import failed with ModuleNotFoundError"):
        load_plugin(plugin)


# ── chapters ─────────────────────────────────────────────────────────────────────────────────────

COMPONENTS = """
    augmentations backbones blocks callbacks coders conditions datasets guides heads losses metrics objectives
    optimizers refiners revivals schedules searches selectors models
"""
CHAPTERS = """
    errors process files registry nn augmentations selectors conditions losses heads backbones blocks refiners datasets
    models coders searches objectives optimizers schedules revivals guides metrics callbacks plugin recipe io training
    evaluate sampling codec render report runs compare study explore testing cli
""".split(  # noqa: SIM905
)
"""From the ground up: each imports those before it alone."""
SOURCES = [path for path in sorted((ROOT / "vqtk").rglob("*.py")) if "templates" not in path.parts]


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def _imports(path: Path) -> set[str]:
    """The modules of the package that a module imports, also within functions; not those imported for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {inner for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
              for inner in ast.walk(node)}  # fmt: skip
    found = set()
    for node in ast.walk(tree):
        if node in typing:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vqtk":
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
    return found


MODULES = {_module(path): path for path in SOURCES}


def test_each_chapter_imports_those_below_it_alone() -> None:
    def chapter(module: str) -> int:
        return CHAPTERS.index(module.split(".")[1])

    wrong = [
        f"{module} imports {other}"
        for module, path in MODULES.items()
        if module not in ("vqtk", "vqtk.__main__")
        for other in _imports(path)
        if other != "vqtk" and chapter(other) > chapter(module)
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: _imports(path) - {module} for module, path in MODULES.items() if module != "vqtk"}
    while free := [module for module, others in graph.items() if not others & graph.keys()]:
        for module in free:
            del graph[module]
    assert sorted(graph) == []


def test_no_public_name_stands_twice_in_the_package() -> None:
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_the_house_has_few_rooms() -> None:
    """Outside the folders of components: 85 for what there was when the house was put in order; what came later, the
    explorer, files of codes, exports and the hub, the list of runs, studies that adapt, the table of models, sheets
    with labels, the commands for folders of very many files, Slurm, the states that machines share, and several
    processes, has 17 more; weights in parts, and their checkpoints, 2; batches, the forms of a checkpoint, and how
    an experiment is trained, which made three modules too long, 3."""
    outside = [path for path in SOURCES if path.parent.name not in COMPONENTS.split() and path.name != "__init__.py"]
    assert len(outside) <= 107


def test_the_package_shows_its_public_names_and_each_is_there() -> None:
    assert (
        {"build", "load", "Model", "Loss", "Refiner", "Dataset"}
        <= set(dir(vqtk))
        == {*vqtk.__all__, "__doc__", "__version__"}
    )
    assert all(getattr(vqtk, name) for name in vqtk.__all__)
