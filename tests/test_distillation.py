"""The distilled model and its objective, compared with the textbook's words for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tests.contracts import VQDRAW, draw
from tests.tiny import few, shipped
from vqtk.datasets._base import Splits
from vqtk.errors import RecipeError, VqtkError
from vqtk.io.weights import load_weights, save_weights
from vqtk.models.distilled import Distilled
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import Recipe, from_plain, load_recipe
from vqtk.runs.directory import RunDirectory
from vqtk.runs.experiment import Experiment
from vqtk.runs.train import run_experiment
from vqtk.training.loop import Trainer

RECIPES = Path(__file__).parent.parent / "recipes"
STUDENT = {"name": "distilled", "stages": 4, "options": 4, "loss": "mse", "width": 8}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an untrained VQ-DRAW for digits, 4 stages of 4 options, moved away from zero."""
    recipe = from_plain(
        {"name": "teacher", "data": {"name": "mnist"}, "model": VQDRAW, "train": {"updates": 1}}, "teacher"
    )
    model = build_model(recipe)
    with torch.no_grad():
        model.bias += 0.3 * draw(*model.bias.shape).float()
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_weights(path, model, recipe)
    return path


def student_recipe(teacher: Path, **model: object) -> Recipe:
    objective = {"name": "distillation", "teacher": str(teacher), "data": 0.5, "samples": 2.0}
    values = {
        "name": "student",
        "data": {"name": "mnist", "batch": 8},
        "model": {**STUDENT, **model},
        "train": {"updates": 6, "objective": objective, "evaluate_every": 3, "evaluate_items": 10},
    }
    return from_plain(values, "student")


def test_it_has_the_originals_parameters() -> None:
    model = build_model(load_recipe(RECIPES / "mnist_distill.yaml"), device="meta")
    assert sum(p.numel() for p in model.parameters()) == 1_770_561


def test_codes_are_predicted_one_after_another(teacher: Path) -> None:
    model = build_model(student_recipe(teacher), dtype=torch.float64)
    features, codes = draw(3, 8), torch.tensor([[0, 1, 2, 3], [3, 3, 0, 1], [2, 0, 1, 1]])
    logits = model.codes.logits(features, codes)
    state, entering = model.codes.initial.repeat(1, 3, 1), features
    for stage in range(4):
        hidden, state = model.codes.gru(entering[:, None], state)
        torch.testing.assert_close(logits[:, stage], model.codes.output(hidden[:, 0]))
        entering = features + model.codes.embedding.weight[codes[:, stage]]
    nats = model.codes.nats(features, codes)
    for item in range(3):
        for stage in range(4):
            expected = -logits[item, stage].log_softmax(0)[codes[item, stage]]
            torch.testing.assert_close(nats[item, stage], expected)


@pytest.mark.parametrize("kind", ["autoregressive", "independent"])
def test_encoding_takes_the_likeliest_code_given_those_before(kind: str, teacher: Path) -> None:
    model = build_model(student_recipe(teacher, codes=kind), dtype=torch.float64)
    target = draw(5, 1, 28, 28)
    codes = model.encode(target)
    logits = model.codes.logits(model.encoder(target), codes)
    assert codes.shape == (5, 4)
    assert torch.equal(codes, logits.argmax(2))


def test_decoding_starts_from_one_hot_codes_scaled(teacher: Path) -> None:
    model = build_model(student_recipe(teacher), dtype=torch.float64)
    codes = torch.tensor([[0, 1, 2, 3]])
    one_hot = torch.zeros(1, 16, dtype=torch.float64)
    for stage, code in enumerate(codes[0].tolist()):
        one_hot[0, 4 * stage + code] = 4.0  # √(4 stages · 4 options)
    torch.testing.assert_close(model.decode(codes), model.decoder(one_hot))


def test_the_loss_is_that_of_codes_and_decodings_on_data_and_on_samples(teacher: Path) -> None:
    recipe = student_recipe(teacher)
    student: Distilled = build_model(recipe)
    trainer = Trainer(recipe, student)
    batch, random = draw(8, 1, 28, 28).float(), torch.randint(4, (8, 4), generator=torch.Generator().manual_seed(1))
    passed = trainer.objective(batch, draws=random, recompute=0)
    original, _ = load_weights(teacher)
    codes = original.encode(batch)
    taught, samples = original.decode(codes).detach(), original.decode(random).detach()
    pairs = {"": (batch, codes, taught), "sample_": (samples, random, samples)}
    expected = {}
    for which, (inputs, code, decoded) in pairs.items():
        expected[f"{which}encoder"] = student.code_nats(inputs, code).mean()
        expected[f"{which}decoder"] = F.mse_loss(student.decode(code), decoded)
        expected[f"{which}end_to_end"] = F.mse_loss(student.decode(student.encode(inputs)), inputs)
    for key, value in expected.items():
        torch.testing.assert_close(passed.terms[key], value, msg=key)
    on_data, on_samples = (expected[f"{which}encoder"] + expected[f"{which}decoder"] for which in ("", "sample_"))
    torch.testing.assert_close(passed.loss, 0.5 * on_data + 2.0 * on_samples)
    passed.loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in student.parameters())
    assert all(p.grad is None for p in trainer.objective.teacher.parameters())


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return few(shipped(tmp_path_factory.mktemp("home")))


def experiment(teacher: Path, digits: Splits, stop: int | None = None) -> Experiment:
    from tests.tiny import Watching

    callbacks = [Watching(stop)]
    return Experiment.of(
        student_recipe(teacher), data_root=Path(), device=torch.device("cpu"), callbacks=callbacks, splits=digits
    )


def test_a_run_is_the_same_when_it_is_stopped_and_resumed(teacher: Path, digits: Splits, tmp_path: Path) -> None:
    states = []
    for stop in (None, 4):
        it = experiment(teacher, digits, stop)
        directory = RunDirectory.create(tmp_path / str(stop), it.recipe)
        directory.write_manifest(it.manifest())
        finished = run_experiment(it, directory)
        if not finished:
            it = experiment(teacher, digits)
            directory.restore(it.trainer)
            assert run_experiment(it, directory)
        states.append(it.trainer.model.state_dict())
        last = [row for row in _rows(directory) if "test" in row][-1]["test"]
        assert {"final", "encoder", "decoder", "agreement", "teacher"} <= set(last)
        assert (directory.path / "images" / "reconstructions_00000006.png").is_file()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def _rows(directory: RunDirectory) -> list[dict[str, dict[str, float]]]:
    import json

    return [json.loads(line) for line in (directory.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("model", "objective", "told"),
    [
        ({**STUDENT, "stages": 3}, {}, "the student has 3 stages, and its teacher"),
        (STUDENT, {"teacher": "mnits"}, "mnits: no such run or weights file"),
        (VQDRAW, {}, "VQDraw cannot be the student of a distillation"),
        (STUDENT, {"name": "stages", "teacher": None}, "the objective `stages` does not fit Distilled"),
    ],
)
def test_what_does_not_fit_is_told(
    model: dict[str, object], objective: dict[str, object], told: str, teacher: Path
) -> None:
    spec = {"name": "distillation", "teacher": str(teacher), **objective}
    spec = {key: value for key, value in spec.items() if value is not None}
    values = {
        "name": "it", "data": {"name": "mnist"}, "model": model, "train": {"updates": 1, "objective": spec},
    }  # fmt: skip
    recipe = from_plain(values, "it.yaml")
    with pytest.raises(RecipeError, match=told):
        Trainer(recipe, build_model(recipe))


def test_prefixes_are_refused(teacher: Path) -> None:
    model = build_model(student_recipe(teacher))
    with pytest.raises(VqtkError, match="only whole codes of 4 stages"):
        model.decode(torch.zeros(1, 3, dtype=torch.int64))
