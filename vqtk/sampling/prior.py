"""A first-order Markov prior over codes, fitted by counting: p(c₀) and, for each later stage, p(cₛ | cₛ₋₁).

A model decodes any code, and training uses its options about equally, so codes are sampled uniformly by default. This
prior measures how far the codes of real items are from that, as far as two stages that follow each other can tell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import log
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vqtk.datasets import Splits, fixed_subset
from vqtk.datasets._paths import user_cache
from vqtk.errors import DataError
from vqtk.evaluate.evaluation import Track, encode_all, untracked
from vqtk.files import file_sha256, replacing
from vqtk.io.run_files import parse_json
from vqtk.models import Model

ITEMS, TEST_ITEMS = 2000, 500
"""Training items whose codes a prior is fitted on, and test items whose codes it is scored on."""
STRENGTHS = tuple(2.0**power for power in range(14, -3, -1))
"""The weights, in counts, among which that of what frequencies are smoothed towards is chosen."""
_FORMAT = "vqtk prior 2"


@dataclass(frozen=True)
class Markov:
    """Log probabilities of codes: `first` (k,) of stage 0, `later` (s - 1, k, k) of a stage's code, given the last."""

    first: Tensor
    later: Tensor

    def nats(self, codes: Tensor) -> Tensor:
        """Return the negative log probability of codes (n, s), the stages that they have: (n,)."""
        steps = range(codes.shape[1] - 1)
        given = [self.later[stage, codes[:, stage], codes[:, stage + 1]] for stage in steps]
        return -torch.stack([self.first[codes[:, 0]], *given]).sum(0)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n codes (n, s), drawn on the CPU."""
        codes = [torch.multinomial(self.first.exp(), n, replacement=True, generator=generator)]
        for table in self.later:
            codes.append(torch.multinomial(table[codes[-1]].exp(), 1, generator=generator)[:, 0])
        return torch.stack(codes, 1)


def fit_markov(codes: Tensor, options: int) -> Markov:
    """Return the prior of codes (n, s) in [0, options).

    A stage's own frequencies are smoothed towards uniform ones, and those given the last code towards the stage's own.
    """
    uniform = torch.full((options,), 1 / options, dtype=torch.float64)
    nothing = torch.zeros_like(codes[:, 0])
    own = [_smoothed(nothing, code, 1, towards=uniform)[0] for code in codes.unbind(1)]
    later = [_smoothed(codes[:, s - 1], codes[:, s], options, towards=own[s]).log() for s in range(1, len(own))]
    return Markov(own[0].log(), torch.stack(later) if later else uniform.new_zeros(0, options, options))


def _smoothed(given: Tensor, code: Tensor, contexts: int, *, towards: Tensor) -> Tensor:
    """Return p(code | given) (contexts, k) from pairs (n,), (n,), smoothed towards frequencies (k,).

    The weight of these is that under which each pair is likeliest given all others.
    """
    k = len(towards)
    counts = torch.bincount(given * k + code, minlength=contexts * k).double().reshape(contexts, k)
    seen, each = counts.sum(1), counts[given, code]

    def left_out(strength: float) -> float:
        """Return the log probability of every pair, given all others."""
        likely = (each - 1 + strength * towards[code]) / (seen[given] - 1 + strength)
        return float(likely.log().sum())

    strength = max(STRENGTHS, key=left_out)
    return (counts + strength * towards) / (seen[:, None] + strength)


@dataclass(frozen=True)
class Fitted:
    """A prior, and what it was fitted and scored on.

    `nats` and `uniform_nats` are what a test item's code costs on average under it and under the uniform prior;
    `source` says where the items came from, `seed` which of them they are.
    """

    prior: Markov
    nats: float
    uniform_nats: float
    items: int
    test_items: int
    seed: int
    source: str

    def facts(self) -> dict[str, Any]:
        """Return everything but the prior, as JSON values."""
        return {key: value for key, value in asdict(self).items() if key != "prior"}


def fitted_prior(
    model: Model,
    *,
    weights: Path,
    path: Path,
    splits: Callable[[], Splits],
    items: int = ITEMS,
    seed: int = 0,
    data: str = "",
    track: Track = untracked,
    unkept: Callable[[str], object] | None = None,
) -> Fitted:
    """Return the prior kept at `path` if it is of these weights and items; otherwise fit one, and keep it there.

    It is fitted on a seeded subset of `items` training items, and scored on one of `TEST_ITEMS` test items; `splits`
    is called only where that is needed. `data` says which they are, where `path` does not. `unkept` is called with the
    reason if it cannot be written. Raises: DataError without it.
    """
    asked = {"format": _FORMAT, "weights": file_sha256(weights), "items": str(items), "seed": str(seed), "data": data}
    kept = _read(path, asked)
    if kept:
        return kept
    fitted = _fit(model, splits(), items=items, seed=seed, track=track)
    tensors = {"first": fitted.prior.first, "later": fitted.prior.later}
    metadata = {**asked, "facts": json.dumps(fitted.facts())}
    metadata["sha256"] = _checksum(fitted.prior.first, fitted.prior.later, metadata)
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        told = (
            f"{path}: the prior cannot be kept there ({error}). Expected a place that can be written to. Make it "
            "so, or free its disk."
        )
        if unkept is None:
            raise DataError(told) from None
        unkept(told)
    return fitted


def place_of(folder: Path | None, weights: Path) -> Path:
    """Return where the prior of weights is kept: in the folder given, or in the cache where there is none."""
    if folder:
        return folder / "prior.safetensors"
    return user_cache() / "priors" / f"{weights.stem}_{file_sha256(weights)[:12]}.safetensors"


def _fit(model: Model, splits: Splits, *, items: int, seed: int, track: Track) -> Fitted:
    train, test = fixed_subset(splits.train, items, seed), fixed_subset(splits.test, TEST_ITEMS, seed)
    codes = encode_all(model, splits.train, items=train, track=track, what="training items")
    prior = fit_markov(codes, model.options)
    scored = prior.nats(encode_all(model, splits.test, items=test, track=track, what="test items"))
    return Fitted(
        prior,
        nats=float(scored.mean()),
        uniform_nats=model.stages * log(model.options),
        items=len(train),
        test_items=len(test),
        seed=seed,
        source=splits.source,
    )


def _read(path: Path, asked: dict[str, str]) -> Fitted | None:
    """Return the prior at a path if it is there, whole, and what is asked for."""
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
            first, later = file.get_tensor("first"), file.get_tensor("later")
        if any(found.get(key) != value for key, value in {**asked, "sha256": _checksum(first, later, found)}.items()):
            return None
        return Fitted(Markov(first, later), **parse_json(found["facts"]))
    except (OSError, SafetensorError, KeyError):
        return None


def _checksum(first: Tensor, later: Tensor, metadata: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps({**metadata, "sha256": ""}, sort_keys=True).encode())
    for table in (first, later):
        digest.update(f"{table.dtype} {tuple(table.shape)}".encode())
        digest.update(table.contiguous().numpy().data)
    return digest.hexdigest()
