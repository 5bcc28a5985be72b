"""What runs must share to be compared: the data, the length of training, the units of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vqtk.compare.collect import Collected, Run, Variant
from vqtk.errors import VqtkError
from vqtk.recipe.build import build_dataset
from vqtk.recipe.node import Node
from vqtk.recipe.recipe import Recipe
from vqtk.recipe.show import inline

_Said = Callable[[Run], str | None]


def differing(collected: Collected) -> list[str]:
    """Return a sentence for each term that is not the same for all runs.

    Where a study sets items, operations or time equal, that stands in place of the number of updates.
    """
    found = [_differing(what, of, collected.variants) for what, of in _terms(collected.study or {}).items()]
    return [sentence for sentence in found if sentence]


def require_equal(sentences: Sequence[str]) -> None:
    """Raise VqtkError if terms differ."""
    if sentences:
        raise VqtkError(
            f"these runs cannot be compared on equal terms. {' '.join(sentences)} Compare runs of the same terms, or "
            "give --unequal to compare them all the same; every output is then marked."
        )


def _terms(study: dict[str, Any]) -> dict[str, _Said]:
    """Return the terms to hold equal, each with how a run's is said."""
    terms: dict[str, _Said] = {
        "Data": _data,
        "Test items": _tested,
        "Features of samples": _features,
    }
    equal = study.get("terms", {}).get("equal")
    if equal in ("items", "flops", "time"):
        return terms
    if equal == "updates":
        return {"Updates": lambda run: f"{run.summary['updates']:,}", **terms}
    return {"Updates × items an update": _trained, **terms}


def _trained(run: Run) -> str:
    return f"{run.summary['updates']:,} × {run.recipe.examples_per_update:,}"


def _data(run: Run) -> str:
    data: dict[str, Any] = run.manifest["data"]
    counts = f"{data.get('train_items', 0):,} + {data.get('test_items', 0):,} items"
    return f"{counts}, SHA-256 {str(data.get('sha256'))[:8]}"


def _tested(run: Run) -> str:
    return f"{run.summary['test_items']:,}"


def _features(run: Run) -> str | None:
    """Return what the run's samples were compared in, if they were."""
    features: str | None = run.summary.get("quality", {}).get("features")
    return features


def units_of(recipe: Recipe) -> str:
    """Return in words what a recipe's loss is measured in: the loss with its settings, and the training units."""
    loss = recipe.plain()["model"].get("loss")
    said = recipe.loss or "none"
    if isinstance(loss, dict) and len(loss) > 1:
        said = inline(Node.of(loss, ""))
    spec = build_dataset(recipe).spec
    return said if (spec.mean, spec.std) == (0.0, 1.0) else f"{said} in units of (x − {spec.mean:g}) / {spec.std:g}"


def differing_units(variants: Sequence[Variant]) -> str:
    """Return a sentence if the losses of the variants are not in the same units, otherwise an empty string."""
    return _differing("Losses", lambda run: units_of(run.recipe), variants)


def _differing(what: str, of: _Said, variants: Sequence[Variant]) -> str:
    """Return a sentence that says who has which, or an empty string if all that have any have the same."""
    having: dict[str, list[str]] = {}
    for variant in variants:
        for run in variant.runs.values():
            said = of(run)
            if said is None:
                continue
            names = having.setdefault(said, [])
            if variant.name not in names:
                names.append(variant.name)
    if len(having) <= 1:
        return ""
    return f"{what} differ: " + "; ".join(f"{value} ({_some(names)})" for value, names in having.items()) + "."


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
