"""Comparing runs: from directories to variants, figures, words, tables and the page."""

from __future__ import annotations

import csv
import json
import re
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from tests.running import vqtk_main
from vqtk.compare.collect import collect
from vqtk.compare.comparison import ComparisonRequest, compare, write, write_comparison
from vqtk.compare.notes import format_mean_std
from vqtk.compare.page import differences_plot, effects_plot, pareto_front
from vqtk.compare.result import RunComparison
from vqtk.compare.statistics import main_effects
from vqtk.compare.tables import remarks
from vqtk.compare.variants import measured_variant, units_of
from vqtk.errors import VqtkError
from vqtk.io.weights import shipped
from vqtk.recipe.recipe import load_recipe
from vqtk.recipe.show import Change, as_yaml, changes

TOY = Path(__file__).parent.parent / "recipes" / "toy2d.yaml"
NOISE = (0.0, 0.02, -0.01, 0.015, -0.02)


def made(path: Path, seed: int, final: float, *overrides: str, late: float = 1.0, **summary: Any) -> Path:
    """A finished run that was never trained: `final` at the end, `late` times that after 80 of 100 updates."""
    recipe = load_recipe(TOY, [f"seed={seed}", "train.updates=100", *overrides])
    path.mkdir(parents=True)
    (path / "recipe.yaml").write_text(as_yaml(recipe.node))
    data = {"train_items": 900, "test_items": 100, "sha256": "ab" * 32}
    facts = {"parameters": 10_000, "bits_per_item": 12.0, "options": 8, "kind": "points", "data": data}
    (path / "manifest.json").write_text(json.dumps({**facts, **summary.pop("manifest", {})}))
    rows: list[dict[str, Any]] = [{"update": 10 * n, "final": 1.0, "step_ms": 9.0 + n % 3} for n in range(1, 11)]
    curve = ((40, 3 * final), (80, late * final))
    rows += [{"update": at, "test": {"items": 100, "final": value}} for at, value in curve]
    rows += [{"update": 100, "test": {"items": 100, "final": final}, "end": True}]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"upd')
    usage = {"entropy_nats": 2.0, "used": 7}
    stages = [{"stage": s, "bits": 3.0 * s, "distortion": final * (5 - s), **usage} for s in (1, 2, 3, 4)]
    test = {"items": 100, "final": final, "choice": 2 * final, "used": 8}
    told = {"updates": 100, "train_s": 5.0, "peak_memory_mb": 400, "test_items": 100, "test": test, "stages": stages}
    (path / "summary.json").write_text(json.dumps({**told, **summary}))
    return path


def study(folder: Path, seeds: int = 5) -> Path:
    """A study of two axes: width matters by 0.3, condition does not; its last cell failed."""
    cells: list[dict[str, Any]] = []
    for width, shift in (("narrow", 0.3), ("wide", 0.0)):
        for condition, noise in (("scale", 1), ("none", -1)):
            for seed in range(seeds):
                name = f"{width}-{condition}"
                path = folder / f"{name}-0" / f"seed{seed}"
                value = 1 + shift + seed + noise * NOISE[seed] / 2
                made(path, seed, value, f"model.condition={condition}", f"data.batch={64 if shift else 32}")
                (path / "cell.json").write_text(json.dumps({"state": "done", "error": None}))
                choices = {"width": width, "condition": condition}
                cells.append({"variant": name, "choices": choices, "seed": seed, "path": str(path.relative_to(folder))})
    failed = folder / cells[-1]["path"]
    (failed / "cell.json").write_text(json.dumps({"state": "failed", "error": "Traceback\nout of memory"}))
    told = {
        "name": "widths",
        "baseline": "wide-scale",
        "metrics": [{"name": name, "better": "lower"} for name in ("final", "area", "choice")],
        "terms": {"equal": "updates", "value": 100, "said": "100 updates each."},
        "axes": {"width": ["narrow", "wide"], "condition": ["scale", "none"]},
        "cells": cells,
    }
    (folder / "study.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module")
def made_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(tmp_path_factory.mktemp("studies") / "widths")


@pytest.fixture(scope="module")
def found(made_study: Path) -> RunComparison:
    return write_comparison(made_study)


def test_a_study_says_which_differences_are_significant(found: RunComparison) -> None:
    differences = {row.name: row.difference for row in found.variants}
    assert list(differences) == ["wide-scale", "narrow-scale", "narrow-none", "wide-none"]
    assert differences["wide-scale"] is None
    assert differences["narrow-scale"].mean == pytest.approx(0.3)
    assert (differences["narrow-none"].significant, differences["narrow-none"].verdict) == (True, "worse")
    assert (differences["wide-none"].significant, differences["wide-none"].verdict) == (False, "within the noise")
    told = "\n".join(found.verdicts)
    assert "narrow-scale is significantly worse than wide-scale: final +0.3 (95 % interval" in told
    assert "wide-none does not differ significantly from wide-scale" in told


@pytest.mark.parametrize("draw", [differences_plot, effects_plot])
def test_categories_that_have_no_order_are_never_joined_by_a_line(draw: Any, found: RunComparison) -> None:
    figure = draw(found)
    assert figure
    for axes in figure.axes:
        categories = axes.yaxis if draw is differences_plot else axes.xaxis
        assert len(categories.get_ticklabels()) >= 2
        drawn = [line.get_xydata() for line in axes.get_lines() if line.get_linestyle() != "None"]
        drawn += [line for bars in axes.collections if isinstance(bars, LineCollection) for line in bars.get_segments()]
        places = [np.unique(np.asarray(line)[:, 1 if draw is differences_plot else 0]) for line in drawn]
        ends = [place for place in places if len(place) > 1]
        assert all((place == [0, 1]).all() for place in ends), "the line of no difference, which is none of data"


def test_a_variant_has_its_metrics_and_costs(found: RunComparison) -> None:
    row = found.variants[0]
    assert row.seeds == [0, 1, 2, 3, 4]
    assert row.result.mean == pytest.approx(3.0005)
    assert row.area.mean == pytest.approx(row.result.mean * 3 * (3.5 + 2.5 + 1.5))
    assert (row.costs.step_ms, row.costs.examples_per_s) == (10.0, 3200.0)
    assert row.costs.encode_flops > row.costs.decode_flops > 0
    assert [stage.entropy for stage in row.stages] == pytest.approx([2 / 2.0794415] * 4)


def test_the_main_effect_of_an_axis_is_the_planted_one(found: RunComparison) -> None:
    narrow, wide = found.effects["width"]
    assert narrow.result.mean - wide.result.mean == pytest.approx(0.3)
    assert (narrow.variants, narrow.seeds) == (2, 4)


def test_main_effects_are_taken_over_variants_that_differ_in_the_axis_alone() -> None:
    reached = [({"a": "1", "b": "x"}, {0: 1.0}), ({"a": "2", "b": "x"}, {0: 2.0}), ({"a": "1", "b": "y"}, {0: 9.0})]
    effects = main_effects({"a": ["1", "2"], "b": ["x", "y"]}, reached)
    assert [effect.result.mean for effect in effects["a"]] == [1.0, 2.0]
    assert [effect.result.mean for effect in effects["b"]] == [1.0, 9.0]


def test_what_failed_is_left_out_and_said(found: RunComparison) -> None:
    (one,) = found.left_out
    assert one.path.parts[-2:] == ("wide-none-0", "seed4")
    assert one.why == "failed: out of memory"
    assert len(found.variants[-1].runs) == 4
    assert any("The variants do not all have the same seeds" in note for note in found.notes)


def test_a_study_keeps_its_comparison_in_every_form(found: RunComparison, made_study: Path) -> None:
    assert json.loads((made_study / "comparison.json").read_text()) == json.loads(json.dumps(found.to_json()))
    rows = list(csv.DictReader((made_study / "comparison.csv").open()))
    assert [row["variant"] for row in rows] == [row.name for row in found.variants]
    assert float(rows[1]["difference"]) == pytest.approx(0.3)
    assert "| narrow-scale | 5 | 3.3" in (made_study / "comparison.md").read_text()
    tex = (made_study / "comparison.tex").read_text()
    assert tex.count(r"\\") == 5
    assert r"\toprule" in tex


def test_the_tables_of_docs_compare_list_exactly_the_keys_of_the_json(found: RunComparison) -> None:
    plain = found.to_json()
    variant = plain["variants"][1]
    for heading, values in (("key of `comparison.json`", plain), ("key of a variant", variant)):
        assert list(documented_keys(heading)) == list(values)
    nested = {
        "key of `comparison.json`": {"effects": plain["effects"]["width"][0], "left_out": plain["left_out"][0]},
        "key of a variant": {
            **{key: variant[key] for key in ("area", "flops", "difference")},
            **{key: variant[key][0] for key in ("stages", "runs", "changes")},
        },
    }
    for heading, values in nested.items():
        for key, inner in values.items():
            assert all(f"`{name}`" in documented_keys(heading)[key] for name in inner), key


def documented_keys(heading: str) -> dict[str, str]:
    """The keys in the first column of the table with a heading, each with its row."""
    text = (TOY.parent.parent / "docs" / "compare.md").read_text(encoding="utf-8")
    rows = text.partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    return {key: row for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])}


def test_the_page_needs_no_other_file(found: RunComparison, made_study: Path) -> None:
    page = (made_study / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"|url\((?!#)|@import|<script|<link', page)
    assert page.count("<svg") == 6
    assert "<title>narrow-scale: +0.3, from " in page
    assert "<th>choice ± std</th>" in page
    assert "prefers-color-scheme: dark" in page
    assert "#010203" not in page
    assert '<td class="code">model.condition</td>' in page


def test_two_seeds_say_nothing(tmp_path: Path) -> None:
    found = compare([study(tmp_path / "s", seeds=2)])
    assert {row.difference.verdict for row in found.variants[1:]} == {"too few seeds"}
    assert all(row.difference.low is None for row in found.variants[1:])
    assert "too few seeds. It has 2 seeds in common" in found.verdicts[0]


def test_runs_of_equal_recipes_are_one_variant(tmp_path: Path) -> None:
    for seed in range(3):
        made(tmp_path / "a" / str(seed), seed, 1.0 + seed, "name=any")
        made(tmp_path / "b" / str(seed), seed, 1.1 + seed, "name=any", "model.condition=none")
    made(tmp_path / "c", 0, 1.0, "name=other")
    (made(tmp_path / "d", 7, 1.0) / "summary.json").unlink()
    found = compare([tmp_path], ComparisonRequest(baseline="condition=none"))
    named = [(row.name, len(row.runs)) for row in found.variants]
    assert named == [("condition=none", 3), ("condition=scale", 3)]
    reasons = {one.path.name: one.why for one in found.left_out}
    assert "a run of the same variant with the same seed" in reasons["c"]
    assert reasons["d"] == "not finished: 100 of 100 updates."
    assert [change.path for change in found.variants[1].changes] == ["model.condition"]


def test_variants_of_one_name_are_named_by_what_differs_or_by_their_run_directories(tmp_path: Path) -> None:
    overrides = {"a": "train.optimizer.lr=3e-4", "b": "model.condition={name: scale}", "c": "model.condition=film"}
    for name, override in overrides.items():
        made(tmp_path / "runs" / name, 0, 1.0, override)
    names = [variant.name for variant in collect([tmp_path / "runs"]).variants]
    assert names == ["lr=0.0003, condition=scale", "lr=0.01, condition=scale", "lr=0.01, condition=film"]
    made(tmp_path / "runs" / "d", 0, 1.0, "name=other", "model.options=4")
    (*named, other) = [variant.name for variant in collect([tmp_path / "runs"]).variants]
    assert named == [f"toy2d, {name}" for name in names]
    assert other == "other"
    unlike = f"model.refiner.backbone={{name: mlp, widths: [{', '.join(['64'] * 30)}]}}"
    made(tmp_path / "long" / "x", 0, 1.0)
    made(tmp_path / "long" / "y", 0, 1.0, unlike)
    assert [variant.name for variant in collect([tmp_path / "long"]).variants] == ["x", "y"]


def test_unequal_terms_are_refused_and_else_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "a", 0, 1.0)
    made(tmp_path / "b", 0, 0.9, "name=other", "data.batch=32", manifest={"data": {"sha256": "cd" * 32}}, test_items=50)
    assert vqtk_main(monkeypatch, "compare", tmp_path) == 2
    told = capsys.readouterr().err
    assert "Updates × examples per update differ: 100 × 256 (toy2d); 100 × 32 (other)." in told
    assert "Data differ:" in told
    assert "Test examples differ: 100 (toy2d); 50 (other)." in told
    assert "--unequal" in told
    assert vqtk_main(monkeypatch, "compare", tmp_path, "--unequal", "-o", tmp_path / "out") == 0
    assert "UNEQUAL TERMS." in capsys.readouterr().out
    for name in ("comparison.json", "comparison.md", "comparison.csv", "comparison.tex", "report.html"):
        assert "nequal" in (tmp_path / "out" / name).read_text(encoding="utf-8").replace("UNEQUAL", "Unequal"), name
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["unequal"]


def test_curves_that_have_not_converged_are_noted(tmp_path: Path) -> None:
    made(tmp_path / "a", 0, 1.0, late=1.01)
    made(tmp_path / "b", 0, 1.0, "name=slow", "model.condition=none", late=1.25)
    (note,) = [note for note in compare([tmp_path]).notes if "have not converged" in note]
    assert "slow 20 %" in note
    assert "toy2d" not in note


def test_any_measured_number_can_be_the_metric(tmp_path: Path) -> None:
    made(tmp_path / "a", 0, 1.0)
    assert compare([tmp_path], ComparisonRequest(metric="stages.2.distortion")).variants[0].result.mean == 3.0
    assert compare([tmp_path], ComparisonRequest(metric="area")).variants[0].result.mean == pytest.approx(22.5)
    assert compare([tmp_path], ComparisonRequest(metric="used", higher=True)).better == "higher"
    with pytest.raises(VqtkError, match=r"--metric chioce: .* Did you mean 'choice'\?"):
        compare([tmp_path], ComparisonRequest(metric="chioce"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none"], "no such directory"),
        (["empty"], "there is no run here"),
        (["damaged"], "not the study.json of a study"),
        (["run", "--baseline", "toy3d"], "Did you mean 'toy2d'?"),
    ],
)
def test_what_cannot_be_compared_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    made(tmp_path / "run", 0, 1.0)
    for name in ("empty", "damaged"):
        (tmp_path / name).mkdir()
    (tmp_path / "damaged" / "study.json").write_text('{"cells": 3}')
    assert vqtk_main(monkeypatch, "compare", tmp_path / arguments[0], *arguments[1:]) == 2
    assert told in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    if shipped():
        assert vqtk_main(monkeypatch, "compare", shipped()[0]) == 2
        assert "a model that ships with vqtk, and not a run" in capsys.readouterr().err


def test_recipes_are_compared_value_by_value_and_components_whole() -> None:
    old = {"model": {"head": {"name": "conv", "k": 1}, "layers": [{"w": 1}, {"w": 2}]}}
    new = {"model": {"head": {"name": "mlp"}, "layers": [{"w": 1}, {"w": 3}], "more": True}}
    assert changes(old, new) == [
        Change("model.head", "{name: conv, k: 1}", "{name: mlp}"),
        Change("model.layers.1.w", "2", "3"),
        Change("model.more", "absent", "true"),
    ]


def test_the_front_holds_what_no_other_beats_in_both() -> None:
    points = [(1.0, 5.0), (2.0, 3.0), (3.0, 4.0), (4.0, 1.0)]
    assert pareto_front(points, higher=False) == [(1.0, 5.0), (2.0, 3.0), (4.0, 1.0)]
    assert pareto_front(points, higher=True) == [(1.0, 5.0)]


def test_a_metric_has_one_direction_whether_a_study_names_it_or_not(made_study: Path) -> None:
    assert compare([made_study], ComparisonRequest(metric="used")).better == "higher"
    assert compare([made_study], ComparisonRequest(metric="choice")).better == "lower"


def test_a_study_found_in_a_folder_is_compared_as_it_says(made_study: Path) -> None:
    found = compare([made_study.parent])
    assert (found.baseline, found.also) == ("wide-scale", ["choice"])


def test_another_metric_does_not_take_the_place_of_a_studys_own_result(
    made_study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_comparison(made_study)
    before = (made_study / "comparison.json").read_text()
    assert vqtk_main(monkeypatch, "compare", made_study, "--metric", "choice") == 0
    assert "Not written: " in capsys.readouterr().out
    assert (made_study / "comparison.json").read_text() == before


def test_the_csv_keeps_what_a_study_names_apart_from_what_is_counted_a_stage(tmp_path: Path) -> None:
    folder = study(tmp_path / "widths")
    told = json.loads((folder / "study.json").read_text())
    told["metrics"].append({"name": "used", "better": "higher"})
    (folder / "study.json").write_text(json.dumps(told))
    write_comparison(folder)
    row = next(csv.DictReader((folder / "comparison.csv").read_text().splitlines()))
    assert (float(row["used"]), float(row["used_std"]), float(row["used_a_stage"])) == (8, 0, 7)


def test_settings_that_change_no_result_do_not_split_a_variant(tmp_path: Path) -> None:
    for seed, setting in enumerate(["checkpoint_minutes=1", "evaluate_every=20", "compile=off", "picture_items=4"]):
        made(tmp_path / str(seed), seed, 1.0, f"train.{setting}")
    assert [len(row.runs) for row in compare([tmp_path]).variants] == [4]
    made(tmp_path / "other", 0, 1.0, "train.precision=bfloat16")
    assert [len(row.runs) for row in compare([tmp_path]).variants] == [4, 1]


def of_losses(folder: Path, *, shared: bool = True) -> Path:
    """Runs of two losses: the one with the lower loss has the larger distance."""
    for seed in range(3):
        for loss, final, distance in (("mse", 1.0, 0.1), ("gaussian", -2.0, 0.2)):
            path = made(folder / loss / str(seed), seed, final + seed, f"name={loss}", f"model.loss={loss}")
            summary = json.loads((path / "summary.json").read_text())
            summary["test"] |= {"distance": distance + 0.01 * seed} if shared else {}
            (path / "summary.json").write_text(json.dumps(summary))
    return folder


def test_runs_of_different_losses_are_compared_by_what_they_share_and_it_says_why(tmp_path: Path) -> None:
    found = compare([of_losses(tmp_path)], ComparisonRequest(baseline="mse"))
    assert (found.metric, found.better, found.unequal) == ("distance", "lower", [])
    assert found.variants[1].difference.verdict == "worse"
    assert found.variants[1].area.mean is None
    (note,) = [note for note in found.notes if "Losses differ" in note]
    assert "Losses differ: gaussian (gaussian); mse (mse)." in note
    assert "compared by distance, which all of them have" in note
    write(found, tmp_path / "out")
    assert "Distortion by stage" not in (tmp_path / "out" / "comparison.md").read_text()
    assert "Distortion by stage" not in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("metric", ["final", "area", "stages.2.distortion", "choice"])
def test_runs_of_different_losses_are_not_ranked_by_the_loss(metric: str, tmp_path: Path) -> None:
    of_losses(tmp_path)
    for unequal in (False, True):
        with pytest.raises(VqtkError, match=rf"--metric {metric}: Losses differ.*--metric distance"):
            compare([tmp_path], ComparisonRequest(metric=metric, unequal=unequal))


def test_runs_of_an_earlier_version_are_told_how_to_be_measured_by_what_losses_share(tmp_path: Path) -> None:
    with pytest.raises(VqtkError, match=r"--metric distance: .* does not have this metric\..*vqtk run --resume "):
        compare([of_losses(tmp_path, shared=False)])


def test_runs_of_one_loss_with_other_settings_or_training_units_do_not_share_its_units(tmp_path: Path) -> None:
    one, other = load_recipe(TOY), load_recipe(TOY.with_name("mnist.yaml"))
    assert units_of(one) == "mse"
    assert units_of(other) == "mse in units of (x − 0.1307) / 0.3081"


def test_a_diverged_run_is_in_no_mean_and_is_said(tmp_path: Path) -> None:
    for seed in range(3):
        made(tmp_path / "a" / str(seed), seed, 1.0 + seed)
        made(tmp_path / "b" / str(seed), seed, nan if seed == 1 else 2.0 + seed, "name=b", "model.condition=none")
    found = compare([tmp_path])
    (row,) = [row for row in found.variants if row.name == "b"]
    assert (len(row.runs), row.result.mean) == (2, 3.0)
    assert row.difference.verdict == "too few seeds"
    assert found.left_out[0].why == "diverged: its final loss on the test examples is nan."
    assert any("1 run diverged. The means leave such runs out" in note for note in found.notes)
    json.loads(json.dumps(found.to_json()), parse_constant=lambda name: pytest.fail(f"{name} in the comparison"))


def test_a_metric_that_some_runs_lack_is_not_averaged_in_silence(tmp_path: Path) -> None:
    for seed in range(3):
        test = {"items": 100, "final": 1.0 + seed, **({"choice": 1.0 + seed} if seed else {})}
        made(tmp_path / str(seed), seed, 1.0 + seed, test=test)
    with pytest.raises(VqtkError, match="does not have this metric"):
        compare([tmp_path], ComparisonRequest(metric="choice"))
    row = measured_variant(collect([tmp_path]).variants[0], ["final", "choice"], None, curve="final", higher=False)
    assert row.also["choice"].missing == 1
    assert format_mean_std(row.also["choice"]) == "2.5 ± 0.71 (1 missing)"
    assert format_mean_std(row.result) == "2 ± 1"


def test_the_last_fifth_is_judged_on_one_set_of_items_to_the_end_or_not_at_all(tmp_path: Path) -> None:
    path = made(tmp_path / "a", 0, 1.0)
    lines = [{"update": 60, "test": {"items": 50, "final": 1.0}}, {"update": 80, "test": {"items": 50, "final": 0.9}}]
    whole = {"items": 100, "final": 2.0}

    def of(last: dict[str, Any]) -> RunComparison:
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*lines, last]))
        return compare([tmp_path])

    found = of({"update": 100, "test": whole, "subset": {"items": 50, "final": 0.72}, "end": True})
    assert found.variants[0].runs[0].curve[-1] == (100, 0.72)
    assert any("final on the test examples improved by toy2d 20 %" in note for note in found.notes)
    found = of({"update": 100, "test": whole, "end": True})
    assert found.variants[0].late_fall is None
    assert any("It is unknown whether the curves of toy2d have converged" in note for note in found.notes)
    del lines[:]
    found = of({"update": 100, "test": whole, "end": True})
    assert any("It is unknown whether" in note for note in found.notes)


def test_codes_of_a_search_are_compared_only_where_every_run_has_them(tmp_path: Path) -> None:
    pairs = [(lr, seed) for lr in (1e-3, 2e-3) for seed in (0, 1)]
    runs = [made(tmp_path / f"{lr}-{seed}", seed, 1.0, f"train.optimizer.lr={lr}") for lr, seed in pairs]
    usage = {"entropy_nats": 2.0, "used": 7}
    stages = [{"stage": s, "bits": 3.0 * s, "distortion": 0.5, **usage} for s in (1, 2, 3, 4)]
    asked = ComparisonRequest(search="beam:4")
    for index, run in enumerate(runs):
        with pytest.raises(VqtkError, match=f"{4 - index} of 4 runs were not evaluated") as refused:
            compare(runs, asked)
        assert f"vqtk eval {run} --search beam:4" in str(refused.value)
        found = {"search": "beam:4", "updates": 100, "is_subset": False, "test": {"final": 0.5 + index}}
        for wrong in ({"search": None}, {"updates": 50}, {"is_subset": True}, {}):
            (run / "eval.json").write_text(json.dumps({**found, "stages": stages, **wrong}))
            if wrong:
                with pytest.raises(VqtkError, match=re.escape(str(run))):
                    compare(runs, asked)
    compared = compare(runs, asked)
    assert [variant.result.mean for variant in compared.variants] == [1.0, 3.0]
    assert compared.to_json()["search"] == "beam:4"
    assert "All runs encoded the test examples with the search beam:4" in remarks(compared)[0]
    assert compare(runs).variants[0].result.mean == 1.0
    assert compare(runs).search is None
