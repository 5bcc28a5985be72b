"""The runs that `tests/soak.py` kills: small ones of every kind that keeps a state of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.parity import ROOT
from vqtk.io.weights import save_weights
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import from_plain

CONV = """
    backbone: {name: conv, layers: [{width: 4, stride: 2}, {width: 8, stride: 2}]}
    blocks: [{name: conv, width: 8, then: [condition, relu, {group: 4}]}]
    head: {name: conv, layers: [{width: 4, upsample: 2, repeat: 2}]}"""
DIGITS = "{name: mnist, batch: 8}"
TRAIN = """
  updates: 12
  schedule: {name: linear, final: 1e-4}
  evaluate_every: 4
  evaluate_items: 8
  final_items: 16
  picture_items: 2
  picture_minutes: 0.01
  checkpoint_minutes: 0.001"""
EPSILON = "  selector: {name: epsilon, epsilon: 0.3}\n"


def recipe(data: str, loss: str, refiner: str, *, model: str = "", train: str = "", plugin: str = "") -> str:
    """A recipe of 3 stages of 4 options; `model` and `train` are further lines of these."""
    plugins = f"plugins: [{ROOT / 'plugins' / plugin}]\n" if plugin else ""
    settings = f"  stages: 3\n  options: 4\n  loss: {loss}\n{model}"
    return f"name: it\n{plugins}data: {data}\nmodel:\n{settings}  refiner:{refiner}\ntrain:{TRAIN}{train}\n"


STUDENT = f"""name: it
data: {DIGITS}
model: {{name: distilled, stages: 3, options: 4, loss: mse, width: 8}}
train:{TRAIN}
  objective: {{name: distillation, teacher: TEACHER, data: 0.5, samples: 2.0}}
"""
TEXT = "\n    backbone: {name: conv, layers: [{width: 8, kernel: 1, then: [relu, positions]}]}" + (
    "\n    head: {name: conv, layers: [{width: 8, kernel: 1, then: [relu]}], kernel: 1}"
)
POINTS = "\n    backbone: {name: mlp, widths: [8]}\n    head: {name: conv}"
KINDS = {
    "recurrent": recipe(DIGITS, "mse", f"\n    name: recurrent\n    memory: 6{CONV}", plugin="recurrent.py"),
    "accumulated": recipe(DIGITS, "mse", CONV, model=EPSILON, train="\n  accumulate: 4\n  micro_batch: 5"),
    "text": recipe("{name: text, path: FOLDER/words.txt, length: 16, vocabulary: 20, batch: 8}", "categorical", TEXT),
    "voxels": recipe("{name: voxels, path: FOLDER/grids, size: 8, batch: 4}", "bernoulli", CONV),
    "distillation": STUDENT,
    "ddn": recipe(
        DIGITS, "mse", f"\n    name: ddn\n    channels: 4\n    pace: 2{CONV}",
        model=EPSILON, train="\n  objective: {choice: 1, all: 0}", plugin="ddn.py",
    ),
    "segments": recipe(
        DIGITS, "gaussian", CONV, model=f"  segment: 1\n{EPSILON}", train="\n  gradient_checkpointing: 1"
    ),
    "files": recipe("{name: image_folder, path: FOLDER/images, size: 8, batch: 4}", "mse", CONV),
    "compiled": recipe("{name: toy2d, items: 500, test: 50, batch: 16}", "mse", POINTS, train="\n  compile: inductor"),
    "study": recipe("{name: toy2d, items: 500, test: 50, batch: 16}", "mse", POINTS),
}  # fmt: skip
STUDY = """name: it
base: study_base.yaml
axes:
  condition: {scale: [], film: ["model.condition=film"]}
seeds: [0]
equal: {updates: 12}
"""


def write_kind(name: str, folder: Path) -> Path:
    """Write a kind's recipe, or study, and the data that it needs; return the file to run."""
    folder.mkdir(parents=True, exist_ok=True)
    text = KINDS[name].replace("FOLDER", str(folder))
    if "TEACHER" in text:
        text = text.replace("TEACHER", str(_teacher(folder)))
    if "words.txt" in text:
        words = np.random.default_rng(0).choice(["all", "the", "sea", "ran", "by"], 800)
        (folder / "words.txt").write_text(" ".join(words))
    if "/grids" in text:
        _write_grids(folder / "grids")
    if "/images" in text:
        _write_images(folder / "images")
    path = folder / ("study_base.yaml" if name == "study" else f"{name}.yaml")
    path.write_text(text)
    if name == "study":
        path = folder / "study.yaml"
        path.write_text(STUDY)
    return path


def _write_grids(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    drawn = np.random.default_rng(0)
    for index in range(40):
        np.savez(folder / f"{index:02}.npz", voxels=drawn.random((8, 8, 8)) < 0.3)


def _write_images(folder: Path) -> None:
    from tests.images import write_images

    write_images(folder, *(f"{index:02}.png" for index in range(40)), size=(8, 8))


def _teacher(folder: Path) -> Path:
    """Weights of a model of the student's codes that was not trained, moved away from zero."""
    path = folder / "teacher.safetensors"
    teacher = from_plain(_plain_teacher(), "teacher")
    model = build_model(teacher)
    with torch.no_grad():
        model.bias += 0.3 * torch.randn(model.bias.shape, generator=torch.Generator().manual_seed(0))
    save_weights(path, model, teacher)
    return path


def _plain_teacher() -> dict[str, object]:
    layers = [{"width": 4, "stride": 2}, {"width": 8, "stride": 2}]
    head = {"name": "conv", "layers": [{"width": 4, "upsample": 2, "repeat": 2}]}
    refiner = {"backbone": {"name": "conv", "layers": layers}, "head": head}
    model = {"stages": 3, "options": 4, "loss": "mse", "refiner": refiner}
    return {"name": "teacher", "data": {"name": "mnist"}, "model": model, "train": {"updates": 1}}
