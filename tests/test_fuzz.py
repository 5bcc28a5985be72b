"""Recipes, overrides and studies that nobody means to give end in success or in a VqtkError."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bad_recipes import GOOD
from tests.fuzz.recipes import TRIES
from tests.refusing import Refusing
from vqtk.errors import VqtkError
from vqtk.io.parse_json import parse_json


@pytest.mark.parametrize("kind", TRIES)
@settings(max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(random=st.randoms(use_true_random=False))
def test_a_mutation_of_a_real_file_is_taken_or_refused(kind: str, random: Random) -> None:
    with suppress(VqtkError):
        TRIES[kind](random)


@pytest.mark.parametrize("key", ["extends", "plugins"])
@pytest.mark.parametrize(
    "text", ["\\ud800", "\\0", "x" * 5000, "/" + "y" * 300 + "/z"], ids=["surrogate", "nul", "long", "part"]
)
def test_a_text_that_can_be_no_path_is_refused(key: str, text: str, refusing: Refusing) -> None:
    value = f'"{text}"' if key == "extends" else f'["{text}"]'
    Path("bad.yaml").write_text(f"{key}: {value}\n")
    refusing.tells("show", "bad.yaml", told=[f"bad.yaml:1: {key}: there is no "])
    Path("study.yaml").write_text(f'name: s\nbase: "{text}"\nseeds: [0]\naxes: {{a: {{b: []}}}}\n')
    refusing.tells("ablate", "study.yaml", told=["study.yaml:2: base: there is no file "])


def test_json_nested_without_end_is_no_json() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


@pytest.mark.parametrize("name", ["manifest.json", "summary.json", "metrics.jsonl", "cell.json"])
def test_a_run_of_nested_json_is_refused(name: str, refusing: Refusing) -> None:
    Path("run").mkdir()
    Path("run/recipe.yaml").write_text(GOOD)
    for each, content in {"manifest.json": '{"data": {}}', "summary.json": "{}", name: "[" * 100_000}.items():
        Path("run", each).write_text(content)
    refusing.tells("compare", "run", told=["there is no finished run to compare. The first: run: "])


@pytest.fixture
def refusing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusing:
    monkeypatch.chdir(tmp_path)
    return Refusing(monkeypatch, capsys)
