"""Damaged runs, weights and checkpoints, and wrong arguments: exit code 2, and one paragraph that says what to do."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.bad_recipes import GOOD
from tests.refusing import Refusing
from tests.running import vqtk_main, without_data
from vqtk.io.weights import load_weights

WEIGHTS = "run/checkpoints/update_00000002.safetensors"
STATE = "run/checkpoints/update_00000002.trainer.pt"
AGAIN = "Start the run again: vqtk run run/recipe.yaml."


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of two updates."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "good.yaml").write_text(GOOD)
    with pytest.MonkeyPatch.context() as patch:
        without_data(patch, folder)
        out = str(folder / "runs")
        assert vqtk_main(patch, "run", str(folder / "good.yaml"), "--out", out, "--device", "cpu") == 0
    (run,) = (folder / "runs" / "tiny").iterdir()
    return run


@pytest.fixture
def refusing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refusing:
    """The command line in a folder of its own, with a good recipe and a copy of the run in it."""
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(GOOD)
    Path("folder").mkdir()
    shutil.copytree(trained, "run")
    return Refusing(monkeypatch, capsys)


def change_recipe(old: str, new: str) -> Callable[[], None]:
    def change() -> None:
        text = Path("run/recipe.yaml").read_text()
        assert old in text
        Path("run/recipe.yaml").write_text(text.replace(old, new))

    return change


def write(path: str, content: bytes) -> Callable[[], None]:
    return lambda: Path(path).write_bytes(content) and None


def cut(path: str) -> Callable[[], None]:
    return lambda: os.truncate(path, 500)


def save(path: str, value: Any) -> Callable[[], None]:
    return lambda: torch.save(value, path)


def unchecked(state: Any) -> Callable[[], None]:
    """Another state, beside weights that carry no checksum of it."""

    def change() -> None:
        with safe_open(WEIGHTS, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(tensors, WEIGHTS, metadata(trainer_sha256=""))
        Path(STATE).write_bytes(state) if isinstance(state, bytes) else torch.save(state, STATE)

    return change


RUNS = {
    "no recipe": (lambda: Path("run/recipe.yaml").unlink(), "run: not a run directory: it needs a recipe.yaml and"),
    "wrong recipe": (change_recipe("stages: 2", "stages: two"), "run/recipe.yaml:5: model.stages: expected a whole"),
    "another recipe": (
        change_recipe("options: 4", "options: 8"),
        f"{WEIGHTS}: this checkpoint's recipe is not that of run/recipe.yaml: model.options was 4, and is now 8.",
        "Undo the change",
    ),
    "no manifest": (lambda: Path("run/manifest.json").unlink(), "run: not a run directory: it needs a recipe.yaml"),
    "cut manifest": (
        write("run/manifest.json", b'{"data'),
        "run/manifest.json: the manifest is damaged: not",
        AGAIN,
    ),
    "binary manifest": (
        write("run/manifest.json", b"\xff"),
        "run/manifest.json: the manifest is damaged: not",
        AGAIN,
    ),
    "other manifest": (write("run/manifest.json", b"[1]"), "the manifest is damaged: not a JSON object.", AGAIN),
    "empty manifest": (write("run/manifest.json", b"{}"), "the manifest is damaged: no `data`.", AGAIN),
    "cut weights": (cut(WEIGHTS), f"is damaged ({WEIGHTS}: not a complete safetensors file (Error", AGAIN),
    "no checkpoint": (
        lambda: shutil.rmtree("run/checkpoints"),
        "run: no checkpoint to resume from: the run stopped before its first one",
        AGAIN,
    ),
    "no state": (lambda: Path(STATE).unlink(), f"{STATE}: the trainer's state is missing).", AGAIN),
    "cut state": (cut(STATE), f"{STATE}: its checksum does not match its contents", AGAIN),
    "empty state": (write(STATE, b""), f"{STATE}: its checksum does not match its contents", AGAIN),
    "text as state": (write(STATE, b"hello"), f"{STATE}: its checksum does not match its contents", AGAIN),
    "other state": (save(STATE, {"a": 1}), f"{STATE}: its checksum does not match its contents", AGAIN),
    "state of nothing": (unchecked({"done": 1, "optimizer": {}}), f"{STATE}: not the state of this run's", AGAIN),
    "state that is none": (unchecked(b"hello"), f"{STATE}: not a trainer's state, or cut short", AGAIN),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_run_that_cannot_be_resumed_is_told(case: str, refusing: Refusing) -> None:
    damage, *told = RUNS[case]
    damage()
    refusing.tells("run", "--resume", "run", told=told)


def metadata(**changes: str) -> dict[str, str]:
    """The metadata of weights as the first version wrote them, without a checksum that would tell of any change."""
    with safe_open(WEIGHTS, "pt") as file:
        return {**file.metadata(), "format": "vqtk", **changes}


LOST = '[{"file": "p.py", "path": "/none/p.py", "sha256": "0"}]'


def with_options(count: int) -> str:
    recipe = json.loads(metadata()["recipe"])
    recipe["model"]["options"] = count
    return json.dumps(recipe)


MODELS = {
    "none": (
        "none",
        lambda: None,
        "none: no such run or weights file. Did you mean run? Expected a run directory",
    ),
    "folder": ("folder", lambda: None, "folder: not a run directory with a checkpoint", "Expected a path like runs/"),
    "folder of runs": (".", lambda: None, ".: not a run directory with a checkpoint", "Did you mean run? Expected"),
    "recipe": (
        "good.yaml",
        lambda: None,
        "good.yaml: this is a recipe, not a model.",
        "Train it first: vqtk run good.yaml.",
    ),
    "cut weights": ("run", cut(WEIGHTS), f"{WEIGHTS}: not a complete safetensors file", "file written by vqtk."),
    "empty weights": (WEIGHTS, write(WEIGHTS, b""), f"{WEIGHTS}: not a complete safetensors file"),
    "bare tensors": (
        WEIGHTS,
        lambda: save_file({"a": torch.zeros(2)}, WEIGHTS),
        f"{WEIGHTS}: this file holds no vqtk recipe",
        "vqtk import-original CKPT RECIPE --out FILE",
    ),
    "unreadable recipe": (
        WEIGHTS,
        lambda: save_file({"a": torch.zeros(2)}, WEIGHTS, metadata(recipe="[3]")),
        f"{WEIGHTS}: the recipe stored in this file cannot be read.",
    ),
    "other tensors": (
        WEIGHTS,
        lambda: save_file({"a": torch.zeros(2)}, WEIGHTS, metadata()),
        f"{WEIGHTS}: these are weights of another recipe: 'bias' is absent in the file and (4, 1, 28, 28)",
    ),
    "another recipe": (
        WEIGHTS,
        lambda: save_file({"bias": torch.zeros(4, 1, 28, 28)}, WEIGHTS, metadata(recipe=with_options(8))),
        "'bias' is (4, 1, 28, 28) in the file and (8, 1, 28, 28) in the model. Use the recipe that they",
    ),
    "lost plugin": (
        WEIGHTS,
        lambda: save_file({"a": torch.zeros(2)}, WEIGHTS, metadata(plugins=LOST)),
        f"{WEIGHTS}: these weights were trained with the plugin p.py, but are not in a run with a copy",
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_weights_that_cannot_be_used_are_told(case: str, refusing: Refusing) -> None:
    path, damage, *told = MODELS[case]
    damage()
    refusing.tells("sample", path, told=told)


class Harmful:
    """A pickle of it runs a command when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harmed",)


UNSAFE = "ckpt.pt: not a file of tensors that can be read without executing code"
ORIGINALS = {
    "a pickle": (write("ckpt.pt", pickle.dumps(Harmful())), UNSAFE, "a state dict (names to tensors) and nothing else"),
    "an object within": (save("ckpt.pt", {"a": Harmful()}), UNSAFE),
    "a module": (save("ckpt.pt", torch.nn.Linear(2, 2)), UNSAFE),
    "text": (write("ckpt.pt", b"hello"), UNSAFE),
    "empty": (write("ckpt.pt", b""), UNSAFE),
    "none": (lambda: None, "ckpt.pt: no such file. Expected a checkpoint of the original implementation."),
    "a list": (save("ckpt.pt", [1]), "ckpt.pt: expected a state dict, names to tensors; this holds a list."),
    "numbers": (save("ckpt.pt", {"a": 1}), "names to tensors and nothing else; here 'a' is of type int."),
    "no names": (save("ckpt.pt", {1: torch.zeros(1)}), "nothing else; here 1 is of type Tensor."),
    "no tensors": (save("ckpt.pt", {}), "ckpt.pt: the checkpoint has 0 tensors, the recipe's model 21."),
}


@pytest.mark.parametrize("case", ORIGINALS)
def test_a_file_that_is_no_original_checkpoint_is_told_and_not_executed(case: str, refusing: Refusing) -> None:
    make, *told = ORIGINALS[case]
    make()
    refusing.tells("import-original", "ckpt.pt", "good.yaml", "-o", "out.safetensors", told=told)
    assert not Path("harmed").exists()
    assert not Path("out.safetensors").exists()


def test_an_original_checkpoint_of_another_recipe_is_told(refusing: Refusing) -> None:
    model, _ = load_weights(Path(WEIGHTS))
    torch.save({f"layer.{index}": value for index, value in enumerate(model.state_dict().values())}, "ckpt.pt")
    arguments = ["import-original", "ckpt.pt", "good.yaml", "-o", "out.safetensors"]
    told = ["ckpt.pt: the checkpoint's 'layer.0' has shape (4, 1, 28, 28)", "'bias' of shape (8, 1, 28, 28)."]
    refusing.tells(*arguments, "model.options=8", told=told)
    told = [
        "ckpt.pt: the checkpoint's 'layer.10' has shape",
        "Expected the recipe that the checkpoint was trained with",
    ]
    refusing.tells(*arguments, "model.refiner.blocks=[]", told=told)
    refusing.tells(*arguments[:-1], "folder", told=["folder: the weights cannot be written", "Choose another path."])
    assert vqtk_main(refusing.monkeypatch, *arguments) == 0


ARGUMENTS = {
    "run good.yaml --device gpu": ["--device 'gpu': expected auto, cpu, cuda, cuda:N or mps."],
    "run good.yaml --budget soon": ["--budget 'soon': expected a duration such as 90s, 5m or 1h30m."],
    "run good.yaml --budget 0s": ["--budget '0s': expected more than zero time"],
    "run good.yaml --budget=": ["--budget '': expected a duration"],
    "run good.yaml --data-dir none": ["--data-dir is none, which is not a folder."],
    "run good.yaml --out good.yaml": ["good.yaml/tiny/", "the run directory cannot be written", "another with --out."],
    "run good.yaml --resume run": ["the recipe of a run is fixed, so 'good.yaml' cannot be used."],
    "run --resume run train.updates=3": ["the recipe of a run is fixed, so 'train.updates=3' cannot be used."],
    "run --resume run --budget 5m": ["the recipe of a run is fixed, so '--budget 5m' cannot be used."],
    "run --resume folder": ["folder: not a run directory: it needs a recipe.yaml and a manifest.json."],
    "run": ["vqtk run: expected a recipe", "or --resume or --like with a run directory."],
    "sample run --stages 9": ["--stages 9: this model has 2 stages."],
    "sample run -o folder": ["folder: the image cannot be written", "Choose another path with --out."],
    "proposals run --stage 3": ["--stage 3: this model has stages 1 to 2."],
    "proposals run --item 1000": ["--item 1000: the test split has examples 0 to 999."],
    "reconstruct run --item -1": ["--item -1: the test split has examples 0 to 999."],
    "eval run --data-dir good.yaml": ["--data-dir is good.yaml, which is not a folder."],
    "list blokc": ["there is no registry 'blokc'. Did you mean 'block'? Known: model, refiner, backbone"],
}


@pytest.mark.parametrize("command", ARGUMENTS)
def test_a_wrong_argument_is_told(command: str, refusing: Refusing) -> None:
    refusing.tells(*command.split(), told=ARGUMENTS[command])
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("smaple run", "vqtk: there is no command 'smaple'. Did you mean vqtk sample?"),
        ("train good.yaml", "vqtk: there is no command 'train'. Did you mean vqtk run?"),
        ("plugin nwe", "vqtk plugin: no such command 'nwe'. Did you mean 'new'? See vqtk plugin --help."),
        ("run good.yaml --buget 5m", "vqtk run: there is no option --buget. Did you mean --budget?"),
        ("run good.yaml --data photos", "vqtk run: there is no option --data. Did you mean --data-dir? See"),
        ("run good.yaml --output there", "Did you mean --out?"),
        ("sample run --output it.png", "Did you mean --out?"),
        ("run good.yaml --seed 1", "Settings of a recipe are given by their paths, without dashes: seed=1."),
        ("run good.yaml --lr 1e-3", "train.optimizer.lr=1e-3."),
        ("run good.yaml --lr=1e-3", "train.optimizer.lr=1e-3."),
        ("run good.yaml --epochs 3", "train.updates=…."),
        ("eval run --lr 1e-3", "vqtk eval: there is no option --lr. See vqtk eval --help."),
        ("show", "vqtk show: missing argument 'RECIPE'."),
        ("sample run --stages 0", "--stages"),
        ("import-original ckpt.pt good.yaml", "--out"),
        ("reconstruct run --search bean", "error: --search: no search is called 'bean'. Did you mean 'beam'?"),
    ],
)  # fmt: skip
def test_a_wrong_use_of_a_command_is_told_in_one_line(command: str, told: str, refusing: Refusing) -> None:
    refusing.tells(*command.split(), told=[told])


def test_damaged_mnist_files_are_told(refusing: Refusing) -> None:
    raw = Path("folder/MNIST/raw")
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(b"damaged")
    told = ["folder/MNIST/raw: train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte missing."]
    refusing.tells("eval", "run", "--data-dir", "folder", told=told)
    for name in ("train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(b"damaged")
    told = ["folder/MNIST/raw: the train files cannot be read as MNIST", "Delete the damaged ones"]
    refusing.tells("eval", "run", "--data-dir", "folder", told=told)
