"""Studies whose runs depend on results: seeds that are added, variants that optuna proposes, runs that are pruned."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import ceil, log10
from pathlib import Path
from statistics import stdev

import pytest
from scipy import stats

from tests.test_ablate import CPU
from vqtk.compare.comparison import ComparisonRequest, compare, write_comparison
from vqtk.compare.tables import as_markdown, as_tex, remarks
from vqtk.study.adaptive import extended
from vqtk.study.plan import Plan, PlannedRun, plan, write_plan
from vqtk.study.state import State, write_state
from vqtk.study.study import load_study
from vqtk.study.worker import LIMITS, Following, train_run

TOY = Path(__file__).parent.parent / "recipes" / "toy2d.yaml"
STUDY = """\
name: tiny
base: {toy}
overrides: [data.items=500, data.test=50, data.batch=16, train.evaluate_items=20, train.evaluate_every=5]
axes: {{train.optimizer.lr: {{log: [1e-4, 1e-1]}}}}
seeds: [0, 1, 2]
equal: {{updates: 20}}
metrics: [final]
"""
Reached = Callable[[PlannedRun], float]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def finish(run: PlannedRun, folder: Path, value: float) -> None:
    """Write what a run leaves that reaches a value, twice that after 10 of its 20 updates."""
    path = folder / run.path
    data = {"train_items": 500, "test_items": 50, "sha256": "ab" * 32}
    facts = {"parameters": 10, "bits_per_item": 12.0, "options": 8, "kind": "points", "data": data}
    (path / "manifest.json").write_text(json.dumps(facts))
    rows = [{"update": at, "test": {"items": 20, "final": by * value}} for at, by in ((5, 4), (10, 2))]
    rows += [{"update": 20, "test": {"items": 20, "final": value}, "end": True}]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    usage = {"entropy_nats": 2.0, "used": 7}
    stages = [{"stage": s, "bits": 3.0 * s, "distortion": value * (5 - s), **usage} for s in (1, 2)]
    test = {"items": 50, "final": value}
    summary = {"updates": 20, "train_s": 5.0, "peak_memory_mb": 4, "test_items": 50, "test": test, "stages": stages}
    (path / "summary.json").write_text(json.dumps(summary))
    write_state(path, State("done"))


def finished(text: str, reached: Reached, folder: Path = Path("tiny")) -> list[Plan]:
    """Do a study by writing what each run reaches; return its plans in order."""
    Path("study.yaml").write_text(text)
    made: Plan | None = plan(load_study(Path("study.yaml")), folder, lambda recipe: 1.0)
    plans = []
    while made:
        plans.append(made)
        write_plan(made, folder)
        for run in made.runs():
            if not (folder / run.path / "summary.json").exists():
                finish(run, folder, reached(run))
        made = extended(made, folder, lambda recipe: 1.0)
    return plans


def lr_of(run: PlannedRun) -> float:
    return run.variant.recipe.plain()["train"]["optimizer"]["lr"]


def noisy(run: PlannedRun) -> float:
    """A value that the seed shifts, and a deviation that differs between variants."""
    return 1 + 0.1 * run.seed + lr_of(run) * 10 * (-1) ** run.seed


def test_seeds_are_added_to_each_variant_by_its_deviation_over_the_first_ones() -> None:
    text = STUDY.format(toy=TOY).replace("{log: [1e-4, 1e-1]}", "[1e-3, 2e-3, 9e-2]")
    first, second = finished(text.replace("[0, 1, 2]", "{start: 4, most: 12, until: 0.02}"), noisy)
    assert {run.seed for run in first.runs()} == {0, 1, 2, 3}
    counts = {variant.name: len(second.seeds[variant.name]) for variant in second.variants}
    for name, lr in (("lr_0.002", 2e-3), ("lr_0.09", 9e-2)):
        deviation = stdev([(lr - 1e-3) * 10 * (-1) ** seed for seed in range(4)])
        needed = ceil((stats.t(3).ppf(0.975) * deviation / 0.02) ** 2)
        assert counts[name] == min(12, max(4, needed))
    assert counts["lr_0.001"] == max(counts.values()) == 12
    found = compare([Path("tiny")])
    near, far = (row.difference for row in found.variants[1:])
    assert near.high - near.low <= 0.04
    assert far.high - far.low > 0.04
    (note,) = [note for note in found.notes if "two-stage" in note]
    assert "first 4 seeds alone" in note
    assert "The intervals of lr_0.09 are wider still, at the most seeds of 12." in note


def test_a_variant_within_the_margin_is_as_good_and_one_beyond_it_is_not_shown_to_be() -> None:
    text = STUDY.format(toy=TOY).replace("{log: [1e-4, 1e-1]}", "[1e-3, 2e-3, 9e-2]") + "within: 0.1\n"
    finished(text, noisy)
    found = write_comparison(Path("tiny"))
    near, far = found.variants[1:]
    assert (near.difference.equivalent, near.difference.verdict) == (True, "equivalent (±0.1)")
    assert (far.difference.equivalent, far.difference.verdict) == (False, "within the noise")
    assert "Equivalence within ±0.1 is shown (corrected p" in found.verdicts[0]
    assert "Equivalence within ±0.1 is not shown (corrected p" in found.verdicts[1]
    assert "| p (equivalence, ±0.1) |" in as_markdown(found)
    assert r"\begin{tabular}{lrrrrr}" in as_tex(found)
    page = Path("tiny/report.html").read_text()
    assert "two one-sided tests" in page
    assert "train.optimizer.lr" in page
    assert found.sweeps["train.optimizer.lr"].numbers == {"lr_0.001": 1e-3, "lr_0.002": 2e-3, "lr_0.09": 9e-2}
    assert any("lr_0.001, the smallest number tried for train.optimizer.lr" in note for note in found.notes)
    assert compare([Path("tiny")], ComparisonRequest(metric="area")).within is None
    assert compare([Path("tiny")], ComparisonRequest(within=1e-9)).variants[1].difference.equivalent is False


def test_optuna_proposes_variants_by_the_results_before_them_and_the_same_ones_again() -> None:
    pytest.importorskip("optuna", reason="optuna is an extra")

    def reached(run: PlannedRun) -> float:
        return (log10(lr_of(run)) + 2.5) ** 2 + 0.01 * run.seed

    text = STUDY.format(toy=TOY).replace("[0, 1, 2]", "[0]") + "cells: {optuna: 8, seed: 1, batch: 4}\n"
    plans, again, other = finished(text, reached), finished(text, reached, Path("b")), finished(text, lr_of, Path("c"))
    assert [len(made.variants) for made in plans] == [1, 5, 9]
    rates, same, others = ([lr_of(run) for run in each[-1].runs()] for each in (plans, again, other))
    assert rates[0] == 0.01
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert rates == same
    assert rates[:5] == others[:5]
    assert rates[5:] != others[5:]


def test_a_hopeless_run_is_pruned_and_its_variant_is_in_no_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna", reason="optuna is an extra")
    monkeypatch.setattr("vqtk.runs.train.write_report", lambda path: None)
    monkeypatch.setattr("vqtk.runs.experiment.write_all", lambda *_: [])
    text, folder = STUDY.format(toy=TOY).replace("[0, 1, 2]", "[0, 1]"), Path("tiny")
    plans = finished(text + "cells: {optuna: 5, batch: 4, prune: true}\n", lambda run: 2.0**-30 * (1 + run.seed))
    hopeless = next(run for run in plans[-1].runs() if run.variant.name in plans[-1].newest)
    path = folder / hopeless.path
    limits = json.loads((path / LIMITS).read_text())["limits"]
    assert limits == {"5": 4 * 2.0**-30, "10": 2 * 2.0**-30}
    for file in ("manifest.json", "metrics.jsonl", "summary.json"):
        (path / file).unlink()
    write_state(path, State())
    state = train_run(path, CPU)
    assert state.state == "pruned"
    assert "the median of earlier runs with this seed was 3.725e-09." in str(state.error)
    assert not (path / "summary.json").exists()
    found = compare([folder])
    assert hopeless.variant.name not in [row.name for row in found.variants]
    assert {one.path.parent.name for one in found.left_out} == {hopeless.path.parent.name}
    assert any("pruned: another run of its variant was." in line for line in remarks(found))
    assert any("Hopeless runs were pruned" in note for note in found.notes)


def test_a_run_is_pruned_by_its_best_value_in_the_direction_of_its_metric() -> None:
    following = Following()
    following.limits = {"metric": {"name": "used", "better": "higher"}, "limits": {"20": 5.0, "30": 7.0}}
    for update, used in ((10, 6.0), (20, 4.0)):
        following.on_evaluation(update, {"used": used})
        assert not following.stop
    following.on_evaluation(30, {"used": 6.5})
    assert following.stop
    assert "used was 6.5 at best after 30 updates" in str(following.pruned)
