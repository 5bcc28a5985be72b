"""The house: public addresses, and names that keep their meaning."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vqtk import registry
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
