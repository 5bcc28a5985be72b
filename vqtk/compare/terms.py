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

_Describe = Callable[[Run], str | None]


def differing(collected: Collected) -> list[str]:
    """Return a sentence for each term that differs between runs.

    If a study holds examples, operations or time equal, the number of updates may differ.
    """
    found = [_differing(what, describe, collected.variants) for what, describe in _terms(collected.study or {}).items()]
    return [sentence for sentence in found if sentence]


def require_equal(sentences: Sequence[str]) -> None:
    """Raise VqtkError if terms differ."""
    if sentences:
        raise VqtkError(
            f"these runs cannot be compared on equal terms. {' '.join(sentences)} Compare runs of the same terms, or "
            "give --unequal to compare them anyway; every output is then marked."
        )


def _terms(study: dict[str, Any]) -> dict[str, _Describe]:
    """Return the terms that have to be equal, each with what describes that of a run."""
    terms: dict[str, _Describe] = {
        "Data": _data,
        "Test examples": _tested,
        "Features of samples": _features,
    }
    equal = study.get("terms", {}).get("equal")
    if equal in ("items", "flops", "time"):
        return terms
    if equal == "updates":
        return {"Updates": lambda run: f"{run.summary['updates']:,}", **terms}
    return {"Updates × examples per update": _trained, **terms}


def _trained(run: Run) -> str:
    return f"{run.summary['updates']:,} × {run.recipe.examples_per_update:,}"


def _data(run: Run) -> str:
    data: dict[str, Any] = run.manifest["data"]
    counts = f"{data.get('train_items', 0):,} + {data.get('test_items', 0):,} examples"
    return f"{counts}, SHA-256 {str(data.get('sha256'))[:8]}"


def _tested(run: Run) -> str:
    return f"{run.summary['test_items']:,}"


def _features(run: Run) -> str | None:
    """Return the features in which the run's samples were compared, if they were."""
    features: str | None = run.summary.get("quality", {}).get("features")
    return features


def units_of(recipe: Recipe) -> str:
    """Return the units of a recipe's loss as text: the loss with its settings, and the training units."""
    loss = recipe.plain()["model"].get("loss")
    text = recipe.loss or "none"
    if isinstance(loss, dict) and len(loss) > 1:
        text = inline(Node.of(loss, ""))
    spec = build_dataset(recipe).spec
    return text if (spec.mean, spec.std) == (0.0, 1.0) else f"{text} in units of (x − {spec.mean:g}) / {spec.std:g}"


def differing_units(variants: Sequence[Variant]) -> str:
    """Return a sentence if the losses of the variants have different units, otherwise an empty string."""
    return _differing("Losses", lambda run: units_of(run.recipe), variants)


def _differing(what: str, describe: _Describe, variants: Sequence[Variant]) -> str:
    """Return a sentence that lists which variants have which value, or an empty string if there is at most one."""
    having: dict[str, list[str]] = {}
    for variant in variants:
        for run in variant.runs.values():
            text = describe(run)
            if text is None:
                continue
            names = having.setdefault(text, [])
            if variant.name not in names:
                names.append(variant.name)
    if len(having) <= 1:
        return ""
    return f"{what} differ: " + "; ".join(f"{value} ({_some(names)})" for value, names in having.items()) + "."


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
