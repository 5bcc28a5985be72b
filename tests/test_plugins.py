"""Plugins: found where they are named and nowhere else, kept with the run, and missed aloud."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from tests.running import TINY, vqtk_main, without_data
from vqtk.errors import CheckpointError, RegistryError, VqtkWarning
from vqtk.io.weights import load_weights, weights_of
from vqtk.plugin.loading import hash_of, load_plugin, loaded_plugins, use_plugins
from vqtk.recipe.recipe import load_recipe
from vqtk.registry import blocks, conditions

SHIFT = '''\
"""A condition of our own."""

import torch
from torch import Tensor, nn

from vqtk.registry import conditions


@conditions.register("{name}", staged=True)
class Shift(nn.Module):
    """Channels shifted by a learned vector of the stage."""

    def __init__(self, width: int, stages: int, *, start: float = {start}):
        super().__init__()
        self.shifts = nn.Parameter(torch.full((stages, width), start))

    def forward(self, features: Tensor, stage: int) -> Tensor:
        """Shift."""
        return features + self.shifts[stage].reshape(-1, *[1] * (features.dim() - 2))
'''


def shift(name: str = "shift", start: float = 0.0) -> str:
    return SHIFT.format(name=name, start=start)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a plugin and a recipe that names it."""
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("parts").mkdir()
    Path("parts/shift.py").write_text(shift())
    Path("tiny.yaml").write_text(TINY)
    Path("shifted.yaml").write_text(
        "extends: tiny.yaml\nplugins: [parts/shift.py]\nname: shifted\nmodel: {condition: shift}\n"
    )
    return tmp_path


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of the recipe that names the plugin."""
    assert vqtk_main(monkeypatch, "run", "shifted.yaml", "train.updates=1", "--device", "cpu") == 0
    (path,) = (place / "runs" / "shifted").iterdir()
    return path


def test_a_plugins_components_are_there_only_for_what_names_it() -> None:
    assert load_recipe("shifted.yaml").model.settings["condition"].entry.name == "shift"
    assert "shift" not in conditions.entries()
    with pytest.raises(Exception, match="no condition is called 'shift'"):
        load_recipe("tiny.yaml", ["model.condition=shift"])


def test_a_file_in_the_working_directory_is_not_imported_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("vqtk_shift.py").write_text("raise SystemExit('imported')")
    Path("conditions.py").write_text("raise SystemExit('imported')")
    assert vqtk_main(monkeypatch, "list", "condition") == 0


def test_an_edited_plugin_is_loaded_anew_and_one_of_the_same_content_is_the_same() -> None:
    first = load_plugin(Path("parts/shift.py"))
    shutil.copy("parts/shift.py", "copy.py")
    assert load_plugin(Path("copy.py")).entries == first.entries
    Path("parts/shift.py").write_text(shift(start=1.0))
    second = load_plugin(Path("parts/shift.py"))
    assert second.sha256 != first.sha256
    with (
        loaded_plugins([Path("copy.py")]),
        pytest.raises(RegistryError, match=r"'shift' is registered twice: .* and .*"),
    ):
        load_plugin(Path("parts/shift.py"))


def test_a_plugin_on_the_command_line_is_recorded_with_the_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vqtk_main(monkeypatch, "run", "tiny.yaml", "model.condition=shift", "--plugin", "parts/shift.py") == 0
    (path,) = (place / "runs" / "tiny").iterdir()
    assert (path / "plugins/shift.py").read_text() == shift()
    assert json.loads((path / "manifest.json").read_text())["plugins"][0]["path"] == str(place / "parts/shift.py")


def test_a_plugin_on_the_command_line_is_listed_with_its_origin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vqtk_main(monkeypatch, "list", "condition", "--plugin", "parts/shift.py") == 0
    told = capsys.readouterr().out
    assert "Channels shifted by a learned vector of the stage." in told
    assert "start: a number (default 0.0)" in told
    assert "parts/shift.py:9" in told
    assert "shift" not in conditions.entries()


def test_a_run_loads_with_its_own_copy_when_the_plugin_has_changed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("parts/shift.py").write_text("raise RuntimeError")
    model, recipe = load_weights(weights_of(run))
    assert [plugin.path for plugin in recipe.plugins]
    assert type(model.refiners[0].backbone.layers.layers[0].layers[1].module).__name__ == "Shift"
    assert vqtk_main(monkeypatch, "sample", run) == 0
    Path("parts/shift.py").unlink()
    run.rename("moved")
    load_weights(weights_of(Path("moved")))


EVIL = "from pathlib import Path\nPath(__file__).with_name('EXECUTED').touch()\n"


def test_a_copy_that_was_changed_is_refused_and_not_imported(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "plugins/shift.py").write_text(EVIL)
    with pytest.raises(CheckpointError, match=r"shift\.py is not the plugin that .* records .*not imported"):
        load_weights(weights_of(run))
    for command in (["sample", run], ["run", "--resume", run], ["eval", run]):
        assert vqtk_main(monkeypatch, *command) == 2
    assert not list(Path().rglob("EXECUTED"))


@pytest.mark.parametrize("name", ["{absolute}", "../evil/evil.py", "evil.py", "..", "", "a/b.py"])
@pytest.mark.parametrize("right_hash", [True, False], ids=["right hash", "wrong hash"])
def test_weights_import_nothing_that_they_name(
    name: str, right_hash: bool, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("evil", "checkpoints"):
        Path(folder).mkdir()
    evil = Path("evil/evil.py")
    for copy in (evil, Path("evil.py"), Path("checkpoints/evil.py"), Path("parts/evil.py")):
        copy.write_text(EVIL)
    record = {
        "file": name.format(absolute=evil.resolve()),
        "path": str(evil.resolve()),
        "sha256": hash_of(evil) if right_hash else "0" * 64,
    }
    source = weights_of(run)
    with safe_open(source, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for place in (Path("alone.safetensors"), Path("checkpoints/update_00000001.safetensors")):
        save_file(tensors, place, metadata={**metadata, "plugins": json.dumps([record])})
        assert vqtk_main(monkeypatch, "sample", place) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert len(told.splitlines()) == 1
    assert not list(Path().rglob("EXECUTED"))


@pytest.mark.parametrize("plugins", ["[1]", '[{"file": 3}]', "[{}]", '"shift.py"', '[{"file": "shift.py"}]'])
def test_what_weights_say_of_plugins_has_a_form(plugins: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = weights_of(run)
    with safe_open(source, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, "it.safetensors", metadata={**metadata, "plugins": plugins})
    assert vqtk_main(monkeypatch, "sample", "it.safetensors") == 2


def test_a_stopped_run_with_a_plugin_is_resumed_and_says_if_it_has_changed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert vqtk_main(monkeypatch, "run", "--resume", run) == 0
    assert "warning" not in capsys.readouterr().err
    Path("parts/shift.py").write_text(shift(start=2.0))
    assert vqtk_main(monkeypatch, "run", "--resume", run) == 0
    assert "has changed since this run was started; using the run's copy" in capsys.readouterr().err


def test_weights_alone_need_their_plugin_given(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vqtk_main(monkeypatch, "export", run, "-o", "alone.safetensors") == 0
    with pytest.raises(CheckpointError, match=r"trained with the plugin shift\.py, .* load it with --plugin shift\.py"):
        load_weights(Path("alone.safetensors"))
    with use_plugins([Path("parts/shift.py")]):
        load_weights(Path("alone.safetensors"))
    Path("parts/shift.py").write_text(shift(start=2.0))
    with use_plugins([Path("parts/shift.py")]), pytest.warns(VqtkWarning, match="is not the plugin that alone"):
        load_weights(Path("alone.safetensors"))


PACKAGE = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "vqtk_parts"
version = "1.2"
[project.entry-points."vqtk.plugins"]
shifting = "vqtk_shifting"
broken = "vqtk_broken"
[tool.setuptools]
py-modules = ["vqtk_shifting", "vqtk_broken"]
"""
FRESH = """\
import site, sys
site.addsitedir("site")
import vqtk.cli
for arguments in (["list", "condition"], ["validate", "tiny.yaml"]):
    sys.argv = ["vqtk", *arguments]
    try:
        vqtk.cli.main()
    except SystemExit as end:
        print("ended with", end.code)
"""


@pytest.mark.thorough
def test_an_installed_package_is_found_by_a_fresh_process_and_a_broken_part_is_named(place: Path) -> None:
    package = place / "package"
    package.mkdir()
    (package / "pyproject.toml").write_text(PACKAGE)
    (package / "vqtk_shifting.py").write_text(shift("installed_shift"))
    (package / "vqtk_broken.py").write_text("import nowhere_to_be_found\n")
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    subprocess.run([sys.executable, *install, place / "site", package], check=True, capture_output=True)
    Path("tiny.yaml").write_text(TINY.replace("  loss: mse", "  loss: mse\n  condition: instaled_shift"))
    told = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, cwd=place).stdout
    listed, refused = told[: told.index("ended with")], told[told.index("ended with") :]
    assert "installed_shift\n  Channels shifted by a learned vector of the stage." in listed
    assert "broken: broken, of the installed package vqtk_parts 1.2: ModuleNotFoundError" in listed
    assert "Did you mean 'installed_shift'?" in refused
    assert "The package vqtk_parts 1.2 may provide it but cannot be imported" in refused
    assert refused.endswith("ended with 2\n")


def test_a_block_that_is_there_twice_is_told_with_both_places() -> None:
    source = "from vqtk.registry import blocks\n@blocks.register('{}')\nclass Mine:\n    'Mine.'\n"
    source += "    def __init__(self, in_width, size, stages): ...\n"
    Path("one.py").write_text(source.format("same"))
    Path("two.py").write_text("# Another.\n" + source.format("same"))
    Path("twice.yaml").write_text("plugins: [one.py, two.py]\n" + TINY)
    with pytest.raises(RegistryError, match=r"'same' is registered twice: .*one\.py:2 and .*two\.py:3"):
        load_recipe("twice.yaml")
    Path("conv.py").write_text(source.format("conv"))
    with pytest.raises(RegistryError, match=r"'conv' is registered twice: .*blocks/conv\.py:\d+ and .*conv\.py:2"):
        load_plugin(Path("conv.py"))
    assert "Mine" not in blocks.entries()["conv"].component.__name__
