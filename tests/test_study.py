"""Studies: the variants that they name, the terms that they train on, and the messages of those that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.running import vqtk_main
from vqtk.datasets import fixed_subset
from vqtk.errors import RecipeError
from vqtk.evaluate.profile import flops
from vqtk.recipe.build import build_dataset, build_model
from vqtk.recipe.recipe import load_recipe
from vqtk.runs.budget import training_flops
from vqtk.study.plan import Plan, plan
from vqtk.study.runner import try_out
from vqtk.study.study import Study, load_study
from vqtk.training.batches import Batches

RECIPES = Path(__file__).parent.parent / "recipes"
SHIPPED = sorted((RECIPES / "ablations").glob("*.yaml"))
GOOD = """\
name: tiny
base: base.yaml
axes:
  condition:
    scale: []
    film: ["model.condition=film"]
  all:
    low: []
    high: ["train.objective.all=0.1"]
seeds: [0, 1]
baseline: scale+low
equal: {updates: 30}
"""
BASE = """\
name: base
data: {name: toy2d, items: 64, test: 16, batch: 8}
model:
  stages: 2
  options: 4
  loss: mse
  refiner: {backbone: {name: mlp, widths: [8]}, head: {name: conv}}
train: {updates: 100}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)


def study(text: str = GOOD) -> Study:
    Path("study.yaml").write_text(text)
    return load_study(Path("study.yaml"))


def planned(text: str = GOOD, *, step_s: float = 1.0) -> Plan:
    return plan(study(text), Path("nowhere"), lambda recipe: step_s)


LAST = GOOD[GOOD.index("  all:") : GOOD.index("equal:")]
# What GOOD says, what stands there instead, and what the message has to hold.
WRONG = {
    "an axis without values": ("    scale: []\n    film: [\"model.condition=film\"]\n", "    {}\n",
        ["study.yaml:4: axes.condition: this axis has no values"]),
    "a baseline that is no variant": ("scale+low", "scale+lo",
        ["study.yaml:11: baseline: no variant is called 'scale+lo'. Did you mean 'scale+low'?", "film+high"]),
    "a baseline that is excluded": ("equal:", "exclude: [{all: low}]\nequal:",
        ["study.yaml:11: baseline: 'scale+low' is no variant", "'scale+high', 'film+high'"]),
    "nothing left": ("equal:", "exclude: [{all: low}, {all: high}]\nequal:",
        ["study.yaml:12: exclude: this takes out every variant"]),
    "a mapping for a metric": ("equal:", "metrics: [{name: final}]\nequal:",
        ["study.yaml:12: metrics.0: no metric is called {'name': 'final'}."]),
    "two variants of one recipe": ('["model.condition=film"]', "[model.condition=scale]",
        ["study.yaml:6: ", "'scale+low' and 'film+low' have the same recipe"]),
    "an override that matches nothing": ("model.condition=film", "model.conditon=film",
        ["study.yaml:6: axes.condition.film: override 'model.conditon=film': model.conditon: unknown key. Did you "
         "mean 'condition'?"]),
    "no seeds": ("seeds: [0, 1]\n", "", ["study.yaml:1: `seeds` is missing"]),
    "an empty list of seeds": ("[0, 1]", "[]", ["study.yaml:10: seeds: the list is empty; expected at least one"]),
    "a seed twice": ("[0, 1]", "[0, 1, 0]", ["study.yaml:10: seeds: the seed 0 is listed twice"]),
    "a budget of nothing": ("updates: 30", "updates: 0",
        ["study.yaml:12: equal.updates: expected a whole number ≥ 1, got 0."]),
    "a budget of no time": ("updates: 30", "time: 0s", ["study.yaml:12: equal.time: expected a duration", "'0s'"]),
    "a budget below one update": ("updates: 30", "items: 7", ["less than one update", "which takes 8 examples"]),
    "two budgets": ("updates: 30", "updates: 30, items: 240",
        ["study.yaml:12: equal: expected one budget, of updates, items, flops, time", "got updates, items."]),
    "an unknown key": ("seeds:", "sead: 3\nseeds:", ["study.yaml:10: sead: unknown key. Did you mean 'seeds'?"]),
    "an exclude that matches nothing": ("equal:", "exclude: [{condition: film}, {condition: film, all: low}]\nequal:",
        ["study.yaml:12: exclude.1: no variant has condition film, all low"]),
    "a base that is missing": ("base.yaml", "bass.yaml", ["study.yaml:2: base: there is no file bass.yaml. Did you"]),
    "an unknown metric": ("equal:", "metrics: [finale]\nequal:",
        ["study.yaml:12: metrics.0: no metric is called 'finale'. Did you mean 'final'?", "stages.S.distortion"]),
    "a stage that is not there": ("equal:", "metrics: [stages.3.distortion]\nequal:", ["is of stage 3", "has 2"]),
    "losses that differ": ('["model.condition=film"]', '["model.loss=gaussian"]',
        ["study.yaml: metrics: final, area: the variants' losses differ: mse (scale+low); gaussian (film+low).",
         "metrics: [distance]"]),
    "data that differ": ('["model.condition=film"]', '["data.density=spiral"]',
        ["the variants have different data: data.density is moons in 'scale+low' and spiral in 'film+low'."]),
    "a metric of other data": ("equal:", "metrics: [mse_pixels]\nequal:",
        ["study.yaml: metrics: mse_pixels is a metric of image data, and the data of 'scale+low' are points."]),
    "an override of what a study decides": ('["model.condition=film"]', '["seed=3"]',
        ["study.yaml:6: axes.condition.film: 'seed' is not for a variant to set: `seeds` decides it."]),
    "a range without a number": ("    low: []\n    high: [\"train.objective.all=0.1\"]\n",
        "    {log: [1e-4, 1e-2]}\n", ["study.yaml:7: axes.all: `n` is missing, as in {log: [1e-4, 1e-2], n: 5}."]),
    "a range upside down": ("    low: []\n    high: [\"train.objective.all=0.1\"]\n",
        "    {log: [1e-2, 1e-4], n: 5}\n", ["axes.all: expected numbers as {log: [1e-4, 1e-2], n: 5}"]),
    "an axis of numbers that is no path": (LAST, "  lr: [1e-3, 1e-2]\nseeds: [0, 1]\n",
        ["study.yaml:7: axes.lr: override 'lr=0.001': lr: unknown key. Did you mean 'train.optimizer.lr'?"]),
    "an axis of numbers that the study decides": (LAST, "  train.updates: [10, 20]\nseeds: [0, 1]\n",
        ["axes.train.updates: 'train.updates' is not for a variant to set: `equal` decides it."]),
    "too few seeds to start with": ("[0, 1]", "{start: 2, most: 9, until: 0.1}",
        ["study.yaml:10: seeds: expected at least 3 seeds to `start` with"]),
    "more random variants than there are": ("equal:", "cells: {random: 4}\nequal:",
        ["study.yaml:12: cells: there are 3 such variants only."]),
    "a random design in another word": ("equal:", "cells: {randomly: 4}\nequal:", ["cells: expected {random: 20}"]),
    "a margin of nothing": ("equal:", "within: 0\nequal:", ["study.yaml:12: within: expected"]),
    "a plugin that is missing": ("equal:", "plugins: [l1.py]\nequal:", ["study.yaml:12: plugins: there is no plugin"]),
    "cells in another word": ("equal:", "cells: grids\nequal:", ["study.yaml:12: cells:", "Did you mean 'grid'?"]),
    "a choice of no axis": ("equal:", "cells: [{al: low}]\nequal:", ["no axis is called 'al'. Did you mean 'all'?"]),
    "a choice of no value": ("equal:", "cells: [{all: lo}]\nequal:", ["has no value 'lo'. Did you mean 'low'?"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_study_that_is_wrong_is_told_where_and_why(case: str) -> None:
    there, instead, told = WRONG[case]
    assert there in GOOD
    with pytest.raises(RecipeError) as refused:
        planned(GOOD.replace(there, instead))
    assert "\n" not in str(refused.value)
    for fragment in told:
        assert fragment in str(refused.value)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(RecipeError, match="2 problems in the study"):
        study(GOOD.replace("[0, 1]", "[0, 0]").replace("base.yaml", "none.yaml"))


def test_a_missing_study_is_told_with_the_nearest() -> None:
    study()
    with pytest.raises(RecipeError, match=r"no such study\. Did you mean 'study\.yaml'"):
        load_study(Path("stud.yaml"))


def names(text: str) -> list[str]:
    return [variant.name for variant in planned(text).variants]


def test_a_grid_has_every_choice_and_one_at_a_time_the_neighbours_of_the_baseline() -> None:
    assert names(GOOD) == ["scale+low", "scale+high", "film+low", "film+high"]
    assert names(GOOD + "cells: one_at_a_time\n") == ["scale+low", "film+low", "scale+high"]
    assert names(GOOD + "cells: [{all: low}, {condition: film, all: high}]\n") == ["scale+low", "film+high"]
    assert names(GOOD + "exclude: [{condition: film, all: high}]\n") == ["scale+low", "scale+high", "film+low"]


def test_a_value_may_be_a_recipe_of_its_own() -> None:
    Path("other.yaml").write_text("extends: base.yaml\nname: other\nmodel: {condition: none}\n")
    variants = planned(GOOD.replace('["model.condition=film"]', "{recipe: other.yaml}")).variants
    assert variants[-1].recipe.plain()["model"]["condition"]["name"] == "none"
    assert variants[-1].recipe.plain()["train"]["objective"]["all"] == 0.1


def test_the_same_study_has_the_same_directories_and_another_recipe_another() -> None:
    paths = [run.path for run in planned().runs()]
    assert paths == [run.path for run in planned().runs()]
    assert len(set(paths)) == len(paths) == 8
    changed = [run.path for run in planned(GOOD.replace("updates: 30", "updates: 31")).runs()]
    assert not set(paths) & set(changed)


def updates(equal: str, **measured: float) -> list[int]:
    variants = planned(GOOD.replace("{updates: 30}", equal), **measured).variants
    return [variant.recipe.train.updates for variant in variants]


def test_equal_terms_come_to_updates() -> None:
    assert updates("{updates: 30}") == [30] * 4
    assert updates("{items: 250}") == [31] * 4
    assert updates("{time: 1m}", step_s=0.25) == [240] * 4
    assert planned(GOOD.replace("equal: {updates: 30}\n", "")).variants[0].recipe.train.updates == 100


def test_equal_operations_are_those_of_each_variant() -> None:
    text = GOOD.replace('["model.condition=film"]', '["model.stages=4"]').replace("updates: 30", "flops: 1e6")
    few, _, many, _ = planned(text).variants
    for variant in (few, many):
        each = training_flops(variant.recipe) * variant.recipe.examples_per_update
        assert variant.recipe.train.updates == int(1e6 // each)
    assert few.recipe.train.updates > 1.8 * many.recipe.train.updates


def test_training_takes_between_two_and_four_times_the_operations_of_encoding() -> None:
    recipe = load_recipe(RECIPES / "toy2d.yaml")
    assert 2 < training_flops(recipe) / flops(recipe)["encode"] < 4


def test_variants_of_one_seed_train_on_the_same_items_in_the_same_order_and_are_tested_on_the_same() -> None:
    scale, _, film, _ = planned().variants
    seen = []
    for recipe in (scale.at(0), film.at(0), film.at(1)):
        splits = build_dataset(recipe).load(Path())
        batches = Batches(recipe, build_model(recipe), splits.train)
        trained = torch.cat([item for _ in range(12) for item in next(batches)])
        seen.append((trained, fixed_subset(splits.test, 10, recipe.seed)))
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[1][0], seen[2][0])


def test_a_variant_whose_setting_is_not_used_is_told() -> None:
    text = GOOD.replace('["model.condition=film"]', '["model.segment=2"]')  # Of 2 stages: one segment, as without.
    told = [warning for _, _, warnings in try_out(planned(text)) for warning in warnings]
    assert len(told) == 2
    assert "the variant 'film+low' differs from 'scale+low' in settings of the model, but has the same one" in told[0]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_study_that_ships_can_be_resolved(path: Path) -> None:
    checked = plan(load_study(path), Path("nowhere"), lambda recipe: 1.0)
    assert len(checked.variants) > 2
    assert len(checked.study.seeds) >= 3
    assert checked.study.name == path.stem
    small = path.with_name(f"{path.stem.removesuffix('_small')}_small.yaml")
    assert small.is_file()


def test_the_codes_of_the_study_of_stages_and_options_are_of_equal_bits() -> None:
    checked = plan(load_study(RECIPES / "ablations" / "stages_options.yaml"), Path("nowhere"), lambda recipe: 1.0)
    assert {build_model(variant.recipe, device="meta").bits for variant in checked.variants} == {60}


def test_a_recipe_is_no_study_and_a_study_no_recipe() -> None:
    with pytest.raises(RecipeError, match=r"mnist\.yaml: this is a recipe, and a study was expected.*vqtk run"):
        load_study(RECIPES / "mnist.yaml")
    with pytest.raises(RecipeError, match=r"blocks\.yaml: this is a study; expected a recipe.*vqtk ablate"):
        load_recipe(RECIPES / "ablations" / "blocks.yaml")


def test_losses_may_differ_where_every_metric_is_shared_and_batches_may_differ_anyway() -> None:
    of_two = GOOD.replace('["model.condition=film"]', '["model.loss=gaussian"]')
    with pytest.raises(RecipeError, match="metrics: final: the variants' losses differ"):
        planned(of_two + "metrics: [distance, final]\n")
    assert len(planned(of_two + "metrics: [distance]\n").variants) == 4
    assert len(planned(GOOD.replace('["model.condition=film"]', '["data.batch=4"]')).variants) == 4


SWEEP = GOOD.replace('  all:\n    low: []\n    high: ["train.objective.all=0.1"]\n', "  train.optimizer.lr: {}\n")
SWEEP = SWEEP.replace("baseline: scale+low\n", "")


def swept(values: str, more: str = "") -> list[tuple[str, float]]:
    made = planned(SWEEP.replace("lr: {}", f"lr: {values}") + more).variants
    return [(one.name, one.recipe.plain()["train"]["optimizer"]["lr"]) for one in made if "scale" in one.name]


def test_numbers_are_swept_evenly_on_their_scale_or_as_they_are_listed() -> None:
    even = [10**-4, 10**-3.5, 10**-3, 10**-2.5, 10**-2]
    assert [lr for _, lr in swept("{log: [1e-4, 1e-2], n: 5}")] == pytest.approx(even, 1e-4)
    steps = [("scale+lr_0.001", 0.001), ("scale+lr_0.002", 0.002), ("scale+lr_0.003", 0.003)]
    assert swept("{linear: [0.001, 0.003], n: 3}") == steps
    assert swept("[1e-5, 0.5]") == [("scale+lr_1e-05", 1e-5), ("scale+lr_0.5", 0.5)]
    assert load_study(Path("study.yaml")).scales == {"train.optimizer.lr": "log"}


def test_whole_ends_give_whole_numbers_and_words_and_switches_are_listed_as_well() -> None:
    text = SWEEP.replace("train.optimizer.lr: {}", "model.stages: {log: [1, 8], n: 4}")
    assert [one.recipe.plain()["model"]["stages"] for one in planned(text).variants[:4]] == [1, 2, 4, 8]
    assert names(SWEEP.replace("train.optimizer.lr: {}", "model.refiner.zero_output: [false, true]"))[0].endswith(
        "False"
    )


def test_the_baseline_of_a_sweep_is_named_by_its_number() -> None:
    text = SWEEP.replace("lr: {}", "lr: {log: [1e-4, 1e-2], n: 3}")
    assert study(text + "baseline: {train.optimizer.lr: 1e-3}\n").baseline["train.optimizer.lr"] == "lr_0.001"
    assert study(text + "baseline: film+lr_0.01\n").baseline == {"condition": "film", "train.optimizer.lr": "lr_0.01"}


def test_random_variants_are_drawn_by_their_seed_beside_the_base() -> None:
    drawn = swept("{log: [1e-4, 1e-2]}", "cells: {random: 12, seed: 3}\n")
    assert drawn[0] == ("scale+base", 1e-3)
    assert drawn == swept("{log: [1e-4, 1e-2]}", "cells: {random: 12, seed: 3}\n")
    assert drawn != swept("{log: [1e-4, 1e-2]}", "cells: {random: 12, seed: 4}\n")
    assert all(1e-4 <= lr <= 1e-2 for _, lr in drawn)
    assert len(planned(Path("study.yaml").read_text()).variants) == 13


def test_a_study_names_plugins_for_all_of_its_recipes() -> None:
    Path("mine.py").write_text(
        "from vqtk.losses.mse import MSE\nfrom vqtk.registry import losses\n"
        "@losses.register('mine')\nclass Mine(MSE):\n    'A loss.'\n"
    )
    text = GOOD.replace('["model.condition=film"]', '["model.loss=mine"]')
    text += "plugins: [mine.py]\nmetrics: [distance]\n"
    variants = planned(text).variants
    assert [one.recipe.loss for one in variants] == ["mse", "mse", "mine", "mine"]
    assert variants[0].at(1).plugins[0].path.name == "mine.py"


def test_validate_tries_the_variants_of_a_study_with_overrides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study()
    assert vqtk_main(monkeypatch, "validate", "study.yaml", "base.yaml", "model.options=8") == 0
    told = capsys.readouterr().out
    assert "ok     study.yaml: film+high  " in told
    assert told.count("6 bits") == 5
    assert vqtk_main(monkeypatch, "validate", "study.yaml", "model.option=8") == 2
    assert "override 'model.option=8': model.option: unknown key. Did you mean 'options'?" in capsys.readouterr().out
