"""VQ-VAE, residual quantisation and their objective, compared with the textbook's words for them."""

from __future__ import annotations

import copy
from itertools import product
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.contracts import VQDRAW, draw
from tests.tiny import few, shipped
from vqtk.datasets._base import Splits
from vqtk.errors import RecipeError, VqtkError
from vqtk.evaluate.profile import flops, total_parameters
from vqtk.io.weights import load_weights, save_weights
from vqtk.models import _codebook
from vqtk.models._quantised import _rotated
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import Recipe, from_plain, load_recipe
from vqtk.training.batches import Batches
from vqtk.training.loop import Trainer

RECIPES = Path(__file__).parent.parent / "recipes"
SMALL = {"options": 4, "loss": "mse", "width": 8, "code_width": 4, "blocks": 1}
KINDS = {
    "by place": {"name": "vqvae", "stages": 49, **SMALL},
    "by all of the image": {"name": "vqvae", "stages": 5, **SMALL},
    "residual": {"name": "residual_vq", "stages": 3, **SMALL},
    "with a prior": {"name": "vqvae", "stages": 3, **SMALL, "prior": "autoregressive"},
    "by gradient": {"name": "residual_vq", "stages": 3, **SMALL, "codebook": "gradient"},
    "rotated": {"name": "residual_vq", "stages": 3, **SMALL, "rotation": True},
}


def recipe_of(model: dict[str, Any], **train: Any) -> Recipe:
    values = {
        "name": "it",
        "data": {"name": "mnist", "batch": 8},
        "model": model,
        "train": {"updates": 8, "objective": {"name": "quantisation"}, "evaluate_items": 10, **train},
    }
    return from_plain(values, "it.yaml")


def model_of(kind: str) -> Any:
    """One in float64 whose codebooks lie among the encoder's vectors, so that codes differ."""
    model = build_model(recipe_of(KINDS[kind]), dtype=torch.float64)
    with torch.no_grad():
        encoded = model.encoder(digits(16)).flatten(0, 1)
        for book in model.codebooks:
            book.vectors.copy_(encoded.mean(0) + encoded.std(0) * draw(*book.vectors.shape, seed=1))
    return model


def digits(n: int) -> Tensor:
    return draw(n, 1, 28, 28)


@pytest.mark.parametrize("name", ["mnist_vqvae", "mnist_vqvae_60", "mnist_residual_vq"])
def test_a_recipe_has_its_rate_and_about_as_many_parameters_as_the_original(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    model = build_model(recipe, device="meta")
    assert model.bits == (49 * 5 if name == "mnist_vqvae" else 10 * 6)
    codebooks = sum(book.vectors.numel() for book in model.codebooks)
    assert total_parameters(model) + codebooks == pytest.approx(537_793, rel=0.05)
    # The search among the options: a product with each vector, at each stage.
    extra = flops(recipe)["encode"] - flops(load_recipe(RECIPES / f"{name}.yaml", ["model.options=2"]))["encode"]
    assert extra == 2 * model.stages * (model.options - 2) * model.code_width


@pytest.mark.parametrize("kind", KINDS)
def test_codes_decode_to_the_models_own_reconstruction(kind: str) -> None:
    model, target = model_of(kind), digits(6)
    codes = model.encode(target)
    assert len(codes.unique(dim=0)) > 1
    torch.testing.assert_close(model.decode(codes), model.reconstruct(model.quantise(target).vectors))


@pytest.mark.parametrize("kind", KINDS)
def test_each_code_is_the_nearest_vector_to_what_is_left(kind: str) -> None:
    model, target = model_of(kind), digits(4)
    codes, encoded = model.encode(target), model.encoder(target)
    for item, vectors in enumerate(encoded):
        expected = []
        for vector in vectors:
            left = vector
            for book in model.codebooks:
                distances = [(left - candidate).square().sum() for candidate in book.vectors]
                expected.append(min(range(4), key=lambda k: distances[k].item()))
                left = left - book.vectors[expected[-1]]
        assert codes[item].tolist() == expected


@pytest.mark.parametrize("kind", ["by place", "residual", "by gradient"])
def test_the_loss_is_the_papers(kind: str) -> None:
    recipe = recipe_of(KINDS[kind], objective={"name": "quantisation", "codebook": 2.0, "commitment": 0.5})
    model, batch = model_of(kind), digits(6)
    passed = recipe.train.objective(model, lambda name: None)(batch, draws=None, recompute=0)
    left, distance = model.encoder(batch), 0.0
    for book, codes in zip(model.codebooks, passed_codes(model, batch), strict=True):
        chosen = book.vectors[codes]
        distance += F.mse_loss(chosen, left).item() / len(model.codebooks)
        left = left - chosen
    final = F.mse_loss(model.decode(model.encode(batch)), batch)
    assert passed.terms["final"].item() == pytest.approx(final.item())
    assert passed.terms["commitment"].item() == pytest.approx(distance)
    if model.learned:
        assert passed.terms["codebook"].item() == pytest.approx(distance)
    else:
        assert "codebook" not in passed.terms
    assert passed.loss.item() == pytest.approx(final.item() + (2.5 if model.learned else 0.5) * distance)
    assert torch.equal(passed.codes, model.encode(batch))


def passed_codes(model: Any, batch: Tensor) -> list[Tensor]:
    codes = model.encode(batch)
    return [codes] if len(model.codebooks) == 1 else [column[:, None] for column in codes.T]


def test_the_gradient_of_the_reconstruction_passes_straight_to_the_encoder() -> None:
    model, target = model_of("residual"), digits(3)
    vectors = model.quantise(target).vectors
    leaf = vectors.detach().requires_grad_()
    (at_vectors,) = torch.autograd.grad(F.mse_loss(model.reconstruct(leaf), target), leaf)
    weights = list(model.encoder.parameters())
    expected = torch.autograd.grad(model.encoder(target), weights, at_vectors)
    found = torch.autograd.grad(F.mse_loss(model.reconstruct(vectors), target), weights)
    torch.testing.assert_close(found, expected)


def test_each_side_of_a_distance_learns_by_its_own_term() -> None:
    model, target = model_of("by gradient"), digits(3)
    found = model.quantise(target)
    for term, own, other in (
        (found.codebook, model.codebooks, model.encoder),
        (found.commitment, model.encoder, model.codebooks),
    ):
        gradients = torch.autograd.grad(term, list(own.parameters()), retain_graph=True)
        assert all(gradient.any() for gradient in gradients)
        assert not any(
            gradient is not None
            for gradient in torch.autograd.grad(term, list(other.parameters()), allow_unused=True, retain_graph=True)
        )


def test_the_prior_is_a_distribution_over_all_codes_and_samples_follow_it() -> None:
    model = model_of("with a prior")
    every = torch.tensor(list(product(range(4), repeat=3)))
    chances = (-model.code_nats(every).sum(1)).exp()
    assert chances.sum().item() == pytest.approx(1)
    drawn = model.random_codes(4000, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn @ torch.tensor([16, 4, 1]), minlength=64)
    spread = (4000 * chances * (1 - chances)).sqrt()
    assert ((counts - 4000 * chances).abs() < 5 * spread).all()
    assert model.sample(2, generator=torch.Generator().manual_seed(0)).shape == (2, 1, 28, 28)


def test_the_prior_changes_nothing_of_the_autoencoder() -> None:
    model, batch = model_of("with a prior"), digits(4)
    recipe = recipe_of(KINDS["with a prior"])
    passed = recipe.train.objective(model, lambda name: None)(batch, draws=None, recompute=0)
    assert passed.terms["prior_nats"].item() == pytest.approx(model.code_nats(model.encode(batch)).sum(1).mean().item())
    rest = [value for part in (model.encoder, model.codebooks, model.decoder) for value in part.parameters()]
    by_prior = torch.autograd.grad(model.code_nats(model.encode(batch)).mean(), rest, allow_unused=True)
    assert all(gradient is None for gradient in by_prior)


def test_codes_cost_the_uniform_priors_nats_where_there_is_none() -> None:
    model = model_of("residual")
    torch.testing.assert_close(model.code_nats(model.encode(digits(2))), torch.full((2, 3), log(4)).double())


def test_codebooks_start_as_the_centres_of_the_first_updates_vectors() -> None:
    model, target = model_of("by place"), digits(20)
    model.start_codebooks(target, torch.Generator().manual_seed(0))
    found = model.quantise(target)
    chosen = F.one_hot(found.codes.flatten(), 4).double()
    centres = chosen.T @ found.encoded.flatten(0, 1) / chosen.sum(0)[:, None]
    # Ten iterations of k-means come close to its fixed point.
    torch.testing.assert_close(model.codebooks[0].vectors, centres, rtol=0.1, atol=0.01)


def test_an_average_follows_the_vectors_that_chose_it() -> None:
    model, target = model_of("residual"), digits(16)
    model.start_codebooks(target, torch.Generator().manual_seed(0))
    books = [book.quantiser._codebook for book in model.codebooks]
    decay = 0.99
    sizes, sums = ([getattr(book, name)[0].clone() for book in books] for name in ("cluster_size", "embed_avg"))
    found = model.quantise(target)
    left = found.encoded[:, 0]
    expected = []
    for stage, book in enumerate(model.codebooks):
        chosen = F.one_hot(found.codes[:, stage], 4).double()
        size = decay * sizes[stage] + (1 - decay) * chosen.sum(0)
        total = decay * sums[stage] + (1 - decay) * chosen.T @ left
        expected.append(total / size[:, None])
        left = left - book.vectors[found.codes[:, stage]]
    model.update_codebooks(found.encoded, found.codes, torch.Generator().manual_seed(0))
    for book, vectors in zip(model.codebooks, expected, strict=True):
        torch.testing.assert_close(book.vectors, vectors, rtol=1e-4, atol=1e-5)


def test_a_dead_vector_becomes_one_of_the_updates_drawn_by_the_given_generator() -> None:
    found = {}
    for seed in (0, 0, 1):
        model, target = model_of("by place"), digits(16)
        model.start_codebooks(target, torch.Generator().manual_seed(0))
        book = model.codebooks[0]
        book.quantiser._codebook.cluster_size[0, 2] = 0.01
        before, around = model.quantise(target), torch.get_rng_state()
        codes = before.codes.masked_fill(before.codes == 2, 1)
        model.update_codebooks(before.encoded, codes, torch.Generator().manual_seed(seed))
        assert torch.equal(torch.get_rng_state(), around)
        assert (book.vectors[2] - before.encoded.flatten(0, 1)).abs().sum(1).min() < 1e-6
        found.setdefault(seed, []).append(book.vectors[2].clone())
    assert torch.equal(*found[0])
    assert not torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_moves_no_codebook(kind: str) -> None:
    model, target = model_of(kind), digits(6)
    before = copy.deepcopy(model.state_dict())
    for mode in (True, False):
        model.train(mode)
        model.decode(model.encode(target))
        model.trial(target).backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["by place", "residual"])
def test_pieces_of_a_batch_move_codebooks_as_the_whole_does(kind: str, splits: Splits) -> None:
    ends = []
    for micro_batch in (None, 3):
        recipe = recipe_of(KINDS[kind], micro_batch=micro_batch)
        trainer = Trainer(recipe, build_model(recipe, dtype=torch.float64))
        batches = Batches(recipe, trainer.model, splits.train)
        for _ in range(4):
            trainer.update([batch.double() for batch in next(batches)], updates=8)
        ends.append(trainer.model.codebooks[0].vectors)
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


def test_the_rotation_trick_rotates_and_scales_the_encoders_vectors() -> None:
    model, target = model_of("rotated"), digits(3)
    found = model.quantise(target)
    torch.testing.assert_close(model.reconstruct(found.vectors), model.decode(found.codes))
    start, end = found.encoded[:1], found.vectors[:1].detach()
    matrix = torch.autograd.functional.jacobian(lambda encoded: _rotated(encoded, end), start).reshape(4, 4)
    torch.testing.assert_close(matrix @ start.flatten(), end.flatten())
    scale = end.norm() / start.norm()
    torch.testing.assert_close(matrix @ matrix.T, scale.square() * torch.eye(4, dtype=torch.float64))


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return few(shipped(tmp_path_factory.mktemp("home")))


@pytest.mark.parametrize("kind", ["residual", "with a prior", "by gradient", "rotated"])
def test_training_goes_on_from_a_state_as_if_it_had_not_stopped(kind: str, splits: Splits, tmp_path: Path) -> None:
    recipe = recipe_of({**KINDS[kind], "dead_below": 1})  # So that vectors are replaced by drawn ones.
    whole, first, rest = (Trainer(recipe, build_model(recipe)) for _ in range(3))
    for trainer, until in ((whole, 8), (first, 5), (rest, 8)):
        if trainer is rest:
            save_weights(tmp_path / "it.safetensors", first.model, recipe)
            rest.model.load_state_dict(load_weights(tmp_path / "it.safetensors")[0].state_dict())
            rest.restore(copy.deepcopy(first.state()))
        batches = Batches(trainer.recipe, trainer.model, splits.train, done=trainer.done)
        while trainer.done < until:
            trainer.update(next(batches), updates=8)
    states = [trainer.model.state_dict() for trainer in (whole, rest)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["mnist_vqvae", "mnist_vqvae_60", "mnist_residual_vq"])
def test_a_recipes_loss_falls_within_a_hundred_updates(name: str, splits: Splits) -> None:
    small = ["model.width=8", "model.code_width=4", "model.blocks=1", "data.batch=16", "train.updates=100"]
    recipe = load_recipe(RECIPES / f"{name}.yaml", [*small, "train.optimizer.lr=1e-2"])
    trainer = Trainer(recipe, build_model(recipe))
    batches = Batches(trainer.recipe, trainer.model, splits.train, done=trainer.done)
    finals = []
    for _ in range(100):
        trainer.update(next(batches), updates=100)
        finals.append(trainer.metrics()["final"])
    assert sum(finals[-5:]) < 0.75 * sum(finals[:5])


@pytest.fixture
def library() -> Any:
    """Imported here, because that takes seconds, in every process that collects tests."""
    return pytest.importorskip("vector_quantize_pytorch", reason="the extra `baselines` is not installed")


MARGIN = 1.15
"""How much higher than the library's a baseline's error may be. For single seeds the ratio is 0.93 to 1.06; codebooks
that the optimiser moves have 1.2 to 2.1 in the VQ-VAE."""


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "decay", "seeds"), [("mnist_vqvae", 0.8, 2), ("mnist_residual_vq", 0.99, 1)])
def test_a_baseline_is_as_good_as_the_library_used_plainly(
    name: str, decay: float, seeds: int, splits: Splits, library: Any
) -> None:
    small = ["model.width=8", "model.code_width=8", "model.blocks=1", "data.batch=16", "train.updates=80"]
    fewer = ["model.stages=4"] if name == "mnist_residual_vq" else []
    errors = []
    for seed in range(seeds):
        changed = [*small, *fewer, "train.optimizer.lr=5e-3", f"seed={seed}"]
        recipe = load_recipe(RECIPES / f"{name}.yaml", changed)
        ours = Trainer(recipe, build_model(recipe))
        batches = Batches(recipe, ours.model, splits.train)
        for _ in range(80):
            ours.update(next(batches), updates=80)
        test = ours.model.data.normalise(splits.test[torch.arange(len(splits.test))])
        error = F.mse_loss(ours.model.decode(ours.model.encode(test)), test).item()
        errors.append((error, error_of_the_library(library, recipe, decay, splits, test)))
    ours_mean, library_mean = (sum(column) / seeds for column in zip(*errors, strict=True))
    assert ours_mean < MARGIN * library_mean


def error_of_the_library(library: Any, recipe: Recipe, decay: float, splits: Splits, test: Tensor) -> float:
    """The error of the library's quantiser in the recipe's network, trained on the same batches at the same rates."""
    model: Any = build_model(recipe)
    settings = {
        "kmeans_init": True,
        "threshold_ema_dead_code": 0.05,
        "rotation_trick": False,
        "decay": decay,
        "commitment_weight": 0.25,
    }
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        if len(model.codebooks) == 1:
            quantiser: Any = library.VectorQuantize(model.code_width, model.options, **settings)
        else:
            sizes = {"codebook_size": model.options, "num_quantizers": model.stages}
            quantiser = library.ResidualVQ(dim=model.code_width, **sizes, **settings)
        chosen, schedule = recipe.train.optimizer.settings, recipe.train.schedule()
        weights = [*model.encoder.parameters(), *model.decoder.parameters()]
        optimizer = torch.optim.Adam(weights, betas=chosen["betas"], eps=chosen["eps"])
        batches = Batches(recipe, model, splits.train)
        for update in range(1, 81):
            (batch,) = next(batches)
            vectors, _, commitment = quantiser(model.encoder(batch))
            loss = F.mse_loss(model.reconstruct(vectors), batch) + commitment.sum()
            optimizer.param_groups[0]["lr"] = schedule(update, 80, chosen["lr"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    vectors, _, _ = quantiser.eval()(model.encoder(test))
    return F.mse_loss(model.reconstruct(vectors), test).item()


def test_a_prefix_is_decoded_where_it_means_something_and_refused_elsewhere() -> None:
    residual, target = model_of("residual"), digits(2)
    codes = residual.encode(target)
    first, second = (book.vectors[codes[:, stage]] for stage, book in enumerate(residual.codebooks[:2]))
    torch.testing.assert_close(residual.decode(codes[:, :2]), residual.reconstruct((first + second)[:, None]))
    with pytest.raises(VqtkError, match="VQVAE decodes only whole codes of 49 stages"):
        model_of("by place").decode(torch.zeros(1, 48, dtype=torch.int64))


def test_what_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(VQDRAW)
    with pytest.raises(RecipeError, match="VQDraw has no codebooks"):
        Trainer(recipe, build_model(recipe))
    text = {"data": {"name": "wikitext2", "length": 8, "vocabulary": 5}, "model": {**KINDS["residual"], "loss": "mse"}}
    with pytest.raises(RecipeError, match="ResidualVQ needs images whose sides are multiples of 4"):
        build_model(from_plain({"name": "it", "train": {"updates": 1}, **text}, "it.yaml"))
    monkeypatch.setattr(_codebook, "find_spec", lambda name: None)
    with pytest.raises(VqtkError, match=r"not installed\. Run: pip install 'vqtk\[baselines\]'"):
        build_model(recipe_of(KINDS["residual"]))
