"""Build a recipe's model and data, validate a recipe by a trial pass, and compare the models of two recipes."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from vqtk.callbacks import Tracker
from vqtk.datasets import Dataset, data_root
from vqtk.errors import DataError, RecipeError, VqtkError
from vqtk.metrics import LossMetric, Metric, ReconstructionMetric, UsageMetric
from vqtk.models import Model
from vqtk.models.vqdraw import Search, VQDraw
from vqtk.nn.types import DataSpec
from vqtk.plugin.loading import described
from vqtk.recipe.affordable import affordable, check_update
from vqtk.recipe.node import Problems, parse_text, shown_path
from vqtk.recipe.recipe import Recipe, load_recipe, require_overrides
from vqtk.recipe.schema import Chosen, Scope, parse
from vqtk.recipe.show import changes
from vqtk.recipe.signature import parameters
from vqtk.registry import Registry, callbacks, metrics, searches


def build_dataset(recipe: Recipe) -> Dataset:
    """Return the recipe's data set; no file is read yet.

    Raises: RecipeError if its augmentations are for other kinds of data.
    """
    dataset: Dataset = recipe.data()
    dataset.validation = recipe.validation
    for chosen, augmentation in zip(recipe.data.common["augment"], recipe.augmentations(), strict=True):
        if dataset.spec.kind not in augmentation.kinds:
            raise RecipeError(
                f"recipe {recipe.name!r}: data.augment: {chosen.entry.name} changes examples of the kind "
                f"{' or '.join(augmentation.kinds)}, and these data are {dataset.spec.kind}. Remove it."
            )
    return dataset


def build_model(recipe: Recipe, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Model:
    """Return the recipe's model with weights drawn from the recipe's seed.

    They are drawn on the CPU and then moved, so that every device starts from the same weights. On the device `meta`
    nothing is drawn and no memory is used.

    Raises: RecipeError if components do not fit together, or the weights need more memory than this machine has.
    """
    spec = build_dataset(recipe).spec
    with torch.random.fork_rng(devices=[]), torch.device("meta" if str(device) == "meta" else "cpu"), affordable():
        torch.default_generator.manual_seed(recipe.seed)
        model = recipe.model(spec)
    model.recipe = recipe
    return model.to(device=device, dtype=dtype) if str(device) != "meta" else model


def build(recipe: str | Path, *overrides: str, device: str = "cpu", **others: Any) -> Model:
    """Return the model of a recipe file, untrained: `vqtk.build("recipes/mnist.yaml", "model.stages=5")`.

    Raises: RecipeError with every problem of the recipe at once.
    """
    require_overrides(build, others)
    return build_model(load_recipe(recipe, overrides), device=device)


def build_search(text: str, *, origin: str = "search") -> Search:
    """Return a search by its name, `beam`; with its first setting, `beam:8`; or as a recipe has it, in braces.

    Raises: RecipeError that names `origin`, if there is no such search or setting.
    """
    return _chosen(text, searches, origin)()


def build_tracker(text: str) -> Tracker:
    """Return the tracker that `--track` names: by its name, or as a recipe has it, in braces. Raises: RecipeError."""
    chosen = _chosen(text, callbacks, "--track")
    if not issubclass(chosen.entry.component, Tracker):
        raise RecipeError(f"--track {text}: this callback is not a tracker. Name it under train.callbacks in a recipe.")
    return chosen()


def build_metric(text: str, data: DataSpec, *, origin: str = "metric") -> tuple[str, Metric]:
    """Return a metric and its name, by its name or with settings, as `build_search` does.

    Raises: RecipeError that names `origin`, if there is no such metric or setting, or it does not apply to the data.
    """
    chosen = _chosen(text, metrics, origin)
    return chosen.entry.name, chosen(data)


def build_metrics(recipe: Recipe, data: DataSpec) -> dict[str, Metric]:
    """Return the metrics that a recipe adds to its evaluations, by name.

    Raises: RecipeError if one is listed twice, does not apply to the data, or is not measured on reconstructions or
    codes.
    """
    found: dict[str, Metric] = {}
    for chosen in recipe.train.metrics or []:
        assert isinstance(chosen, Chosen)
        metric, name = chosen(data), chosen.entry.name
        if name in found:
            raise RecipeError(f"{chosen.where}: the metric {name} is listed twice. Remove one.")
        if not isinstance(metric, (ReconstructionMetric, UsageMetric, LossMetric)):
            raise RecipeError(
                f"{chosen.where}: {name} cannot be measured at every evaluation. Measure the trained model: vqtk eval "
                f"RUN --metric {name}."
            )
        found[name] = metric
    return found


def _chosen(text: str, registry: Registry, origin: str) -> Chosen:
    """Return the component of a registry that a text names. Raises: RecipeError that names `origin`."""
    name, colon, value = text.partition(":")
    if colon and not text.lstrip().startswith("{"):
        entry = registry.get(name.strip()) if name.strip() in registry.entries() else None
        settings = list(parameters(entry.component)) if entry else []
        text = f"{{name: {name}, {settings[0]}: {value}}}" if settings else name
    node, problems = parse_text(text, origin, lines=False), Problems()
    chosen = parse(node, Annotated[Any, registry], "", Scope(problems))
    problems.raise_any()
    assert isinstance(chosen, Chosen)
    return chosen


def data_missing(recipe: Recipe, data_dir: Path | None = None) -> str:
    """Return a sentence if a recipe's data are missing, as far as that is known without reading them; otherwise "".

    Raises: DataError if `data.validation` is too large for them, or if `data_dir` is not a folder.
    """
    dataset = build_dataset(recipe)
    try:
        root = data_root(data_dir, of=dataset)
    except DataError as error:
        if data_dir:
            raise
        return str(error)
    dataset.check(root)
    return dataset.missing(root)


@dataclass(frozen=True)
class Validation:
    """The result of validating a recipe: its model's parameters and bits of a code, and the seconds that it took."""

    parameters: int
    bits: float
    seconds: float


def validate(recipe: Recipe) -> Validation:
    """Build the model, its optimiser and schedule, and run one example forwards and backwards through the model.

    Raises: RecipeError if it cannot be built, a pass fails, or a result is not finite.
    """
    started = time.monotonic()
    model = build_model(recipe)
    check_update(recipe, model)
    recipe.train.optimizer(model), recipe.train.schedule(), build_metrics(recipe, model.data)
    target = synthetic(model.data, 1)
    try:
        outcome = model.trial(target)
        outcome.backward()
    except VqtkError:
        raise
    except Exception as error:
        raise RecipeError(f"recipe {recipe.name!r}: its model fails on one example: {described(error)}") from error
    if not torch.isfinite(outcome):
        raise RecipeError(f"recipe {recipe.name!r}: the losses of a new model are not finite. Check norms and scales.")
    broken = [name for name, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    if broken:
        raise RecipeError(
            f"recipe {recipe.name!r}: the gradient of {broken[0]!r} is not finite. Check norms and scales."
        )
    parameters = sum(p.numel() for p in model.parameters())
    return Validation(parameters, model.bits, time.monotonic() - started)


def synthetic(data: DataSpec, n: int) -> Tensor:
    """Return n random examples in training units: (n, *data shape)."""
    generator = torch.Generator().manual_seed(0)
    if data.kind in ("points", "signals"):
        return data.normalise(torch.randn(n, *data.shape, generator=generator))
    high = {"image": 256, "text": data.classes or 1, "voxels": 2}[data.kind]
    raw = torch.randint(high, (n, *data.shape), generator=generator)
    return data.normalise(raw if data.kind == "text" else raw.to(torch.uint8))


_DRAWN = 4096
"""Codes that a selector draws for a fingerprint: enough that a changed probability shows."""


def unchanged(recipe: Recipe) -> list[str]:
    """Return a warning for each recipe that this one is a variant of but does not change.

    Raises: RecipeError if the other recipe has a problem.
    """
    bases = ((path, load_recipe(path)) for path in recipe.varies)
    return [warning for path, base in bases if (warning := _unchanged_from(recipe, path, base))]


def fingerprint(recipe: Recipe) -> str:
    """Return a hash of a recipe's model: its modules, parameter shapes, and behaviour from a fixed seed.

    The behaviour is the outcome and the gradients of a trial pass, and the draws of the selector. Two models with the
    same fingerprint train alike.
    """
    model = build_model(replace(recipe, seed=0))
    digest = hashlib.sha256(_structure(model).encode())
    for value in _outcome(model):
        digest.update(np.ascontiguousarray(value.detach().numpy()).data)
    return digest.hexdigest()


def _structure(model: Model) -> str:
    """Return a description of a model's modules and parameter shapes, a line for each."""
    lines = [f"{model.stages} stages of {model.options} options"]
    lines += [f"{name} {type(module).__qualname__}" for name, module in model.named_modules()]
    values = [*model.named_parameters(), *model.named_buffers()]
    lines += [f"{name} {tuple(value.shape)}" for name, value in values]
    for part in ("selector", "search"):
        settings = vars(getattr(model, part, model)) if hasattr(model, part) else {}
        lines.append(f"{type(getattr(model, part, None)).__qualname__} {sorted(settings.items())}")
    return "\n".join(lines)


def _alike(recipe: Recipe, base: Recipe) -> bool:
    """Return whether two recipes have the same model; most differ in structure, which needs no pass to see."""
    one, other = (_structure(build_model(replace(each, seed=0))) for each in (recipe, base))
    return one == other and fingerprint(recipe) == fingerprint(base)


def _outcome(model: Model) -> list[Tensor]:
    outcome = model.train().trial(synthetic(model.data, 1))
    outcome.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    drawn = None
    if isinstance(model, VQDraw):
        drawn = model.draw(_DRAWN, torch.Generator().manual_seed(0), progress=0.0)
    return [outcome.reshape(1), *gradients, *([] if drawn is None else [drawn])]


def _unchanged_from(recipe: Recipe, path: Path, base: Recipe) -> str | None:
    """Return a warning if a recipe has the model of its base although it sets something of it differently."""
    changed = [change.path for change in changes(_unnamed(recipe), _unnamed(base))]
    if not changed:
        return f"this recipe is the same as {shown_path(path)}, apart from its name: the variant changes nothing."
    in_model = [place for place in changed if place.startswith("model")]
    if not in_model or not _alike(recipe, base):
        return None
    return (
        f"{', '.join(in_model[:3])}{' …' if len(in_model) > 3 else ''} differs from {shown_path(path)}, but the model "
        "is the same: the same modules and parameters, and from the same seed the same outcome and gradients. "
        "The variant does not change the model; check that the setting is used."
    )


def _unnamed(recipe: Recipe) -> dict[str, Any]:
    return {**recipe.of_variant(), "seed": recipe.seed}
