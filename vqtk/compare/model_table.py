"""One table of several models: error, samples, code lengths, speed and training, each measured in the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqtk.callbacks import duration
from vqtk.datasets import Splits, fixed_subset
from vqtk.errors import DataError, VqtkError
from vqtk.evaluate.evaluation import Evaluation, Track, encode_all, evaluate, untracked
from vqtk.evaluate.quality import ExamplesInFeatures, distances_of_samples, examples_in_features
from vqtk.io.run_files import ResultsFile, read_file
from vqtk.models import Model, Quantised
from vqtk.models.vqdraw import VQDraw
from vqtk.process import environment, generator
from vqtk.recipe.build import build_search
from vqtk.recipe.recipe import Recipe
from vqtk.sampling.prior import fit_markov

SEED = 0
"""Of the subsets and the samples: the same for all models, whatever the seeds of their recipes."""


@dataclass(frozen=True)
class ModelsRequest:
    """How each model is measured.

    Arguments:
        items: the number of test examples; by default all.
        search: measured besides greedy codes; None for greedy codes alone.
        samples: whether to compare samples with test examples.
        prior_items: the number of training examples whose codes a Markov prior is fitted to.
    """

    items: int | None = None
    search: str | None = None
    samples: bool = True
    prior_items: int = 10_000


@dataclass
class Subject:
    """A model of the table: its label, the checksum of its weights, recipe, data, and what is known of its training."""

    label: str
    weights: str
    model: Model
    recipe: Recipe
    splits: Splits
    training: Mapping[str, Any]

    @cached_property
    def data(self) -> str:
        """The SHA-256 of the data."""
        return str(self.splits.fingerprint()["sha256"])


def measure_models(
    subjects: Sequence[Callable[[], Subject]],
    asked: ModelsRequest,
    *,
    kept: Sequence[Mapping[str, Any]] = (),
    keep: Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], None] = lambda rows, others: None,
    track: Track = untracked,
) -> list[dict[str, Any]]:
    """Measure models, and return a row of JSON values for each.

    Arguments:
        subjects: return the models, so that one at a time is held.
        asked: how they are measured.
        kept: rows measured before; those of the same weights, data and request are not measured again.
        keep: called after each model with the rows so far, and those kept that are not among them.
        track: shows the progress.

    Raises: VqtkError if two models have the same label; DataError if they have different data, or no images.
    """
    rows: list[dict[str, Any]] = []
    examples: ExamplesInFeatures | None = None
    for make in subjects:
        subject = make()
        identity = {"weights": subject.weights, "data": subject.data, **asdict(asked)}
        _check(subject, rows)
        known = [row for row in kept if row["identity"] == identity]
        if known:
            rows.append({**known[0], "label": subject.label})
        else:
            items = _items(subject.splits, asked.items)
            if asked.samples and examples is None:
                name = subject.recipe.data.entry.name
                examples = examples_in_features(
                    subject.model, subject.splits, items=items, name=name, seed=SEED, track=track
                )
            rows.append({"label": subject.label, "identity": identity, **_row(subject, asked, items, examples, track)})
        measured = [row["identity"] for row in rows]
        keep(rows, [row for row in kept if row["identity"] not in measured])
    return rows


def _check(subject: Subject, rows: Sequence[Mapping[str, Any]]) -> None:
    if subject.model.data.kind != "image":
        raise DataError(
            f"{subject.label}: the table is of models of images, and this one's data are {subject.model.data.kind}. "
            "Compare such runs by vqtk compare."
        )
    if any(row["label"] == subject.label for row in rows):
        raise VqtkError(f"two models are called {subject.label}. Name them: LABEL=MODEL.")
    if rows and rows[0]["identity"]["data"] != subject.data:
        raise DataError(
            f"{subject.label} has other data than {rows[0]['label']} (SHA-256 {subject.data[:12]} and "
            f"{rows[0]['identity']['data'][:12]}), so one table cannot hold both. Give --data-dir, or leave one out."
        )


def _items(splits: Splits, count: int | None) -> Tensor:
    return fixed_subset(splits.test, count, SEED) if count else torch.arange(len(splits.test))


def _row(
    subject: Subject, asked: ModelsRequest, items: Tensor, examples: ExamplesInFeatures | None, track: Track
) -> dict[str, Any]:
    model, splits = subject.model, subject.splits
    staged = model if isinstance(model, VQDraw) else None
    if staged:
        staged.search = build_search("greedy")
    greedy = evaluate(model, splits.test, items=items, searched=True, track=track)
    row: dict[str, Any] = {
        "bits": model.bits,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "training": dict(subject.training),
        "items": len(items),
        "greedy": _codes(greedy, subject.recipe),
        "environment": environment(model.device),
    }
    if examples:
        row["samples"] = _samples(model, splits, greedy.codes, examples, asked.prior_items, track)
    if asked.search and staged:
        staged.search = build_search(asked.search, origin="--search")
        row["searched"] = _codes(evaluate(model, splits.test, items=items, searched=True, track=track), subject.recipe)
    return row


def _codes(found: Evaluation, recipe: Recipe) -> dict[str, Any]:
    """Return what is reported of codes and their reconstructions."""
    assert found.rates
    return {
        "mse": found.distortion[-1] if recipe.loss == "mse" else None,
        "mse_pixels": found.reached["mse_pixels"],
        "psnr_db": found.reached["psnr_db"],
        "entropy_bits": sum(row["entropy_bits"] for row in found.stages()),
        **{key: found.rates.plain()[key] for key in ("encode_items_per_s", "decode_items_per_s")},
    }


def _samples(
    model: Model, splits: Splits, test_codes: Tensor, examples: ExamplesInFeatures, prior_items: int, track: Track
) -> dict[str, Any]:
    """Compare samples from uniform codes and from a prior with test examples, whose codes (n, s) score the prior."""
    n, draws = len(examples.test), generator(SEED, "results", "samples")
    uniform = torch.randint(model.options, test_codes[:1].expand(n, -1).shape, generator=draws)
    if isinstance(model, Quantised) and model.prior is not None:
        prior, drawn = "its own", model.random_codes(n, generator=draws)
        parts = test_codes.split(100)
        nats = torch.cat([model.code_nats(part.to(model.device)).sum(1).cpu() for part in parts])
    else:
        fitted_on = fixed_subset(splits.train, min(prior_items, len(splits.train)), SEED)
        codes = encode_all(model, splits.train, items=fitted_on, track=track, what="training examples")
        markov = fit_markov(codes, model.options)
        prior, drawn, nats = "Markov", markov.sample(n, draws), markov.nats(test_codes)
    return {
        "features": examples.space.title,
        "count": n,
        "reference": examples.reference(distances_of_samples(model.data)),
        "uniform": examples.distances(model, uniform.to(model.device), track),
        "prior": {
            "name": prior,
            "bits": nats.mean().item() / log(2),
            **examples.distances(model, drawn.to(model.device), track),
        },
    }


# ── the table ────────────────────────────────────────────────────────────────────────────────────


def measured_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows that a file of results has; [] if there is no file. Raises: CheckpointError if it is damaged."""
    return list(read_file(path, ResultsFile)["rows"]) if path.is_file() else []


def rows_as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as the text of a file of results."""
    return json.dumps({"rows": rows}, indent=2, ensure_ascii=False) + "\n"


def rows_as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as two Markdown tables, of codes and of samples and speed, and what their columns mean."""
    search = next((row["identity"]["search"] for row in rows if "searched" in row), None)
    parts = [_table(_of_codes(row, search) for row in rows), _table(_of_use(row, search) for row in rows)]
    return "\n\n".join([*parts, _legend(rows)]) + "\n"


def _of_codes(row: Mapping[str, Any], search: str | None) -> dict[str, str]:
    training, greedy = row["training"], row["greedy"]
    searched = row.get("searched", {})
    by_search = {f"MSE, {search}": _shown(searched.get("mse"), ".4f"), f"PSNR, {search}": _psnr(searched)}
    return {
        "model": row["label"],
        "bits": f"{row['bits']:g}",
        "parameters": f"{row['parameters']:,}",
        "updates": _shown(training.get("updates"), ",d"),
        "examples": _shown(training.get("examples"), ",d"),
        "training": _shown_time(training.get("seconds")),
        "MSE": _shown(greedy["mse"], ".4f"),
        "PSNR": _psnr(greedy),
        **(by_search if search else {}),
        "entropy": f"{greedy['entropy_bits']:.2f}",
    }


def _of_use(row: Mapping[str, Any], search: str | None) -> dict[str, str]:
    samples, greedy, searched = row.get("samples"), row["greedy"], row.get("searched", {})
    shown = {"model": row["label"]}
    if samples:
        prior = samples["prior"]
        shown |= {
            "Fréchet, uniform": f"{samples['uniform']['samples_frechet']:.1f}",
            "Fréchet, prior": f"{prior['samples_frechet']:.1f}",
            "prior": prior["name"],
            "bits under the prior": f"{prior['bits']:.2f}",
        }
    shown |= {"encode": _speed(greedy["encode_items_per_s"]), "decode": _speed(greedy["decode_items_per_s"])}
    return shown | ({f"encode, {search}": _speed(searched.get("encode_items_per_s"))} if search else {})


def _legend(rows: Sequence[Mapping[str, Any]]) -> str:
    first, on, asked = rows[0], rows[0]["environment"], rows[0]["identity"]
    lines = [
        f"Measured on {first['items']:,} test examples. *MSE* is the mean squared error in training units, *PSNR* (dB) "
        "that of the mean error of pixels in [0, 1], of greedy codes unless a search is named. *Entropy* (bits) is "
        "that of the options of each stage, summed over the stages."
    ]
    sampled = next((row["samples"] for row in rows if "samples" in row), None)
    if sampled:
        lines.append(
            f"The *Fréchet distances* are between {sampled['count']:,} samples and as many test examples, in "
            f"{sampled['features']}; for training examples, the distance is "
            f"{sampled['reference']['samples_frechet']:.3g}. Codes are drawn uniformly, or from a prior: the model's "
            f"own, or a Markov prior fitted to the codes of up to {asked['prior_items']:,} training examples. *Bits "
            "under the prior* is the mean cost of a test example's code."
        )
    threads = f"{on['threads']} thread{'s' if on['threads'] > 1 else ''}"
    where = on["device"] if on["device"] != "cpu" else f"a CPU ({on['processor']})"
    lines.append(
        f"Speeds are in examples per second, on {where} with {threads}. Each row is one trained model, so there are no "
        "intervals."
    )
    return "\n".join(lines)


def _table(rows: Iterable[Mapping[str, str]]) -> str:
    listed = list(rows)
    titles = list(dict.fromkeys(title for row in listed for title in row))
    lines = [titles, ["---"] * len(titles), *([row.get(title, "–") for title in titles] for row in listed)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _shown(value: float | None, digits: str) -> str:
    return "–" if value is None else format(value, digits)


def _psnr(found: Mapping[str, Any]) -> str:
    return _shown(found.get("psnr_db"), ".2f")


def _speed(per_s: float | None) -> str:
    return "–" if per_s is None else f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.2g}"


def _shown_time(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)
