"""Rate and distortion without a network: K-means on raw pixels, and the rate–distortion function of a Gaussian.

Both are computed from training examples at the rates of a model's stages, and stored with its run. A model may also be
started at the centres of the K-means.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from math import log, log2, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqtk.datasets import Split, Splits, batches_of, fixed_subset
from vqtk.errors import CheckpointError, DataError, RecipeError, VqtkError
from vqtk.evaluate.evaluation import Track, targets, untracked
from vqtk.evaluate.profile import flops
from vqtk.files import write_text
from vqtk.io.run_files import ReferencesFile, read_file
from vqtk.models import Model
from vqtk.models.vqdraw import VQDraw
from vqtk.process import generator
from vqtk.recipe.recipe import Recipe

STEPS = 600
"""Mini-batches of K-means for each stage, whatever the size of the data."""
MINI_BATCH = 1024
MOST_VALUES = 1 << 28
"""The most values of training examples that K-means holds: enough for all of MNIST, SVHN or CIFAR-10."""
BATCH = 1000
LABELS = {
    "kmeans": "K-means residual quantisation of raw pixels",
    "gaussian": "R(D) of a Gaussian with the data's covariance: an asymptotic reference, neither floor nor ceiling "
    "for such data",
}
WORTH_SHARE = 0.1
"""The fraction of the training's operations that the references may cost if they were not asked for."""
REFERENCES_FILE = "references.json"
"""The file of a run that holds them."""
_FORMAT = "vqtk references 3"


@dataclass(frozen=True)
class Point:
    """A point of a reference: bits per example, mean squared error in training units, and that of pixels in [0, 1]."""

    stage: int
    bits: float
    mse: float
    mse_pixels: float


_POINT = [field.name for field in fields(Point)]


@dataclass(frozen=True)
class References:
    """Both curves, and the facts that they depend on: the data, the rates, the settings of K-means, and the seed."""

    kmeans: list[Point]
    gaussian: list[Point]
    facts: dict[str, Any]

    def plain(self) -> dict[str, Any]:
        """Return the curves as JSON values, each with its label."""
        curves = {
            name: {"label": label, "stages": [asdict(point) for point in getattr(self, name)]}
            for name, label in LABELS.items()
        }
        return {**curves, **self.facts}


def references(
    model: Model,
    splits: Splits,
    *,
    seed: int,
    keep: Path | None = None,
    track: Track = untracked,
    unkept: Callable[[str], object] | None = None,
) -> References:
    """Return the references at the rates of a model's stages.

    K-means is fitted on all training examples (on a seeded subset if they are too many to hold) and measured on all
    test examples; the covariance is that of all training examples.

    Arguments:
        model: gives the stages, options and training units.
        splits: the data.
        seed: of K-means.
        keep: the file to store them in; if it holds references with the same facts, these are returned.
        track: shows the progress.
        unkept: called with the reason if `keep` cannot be written.

    Raises: DataError if the data are not images; without `unkept`, also if `keep` cannot be written.
    """
    if model.data.kind != "image":
        raise DataError(
            f"--references are computed from images, and the data are {model.data.kind}. Use a model of images."
        )
    items = _fitted(model, splits)
    facts = {
        "format": _FORMAT, "data": splits.fingerprint()["sha256"], "stages": model.stages, "options": model.options,
        "items": items, "train_items": len(splits.train), "test_items": len(splits.test), "steps": STEPS,
        "mini_batch": MINI_BATCH, "seed": seed,
    }  # fmt: skip
    before = kept(keep) if keep else None
    if before and before.facts == facts:
        return before
    found = References(
        _kmeans_points(model, splits, seed=seed, track=track),
        _gaussian_points(model, splits, track=track),
        facts,
    )
    if keep:
        try:
            write_text(keep, json.dumps(found.plain(), indent=2) + "\n")
        except OSError as error:
            reason = f"{keep}: the references cannot be written ({error}). Make the folder writable."
            if unkept is None:
                raise DataError(reason) from None
            unkept(reason)
    return found


def kept(path: Path) -> References | None:
    """Return the references in a file; None if it does not exist or is damaged."""
    try:
        found = read_file(path, ReferencesFile)
    except CheckpointError:
        return None
    if found["format"] != _FORMAT:
        return None
    pixels, normal = (
        [Point(*(point[name] for name in _POINT)) for point in found[curve]["stages"]] for curve in LABELS
    )
    return References(pixels, normal, {key: value for key, value in found.items() if key not in LABELS})


def are_worth_it(recipes: Sequence[Recipe], model: Model, splits: Splits) -> bool:
    """Return whether the references cost few operations compared with training by these recipes.

    Operations are counted, not timed, so that the answer does not depend on the machine.
    """
    if model.data.kind != "image":
        return False
    try:
        encoded = [flops(one, ["encode"])["encode"] * one.examples_per_update * one.train.updates for one in recipes]
    except (VqtkError, NotImplementedError):  # A plugin that cannot be built without data.
        return False
    return _operations(model, splits) <= WORTH_SHARE * 3 * sum(encoded)  # A backward pass costs two forward passes.


def _operations(model: Model, splits: Splits) -> float:
    """Return an estimate of the operations of computing the references."""
    values, train, test = prod(model.data.shape), len(splits.train), len(splits.test)
    assigned = model.stages * model.options * (STEPS * MINI_BATCH + _fitted(model, splits) + test)
    return 2 * values * assigned + 2 * train * values**2 + 10 * values**3


def _fitted(model: Model, splits: Splits) -> int:
    """Return the number of training examples that K-means is fitted on."""
    return min(len(splits.train), max(1, MOST_VALUES // prod(model.data.shape)))


# ── K-means residual quantisation ────────────────────────────────────────────────────────────────


def kmeans(vectors: Tensor, options: int, *, seed: int) -> Tensor:
    """Return k = `options` centres (k, d) of vectors (n, d) on the CPU, by mini-batch K-means from k random vectors.

    If there are at most k vectors, each is a centre.

    Source: Sculley 2010, Web-scale k-means clustering; the implementation is scikit-learn's.
    """
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    if len(vectors) <= options:
        return vectors.clone()
    found = MiniBatchKMeans(
        options,
        init="random",
        n_init=1,
        batch_size=MINI_BATCH,
        max_iter=-(-STEPS * min(MINI_BATCH, len(vectors)) // len(vectors)),  # In passes over the vectors.
        max_no_improvement=None,
        compute_labels=False,
        random_state=seed,
    )
    with threadpool_limits(torch.get_num_threads()):
        found.fit(vectors.numpy())
    return torch.from_numpy(found.cluster_centers_).to(vectors.dtype)


def nearest_centroids(vectors: Tensor, centres: Tensor) -> Tensor:
    """Return the index (n,) of the nearest centre (k, d) to each of the vectors (n, d)."""
    return torch.cat([(centres.square().sum(1) - 2 * some @ centres.T).argmin(1) for some in vectors.split(BATCH)])


@torch.no_grad()
def start_at_centres(model: Model, split: Split, *, seed: int) -> None:
    """Set a model's codewords, or the biases of its options, to the centres of a residual K-means of training examples.

    Stage by stage, as far as the model has such a table, the centres of what the stages before leave are found, and
    taken away. With `zero_output`, this is what an untrained model reconstructs; otherwise its deltas are added. If the
    examples have too many values to hold, a seeded subset is used.

    Raises: RecipeError if the model has no biases of options, or reconstructions that are not in units of the data.
    """
    if not isinstance(model, VQDraw):
        raise RecipeError(f"train.init: kmeans: {type(model).__name__} has no biases of options. Use `init: random`.")
    taken = fixed_subset(split, min(len(split), max(1, MOST_VALUES // prod(model.loss.shape))), seed)
    parts = targets(model, split, taken, batch=BATCH, track=untracked, what="training examples")
    nothing = model.start(1)[0]
    residual = [model.loss.residual(nothing, part) for part in parts]
    left = [part.flatten(1).float().cpu() for part in residual if part is not None]
    if len(left) < len(residual):
        raise RecipeError(
            f"train.init: kmeans: the reconstructions of the loss {type(model.loss).__name__} are not in units of the "
            "data, so they cannot start at its centres. Use `init: random`."
        )
    _set_biases(model, torch.cat(left), seed)


def _set_biases(model: VQDraw, left: Tensor, seed: int) -> None:
    for stage in range(model.stages):
        rows = model.table(stage)
        if rows is None:
            return
        centres = kmeans(left, model.options, seed=generator(seed, "init", stage).initial_seed() % 2**32)
        missing = model.options - len(centres)  # There are fewer examples than options.
        centres = torch.cat([centres, centres.new_zeros(missing, centres.shape[1])])
        table = rows.of(rows.parameter, model.options)
        table.copy_(centres.view_as(table))
        left -= centres[nearest_centroids(left, centres)]


def _kmeans_points(model: Model, splits: Splits, *, seed: int, track: Track) -> list[Point]:
    taken = fixed_subset(splits.train, _fitted(model, splits), seed)
    train = _flat(model, splits.train, taken, track, "training examples")
    target = _flat(model, splits.test, torch.arange(len(splits.test)), track, "test examples")
    decoded = torch.zeros_like(target)
    points = []
    for stage in track(range(model.stages), "stages of K-means"):
        drawn_by = generator(seed, "references", stage).initial_seed() % 2**32
        centres = kmeans(train, model.options, seed=drawn_by)
        train -= centres[nearest_centroids(train, centres)]
        decoded += centres[nearest_centroids(target - decoded, centres)]
        error = (decoded - target).square().mean(dtype=torch.float64)
        pixels = (model.data.pixels(decoded) - model.data.pixels(target)).square().mean(dtype=torch.float64)
        points.append(Point(stage + 1, (stage + 1) * log2(model.options), float(error), float(pixels)))
    return points


def _flat(model: Model, split: Any, items: Tensor, track: Track, what: str) -> Tensor:
    parts = targets(model, split, items, batch=BATCH, track=track, what=what)
    return torch.cat([part.flatten(1).float().cpu() for part in parts])


# ── the rate–distortion function of a Gaussian ───────────────────────────────────────────────────


def gaussian_distortion(variances: Tensor, bits: float) -> float:
    """Return the distortion D(R) of independent normal values at `bits` for all of them: the mean over the values.

    By reverse water-filling: a value whose variance is below the water level gets no bits and its variance is lost; of
    every other value the distortion is the level.

    Shapes: variances (d,), such as the eigenvalues of a covariance.
    Source: Cover and Thomas, Elements of Information Theory, theorem 10.3.3.
    """
    falling = variances.double().clamp(min=0).sort(descending=True).values
    positive = falling[falling > 0]
    if not len(positive):
        return 0.0
    count = torch.arange(1, len(positive) + 1, dtype=torch.float64, device=positive.device)
    levels = ((positive.log().cumsum(0) - 2 * bits * log(2)) / count).exp()
    kept = int((levels < positive).sum())
    level = levels[kept - 1] if kept else positive[0]
    return float(falling.clamp(max=float(level)).mean())


def _gaussian_points(model: Model, splits: Splits, *, track: Track) -> list[Point]:
    variances = torch.linalg.eigvalsh(_covariance(model, splits, track))
    points = []
    for stage in range(1, model.stages + 1):
        bits = stage * log2(model.options)
        distortion = gaussian_distortion(variances, bits)
        points.append(Point(stage, bits, distortion, distortion * model.data.std**2))
    return points


def _covariance(model: Model, splits: Splits, track: Track) -> Tensor:
    """Return the covariance (d, d) of the values of all training examples, in training units, float64."""
    values = prod(model.data.shape)
    total = torch.zeros(values, dtype=torch.float64)
    products = torch.zeros(values, values, dtype=torch.float64)
    order = torch.arange(len(splits.train)).split(BATCH)
    for raw in batches_of(splits.train, track(order, "training examples")):
        part = model.data.normalise(raw, torch.float32).flatten(1).cpu()
        total += part.sum(0, dtype=torch.float64)
        products += part.T @ part
    mean = total / len(splits.train)
    return products / len(splits.train) - mean[:, None] * mean
