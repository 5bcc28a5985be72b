"""Recipes, overrides and studies that nobody means to give end in success or in a VqtkError."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bad_recipes import GOOD
from tests.fuzz.recipes import TRIES
from tests.refusing import Refusing
from vqtk.errors import VqtkError, VqtkWarning
from vqtk.io.run_files import parse_json
from vqtk.report.page import write_report


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


DAMAGE = {
    "metrics.jsonl": (b"\xff\n", b'{"a": 1, "b"}\n', b"[1]\n"),
    "evaluation.json": (b"\xff", b"{", b'{"stages": 3}', b'{"stages": [{"stage": "x"}], "row": [], "items": "y"}'),
    "summary.json": (b"\xff", b"{", b'{"updates": "x"}'),
    "manifest.json": (b'{"data": {"train_items": "x"}}', b'{"data": {"train_items": 1}, "bits_per_item": []}'),
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name in DAMAGE for content in DAMAGE[name]])
def test_a_run_with_a_file_that_vqtk_did_not_write_has_a_page_that_does_without_it(
    name: str, content: bytes, refusing: Refusing
) -> None:
    Path("run").mkdir()
    Path("run/recipe.yaml").write_text(GOOD)
    Path("run/manifest.json").write_text('{"data": {}, "options": 4, "kind": "image"}')
    Path("run", name).write_bytes(content)
    with pytest.warns(VqtkWarning, match=f"run/{name}: .*damaged"):
        assert write_report(Path("run")).is_file()


def test_a_measurement_that_is_no_number_is_refused(refusing: Refusing) -> None:
    Path("run").mkdir()
    Path("run/recipe.yaml").write_text(GOOD)
    Path("run/manifest.json").write_text('{"data": {}}')
    stage = {"stage": 1, "bits": 2.0, "distortion": "low", "entropy_nats": 1.0, "used": 2}
    summary = {"updates": 2, "train_s": 1.0, "peak_memory_mb": 1, "test_items": 4, "test": {"final": 0.5}}
    Path("run/summary.json").write_text(json.dumps({**summary, "stages": [stage]}))
    refusing.tells("compare", "run", told=["run/summary.json: the summary is damaged: stages.0.distortion: "])


def test_a_recipe_that_grows_by_its_defaults_is_refused_before_a_run_keeps_it(refusing: Refusing) -> None:
    layers = "[{width: 4, repeat: 1000}, {width: 8, repeat: 1000}]"
    told = ["more than 10,000 values with aliases and repetitions expanded"]
    Path("good.yaml").write_text(GOOD)
    refusing.tells("show", "good.yaml", f"model.refiner.backbone.layers={layers}", told=told)
