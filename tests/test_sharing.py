"""Models in other forms and places: graphs for other programs, bundles, and the hub; none runs a stranger's code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import vqtk
from tests.hub import TOKEN, Hub, hub_here
from tests.running import TINY, vqtk_main, without_data
from tests.tiny import shipped
from vqtk.errors import CheckpointError, VqtkError
from vqtk.io import hub as hub_module
from vqtk.io.bundle import write_bundle
from vqtk.io.exported import export_graphs
from vqtk.io.hub import hub_name
from vqtk.io.weights import run_of, save_weights, weights_of
from vqtk.plugin.loading import use_plugins
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import load_recipe

LOSS = """\
from pathlib import Path

from vqtk.losses import Loss
from vqtk.registry import losses

Path("EXECUTED").touch()


@losses.register("half_mse")
class HalfMSE(Loss):
    \"\"\"Half the MSE.\"\"\"

    def __init__(self, data):
        super().__init__(data, shape=data.shape, channels=1, out_channels=1, size=data.shape[1:])

    def forward(self, proposals, target):
        return (proposals - target[:, None]).square().flatten(2).mean(2) / 2
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def weights(place: Path) -> Path:
    (place / "tiny.yaml").write_text(TINY)
    recipe = load_recipe(place / "tiny.yaml", ["model.stages=2"])
    save_weights(place / "tiny.safetensors", build_model(recipe), recipe, update=3)
    return place / "tiny.safetensors"


@pytest.fixture
def with_plugin(place: Path) -> Path:
    """Weights with a loss of a plugin, which leaves a file wherever it is imported."""
    (place / "half_mse.py").write_text(LOSS + f"# {place}\n")  # Another content is imported again.
    (place / "mine.yaml").write_text("plugins: [half_mse.py]\n" + TINY.replace("loss: mse", "loss: half_mse"))
    recipe = load_recipe(place / "mine.yaml")
    save_weights(place / "mine.safetensors", build_model(recipe), recipe)
    Path("EXECUTED").unlink()
    return place / "mine.safetensors"


@pytest.fixture
def hub(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub", reason="the extra vqtk[hub] is not installed")
    hub_module.fetched_weights.cache_clear()
    with hub_here(monkeypatch, place / "cache") as here:
        yield here


# ── graphs ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.thorough
def test_onnxruntime_encodes_and_decodes_digits_as_torch_does(weights: Path, place: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra vqtk[onnx] is not installed")
    pytest.importorskip("onnxscript", reason="the extra vqtk[onnx] is not installed")
    model = vqtk.load(weights)
    encode, decode = export_graphs(place / "graphs", model, load_recipe("tiny.yaml"), "onnx")
    sessions = [onnxruntime.InferenceSession(path) for path in (encode, decode)]
    digits = shipped(place).test
    for n in (1, 2, 150):
        target = model.data.normalise(digits[torch.arange(n)])
        (codes,) = sessions[0].run(["codes"], {"target": target.numpy()})
        (found,) = sessions[1].run(["reconstruction"], {"codes": codes})
        np.testing.assert_array_equal(codes, model.encode(target).numpy())
        np.testing.assert_allclose(found, model.decode(torch.from_numpy(codes)).detach().numpy(), atol=1e-5, rtol=1e-5)
    facts = json.loads(sessions[0].get_modelmeta().custom_metadata_map["vqtk.json"])
    assert (facts["shape"], facts["stages"], facts["options"]) == ([1, 28, 28], 2, 4)
    assert facts["mean"] == pytest.approx(0.1307)


def test_a_program_of_torch_takes_any_number_of_digits(
    weights: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vqtk_main(monkeypatch, "export", weights, "-o", "graphs", "--format", "torch", "--half") == 2
    assert "Leave out --half" in capsys.readouterr().err
    assert vqtk_main(monkeypatch, "export", weights, "-o", "graphs", "--format", "torch", "--json") == 0
    out, err = capsys.readouterr()
    assert list(json.loads(out)["files"]) == ["graphs/encode.pt2", "graphs/decode.pt2"]
    assert "graphs/encode.pt2: tracing the encoding pass …" in err
    assert "graphs/decode.pt2: compared with the model on 1 and 5 examples: reconstructions differ by at most " in err
    model = vqtk.load(weights)
    encode, decode = (torch.export.load(f"graphs/{name}.pt2").module() for name in ("encode", "decode"))
    for n in (1, 7):
        target = model.data.normalise(shipped(place).test[torch.arange(n)])
        codes = encode(target)
        assert torch.equal(codes, model.encode(target))
        torch.testing.assert_close(decode(codes), model.decode(codes), atol=1e-5, rtol=1e-5)


def test_a_component_that_reads_values_is_refused_in_words(with_plugin: Path, place: Path) -> None:
    source = LOSS.replace("        return", "        assert float(target.sum()) < 1e9\n        return")
    (place / "half_mse.py").write_text(source)
    model = build_model(load_recipe(place / "mine.yaml")).eval()
    with pytest.raises(VqtkError, match="this model cannot be written as a graph") as raised:
        export_graphs(place / "graphs", model, load_recipe(place / "mine.yaml"), "torch")
    assert "\n" not in str(raised.value)
    assert not list((place / "graphs").glob("*"))


# ── bundles ──────────────────────────────────────────────────────────────────────────────────────


def test_a_bundle_is_a_model_to_every_command(
    weights: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vqtk_main(monkeypatch, "export", weights, "-o", "shared", "--format", "bundle") == 0
    assert {path.name for path in Path("shared").iterdir()} == {"model.safetensors", "recipe.yaml", "README.md"}
    for name, value in vqtk.load("shared").state_dict().items():
        assert torch.equal(value, vqtk.load(weights).state_dict()[name])
    assert load_recipe("shared/recipe.yaml").plain() == load_recipe("tiny.yaml", ["model.stages=2"]).plain()
    card = Path("shared/README.md").read_text()
    assert "2 stages × 4 options = 4 bits" in card
    assert "| updates | 3 |" in card
    assert str(place) not in "".join(path.read_text(errors="replace") for path in Path("shared").iterdir())
    assert run_of(Path("shared")) is None
    assert vqtk_main(monkeypatch, "reconstruct", "shared", "-n", "2", "--device", "cpu") == 0
    assert Path("shared_reconstructions.png").is_file()
    capsys.readouterr()
    assert vqtk_main(monkeypatch, "export", weights, "-o", "shared", "--format", "bundle") == 2
    assert "shared: this folder has files. Choose another path with --out, or give --force" in capsys.readouterr().err
    Path("shared/notes.txt").touch()
    assert vqtk_main(monkeypatch, "export", weights, "-o", "shared", "--format", "bundle", "--force") == 0
    assert Path("shared/notes.txt").is_file(), "--force replaces files of the same names, and no others"


def test_the_card_of_a_shipped_models_bundle_says_how_it_was_trained_and_what_it_reached(place: Path) -> None:
    write_bundle(place / "shipped", Path("mnist"))
    card = (place / "shipped" / "README.md").read_text()
    assert "0.0777" in card
    assert card.index("**How it was trained.**") < card.index("**Results.**") < card.index("```python")


def test_the_plugins_of_a_bundle_are_imported_only_if_named(with_plugin: Path) -> None:
    with use_plugins([Path("half_mse.py")]):
        write_bundle(Path("shared"), with_plugin)
    assert Path("shared/plugins/half_mse.py").read_text().startswith(LOSS)
    Path("EXECUTED").unlink(missing_ok=True)
    named = r"a bundle's plugins are not imported .* --plugin shared/plugins/half_mse\.py"
    with pytest.raises(CheckpointError, match=named):
        vqtk.load("shared")
    Path("shared/plugins/half_mse.py").write_text("from pathlib import Path\n\nPath('EXECUTED').touch()\n")
    with pytest.raises(CheckpointError, match=named):
        vqtk.load("shared")
    assert not Path("EXECUTED").exists()
    model = vqtk.load("shared", plugins=["half_mse.py"])
    assert type(model.loss).__name__ == "HalfMSE"


# ── the hub ──────────────────────────────────────────────────────────────────────────────────────


def test_a_model_that_was_pushed_is_loaded_by_its_name_and_pulled(
    weights: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vqtk_main(monkeypatch, "push", weights, "hf://someone/digits") == 0
    assert capsys.readouterr().out.strip().endswith("/someone/digits")
    assert set(hub.repositories["someone/digits"]) == {"model.safetensors", "recipe.yaml", "README.md"}
    assert b'vqtk.load("hf://someone/digits")' in hub.repositories["someone/digits"]["README.md"]
    hub.asked.clear()
    loaded = vqtk.load("hf://someone/digits")
    assert {line.rpartition("/")[2] for line in hub.asked} == {"model.safetensors"}
    assert torch.equal(loaded.state_dict()["bias"], vqtk.load(weights).state_dict()["bias"])
    assert vqtk_main(monkeypatch, "sample", "hf://someone/digits@main", "-n", "2", "--device", "cpu") == 0
    assert vqtk_main(monkeypatch, "pull", "hf://someone/digits", "-o", "pulled") == 0
    assert Path("pulled/model.safetensors").read_bytes() == hub.repositories["someone/digits"]["model.safetensors"]
    assert not Path("pulled/model.safetensors").is_symlink()
    assert weights_of(Path("pulled")) == Path("pulled/model.safetensors")


def test_code_on_the_hub_does_not_run(with_plugin: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with use_plugins([Path("half_mse.py")]):
        write_bundle(Path("shared"), with_plugin)
    files = {str(path.relative_to("shared")): path.read_bytes() for path in Path("shared").rglob("*.*")}
    hub.repositories["a/stranger"] = {**files, "checkpoints/update_00000001.safetensors": files["model.safetensors"]}
    Path("EXECUTED").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"--plugin half_mse\.py"):
        vqtk.load("hf://a/stranger")
    assert vqtk_main(monkeypatch, "pull", "hf://a/stranger", "-o", "pulled") == 0
    assert not Path("pulled/checkpoints").exists()
    with pytest.raises(CheckpointError, match=r"--plugin pulled/plugins/half_mse\.py"):
        vqtk.load("pulled")
    assert not Path("EXECUTED").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf://no/body", "there is no such model"),
        ("hf://a/b@gone", "it has no revision 'gone'"),
        ("hf://a/b", "it has no model.safetensors"),
        ("hf://../../etc/passwd", "expected hf://user/name"),
        ("hf://alone", "expected hf://user/name"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(
    name: str, expected: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["a/b"] = {"config.json": b"{}"}
    assert vqtk_main(monkeypatch, "sample", name) == 2
    told = capsys.readouterr()
    assert expected in told.err
    assert len(told.err.splitlines()) == 1
    assert TOKEN not in told.out + told.err


def test_a_refused_push_and_a_hub_out_of_reach_do_not_show_the_token(
    weights: Path,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub.closed = True
    assert vqtk_main(monkeypatch, "push", weights, "hf://someone/digits") == 2
    refused = capsys.readouterr()
    assert "the hub refused this" in refused.err
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert vqtk_main(monkeypatch, "push", weights, "hf://someone/digits") == 2
    gone = capsys.readouterr()
    assert "the hub cannot be reached" in gone.err
    assert TOKEN not in refused.out + refused.err + gone.out + gone.err + caplog.text
    assert len(gone.err.splitlines()) == 1


def test_a_name_on_the_hub_may_come_through_a_path() -> None:
    assert str(hub_name(str(Path("hf://user/name@v1.0")))) == "hf://user/name@v1.0"
