"""What is too large is refused in one line, before memory or time is spent on it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from tests.parity import ROOT
from tests.running import vqtk_main
from vqtk.compare.tables import as_rich
from vqtk.errors import RecipeError
from vqtk.recipe.build import build_model, validate
from vqtk.recipe.recipe import load_recipe
from vqtk.study.study import load_study

MNIST = ROOT / "recipes" / "mnist.yaml"
ALIASES = "\n".join(
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]",
        *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)),
    ]
)
FILES = {
    "nested lists": ("name: deep\nmodel: " + "[" * 1000 + "]" * 1000, "nested more than 60 levels deep"),
    "nested mappings": ("\n".join(" " * i + "a:" for i in range(500)), "nested more than 60 levels deep"),
    "brackets without an end": ("model: " + "{a: " * 10_000, "nested more than 60 levels deep"),
    "aliases of aliases": (ALIASES, "more than 10,000 values with aliases and repetitions expanded"),
    "many values": ("a: [" + "1, " * 50_000 + "1]", "more than 10,000 values"),
    "a large file": ("# " + "x" * (2 << 20), "characters are too many for a recipe"),
}


@pytest.mark.parametrize(("text", "told"), FILES.values(), ids=FILES)
def test_a_recipe_out_of_all_measure_is_refused_at_once(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(text)
    began = time.monotonic()
    with pytest.raises(RecipeError, match=told) as refused:
        load_recipe(path)
    assert len(str(refused.value)) < 500
    assert time.monotonic() - began < 30
    assert vqtk_main(monkeypatch, "run", path) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_chain_of_recipes_has_an_end(tmp_path: Path) -> None:
    for index in range(40):
        (tmp_path / f"{index}.yaml").write_text(f"extends: {index + 1}.yaml\n")
    with pytest.raises(RecipeError, match="a chain of more than 20 recipes"):
        load_recipe(tmp_path / "0.yaml")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.refiner.blocks.0.repeat=1000000000", "from 1 to 1,000"),
        ("model.stages=1000000000", "model.stages: expected a whole number from 1 to 10,000"),
        ("model.options=1000000000", "model.options: expected a whole number from 2 to 65,536"),
        (".".join(["a"] * 5000) + "=1", "the path has 5000 keys"),
        ("model.refiner.blocks." + "9" * 10_000 + ".width=1", "expected an index"),
        ("model.refiner.blocks=" + "[" * 2000, "nested more than 60 levels deep"),
        ("model.stages=" + "9" * 10_000, "model.stages"),
    ],
    ids=["repeat", "stages", "options", "keys", "index", "nested", "digits"],
)
def test_an_override_out_of_all_measure_is_refused(override: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told) as refused:
        load_recipe(MNIST, [override])
    assert len(str(refused.value)) < 2000


@pytest.mark.parametrize("key", ["recipe", "facts", "plugins"])
def test_nested_json_inside_weights_is_refused(key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    plain = {"recipe": "{}", "facts": "{}", "plugins": "[]"}
    nested = [json.dumps({"model": None}).replace("null", "[" * 900 + "]" * 900), "[" * 100_000]
    for text in nested:
        save_file({"a": torch.zeros(1)}, "it.safetensors", {"format": "vqtk", **plain, key: text})
        assert vqtk_main(monkeypatch, "sample", "it.safetensors") == 2


HUGE = 10**9
SETTINGS = {
    "model.refiner.backbone.layers.0.width=HUGE": "weights of 36 GB or more, with one of 1000000000 × 1 × 3 × 3",
    "model.refiner.head.kernel=999999999": "weights of ",
    "model.refiner.blocks=[{name: bottleneck, expansion: HUGE}]": "weights of ",
    "model.refiner.backbone={name: unet, widths: [8, 8], depth: HUGE}": "expected a whole number from 1 to 1,000",
    "model={name: vqvae, blocks: HUGE}": "model.blocks: expected a whole number from 0 to 1,000",
    "model={name: vqvae, width: HUGE}": "weights of ",
    "model={name: residual_vq, code_width: HUGE}": "weights of ",
    "model={name: distilled, width: HUGE}": "weights of ",
    "data={name: celeba, size: HUGE}": "data.size: expected a whole number from 1 to 4,096",
    "data={name: toy2d, items: HUGE}": "data.items: expected a whole number from 1 to 10,000,000",
    "data={name: modelnet, variations: HUGE}": "data.variations: expected a whole number from 1 to 1,000",
    "data.batch=HUGE": "an update of 1,000,000,000 examples, 1,000,000,000 at a time, needs 201 TB",
    "train.accumulate=HUGE": "an update of 32,000,000,000 examples, 32 at a time, needs 100 TB",
    "train.picture_items=HUGE": "train.picture_items: expected a whole number from 1 to 1,000",
    f"train.updates={10**30}": "train.updates: expected a whole number ≥ 1, of at most 18 digits",
    f"train.evaluate_items={10**30}": "train.evaluate_items: expected a whole number ≥ 1, of at most 18 digits",
    f"train.optimizer.lr={10**30}": "train.optimizer.lr",
}


@pytest.mark.parametrize("override", SETTINGS)
def test_a_setting_out_of_all_measure_is_refused_before_memory_is_taken(
    override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqtk.recipe.affordable.memory_bytes", lambda: 1 << 34)
    common = "model.stages=2", "model.options=64", "model.loss=mse"
    resource = pytest.importorskip("resource", reason="the system does not say how much memory a process took")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RecipeError) as refused:
        validate(load_recipe(MNIST, [override.replace("HUGE", str(HUGE)), *common]))
    assert SETTINGS[override] in str(refused.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_the_modules_of_a_model_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqtk.recipe.affordable.MOST_MODULES", 100)
    with pytest.raises(RecipeError, match="this model has more than 100 modules"):
        build_model(load_recipe(MNIST, ["model.segment=1"]), device="meta")
    build_model(load_recipe(MNIST), device="meta")


def test_repetitions_in_repetitions_are_counted() -> None:
    unit = "{width: 4, then: [relu, relu, relu], repeat: 1000}"
    with pytest.raises(RecipeError, match="more than 10,000 values with aliases and repetitions expanded"):
        load_recipe(MNIST, [f"model.refiner.backbone.layers=[{', '.join([unit] * 20)}]"])


def test_a_long_list_of_numbers_is_refused_in_a_line() -> None:
    widths = ", ".join(["8"] * 5000)
    with pytest.raises(RecipeError, match="widths: expected at most 1,000 values, got ") as refused:
        load_recipe(MNIST, [f"model.refiner.backbone={{name: mlp, widths: [{widths}]}}"])
    assert len(str(refused.value)) < 500


def axes(count: int, values: int) -> str:
    return "\n".join(f"  a{i}: {{{', '.join(f'v{j}: []' for j in range(values))}}}" for i in range(count))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"axes:\n{axes(20, 10)}", "axes: 100,000,000,000,000,000,000 combinations of their values. A study has at"),
        (f"axes:\n{axes(20, 10)}\nbaseline: v1", "baseline: no variant is called 'v1'"),
        (f"axes:\n{axes(1, 2)}\ncells: [{'v0, ' * 1001}]", "cells: 1,001 variants. A study has at most 1,000"),
    ],
    ids=["axes", "baseline", "cells"],
)
def test_the_variants_of_a_study_have_a_bound(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: many\nbase: {MNIST}\nseeds: [0]\n{text}\n")
    with pytest.raises(RecipeError, match=re.escape(told)) as refused:
        load_study(path)
    assert len(str(refused.value)) < 1000


def test_a_study_of_many_axes_one_at_a_time_is_none_of_many_variants(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: many\nbase: {MNIST}\nseeds: [0]\ncells: one_at_a_time\naxes:\n{axes(20, 10)}\n")
    assert len(load_study(path).variants) == 1 + 20 * 9


def test_the_seeds_of_a_study_have_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: many\nbase: {MNIST}\nseeds: {list(range(5000))}\naxes: {{a: {{v: []}}}}\n")
    with pytest.raises(RecipeError, match="seeds: expected at most 1,000 values, got"):
        load_study(path)


def test_of_many_problems_the_first_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(MNIST.read_text() + "".join(f"key{i}: 1\n" for i in range(1000)))
    with pytest.raises(RecipeError, match="1,000 problems in the recipe:") as refused:
        load_recipe(path)
    assert str(refused.value).splitlines()[-1] == "and 980 more."
    assert len(str(refused.value).splitlines()) == 22


@pytest.mark.parametrize("escape", [r"\x1b[31m", r"\r", r"\x9b2J", r"\u202e", r"\b"])
def test_control_characters_of_a_file_reach_no_terminal(
    escape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(f'"na{escape}me": "{escape}"\nmodel: "{escape}"\n')
    assert vqtk_main(monkeypatch, "show", path) == 2
    assert vqtk_main(monkeypatch, "show", MNIST, f"model.{escape.encode().decode('unicode_escape')}=1") == 2
    out, err = capsys.readouterr()
    assert not [c for c in out + err if not c.isprintable() and c != "\n"]


def test_a_message_is_never_longer_than_a_screen_or_two() -> None:
    lines = str(RecipeError("\n".join(["\x1b" * 100_000] * 1000))).splitlines()
    assert lines[-1] == "and 960 more lines."
    assert max(map(len, lines)) <= 2000


@pytest.mark.parametrize("command", ["bench", "validate"])
def test_a_batch_out_of_all_measure_is_refused_by_every_command(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "it.yaml"
    path.write_text(f"extends: {MNIST}\nname: it\ndata: {{batch: 1000000000}}\n")
    assert vqtk_main(monkeypatch, command, path) == 2
    out, err = capsys.readouterr()
    assert "an update of 1,000,000,000 examples, 1,000,000,000 at a time, needs 201 TB or more" in out + err


def test_names_from_a_file_are_shown_as_they_are_in_a_table() -> None:
    table = as_rich([["[bold]x"], ["[red]\x1b[2J[/red]"]], title="[link=x]y")
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    shown = capture.get()
    assert "[link=x]y" in shown
    assert "[bold]x" in shown
    assert r"[red]\x1b[2J[/red]" in shown
