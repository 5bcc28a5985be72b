"""The original author's trained model, imported, does here what it did there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import vqtk
from tests.parity import ROOT, shared
from vqtk.cli.exchange import import_command
from vqtk.datasets.mnist import MNIST
from vqtk.evaluate.evaluation import evaluate
from vqtk.io.weights import read_weights

pytestmark = pytest.mark.original

# Mean squared error after each stage on all 10,000 test digits.
PUBLISHED = [0.40461, 0.28017, 0.21697, 0.17007, 0.13991, 0.12148, 0.09832, 0.08912, 0.08109, 0.07647]
# The files are sorted by class, so every 40th of them, 250 digits, is a fair sample, and quick to walk.
SAMPLE, NEAR = torch.arange(0, 10_000, 40), 0.1


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "mnist.safetensors"
    checkpoint = shared("data", "original", "mnist_model.pt")
    import_command(checkpoint, ROOT / "recipes" / "mnist.yaml", output=path)
    return path


@pytest.fixture(scope="module")
def model(weights: Path) -> Any:
    return vqtk.load(weights)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(shared("parity", "pretrained_mnist.safetensors"))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.detach(), expected, rtol=1e-4, atol=1e-4)


def test_the_weights_file_carries_its_recipe_and_where_it_came_from(weights: Path, model: Any) -> None:
    tensors, metadata = read_weights(weights)
    assert metadata["recipe"]["name"] == "mnist"
    assert metadata["facts"] == {"imported_from": "mnist_model.pt"}
    assert sum(value.numel() for value in tensors.values()) == sum(p.numel() for p in model.parameters())
    assert model.bits == 60


def test_its_digits_have_the_originals_grid_codes_and_reconstruction(model: Any, golden: dict[str, Tensor]) -> None:
    target = model.data.normalise(golden["pixels"])
    torch.testing.assert_close(target, (golden["pixels"].float() / 255 - 0.1307) / 0.3081)
    with torch.no_grad():
        walk = model.walk(target)
    assert torch.equal(walk.codes, golden["codes"])
    assert torch.equal(model.encode(target), golden["codes"])
    close(walk.grid, golden["losses"])
    close(walk.reconstruction, golden["reconstruction"])
    close(model.decode(golden["codes"]), golden["reconstruction"])


def test_its_demo_codes_decode_stage_by_stage_as_in_the_original(model: Any, golden: dict[str, Tensor]) -> None:
    codes = golden["demo_codes"].reshape(1, -1)
    close(model.decode_stages(codes)[0], golden["demo_stages"])
    for stage in (1, 4, 10):
        close(model.decode(codes[:, :stage])[0], golden["demo_stages"][stage - 1])
    close(model.proposals(codes[:, :2])[0], golden["demo_proposals_stage2"].reshape(64, 1, 28, 28))


@pytest.mark.thorough
def test_unseen_digits_are_reconstructed_as_well_as_published(model: Any) -> None:
    shared("data", "MNIST", "raw")
    test = MNIST().load(shared("data")).test
    figures = evaluate(model, test, items=SAMPLE, batch=25)
    assert figures.items == 250
    assert torch.isfinite(torch.tensor(figures.distortion)).all()
    assert figures.distortion == sorted(figures.distortion, reverse=True)
    assert figures.distortion == pytest.approx(PUBLISHED, rel=NEAR)
    assert torch.equal(figures.usage.sum(1), torch.full((10,), 250))
    assert min(row["used"] for row in figures.stages()) > 48
