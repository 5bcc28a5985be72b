"""A first-order Markov prior over codes, fitted by counting: p(c₀) and, for each later stage, p(cₛ | cₛ₋₁).

A model decodes any code, and training uses its options about equally, so codes are sampled uniformly by default. This
prior measures how far the codes of real examples are from uniform, as far as pairs of consecutive stages show.
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
"""Numbers of training examples that a prior is fitted on, and of test examples that it is scored on."""
STRENGTHS = tuple(2.0**power for power in range(14, -3, -1))
"""The candidates for the strength of the smoothing, in counts."""
_FORMAT = "vqtk prior 2"


@dataclass(frozen=True)
class Markov:
    """Log probabilities of codes: `first` (k,) of stage 0, `later` (s - 1, k, k) of each later stage given the last."""

    first: Tensor
    later: Tensor

    def nats(self, codes: Tensor) -> Tensor:
        """Return the negative log probability (n,) of codes (n, s), which may have fewer stages than the prior."""
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

    A stage's marginal frequencies are smoothed towards uniform ones, and its conditional ones towards the marginal.
    """
    uniform = torch.full((options,), 1 / options, dtype=torch.float64)
    nothing = torch.zeros_like(codes[:, 0])
    own = [_smoothed(nothing, code, 1, towards=uniform)[0] for code in codes.unbind(1)]
    later = [_smoothed(codes[:, s - 1], codes[:, s], options, towards=own[s]).log() for s in range(1, len(own))]
    return Markov(own[0].log(), torch.stack(later) if later else uniform.new_zeros(0, options, options))


def _smoothed(given: Tensor, code: Tensor, contexts: int, *, towards: Tensor) -> Tensor:
    """Return p(code | given) (contexts, k) from pairs (n,), (n,), smoothed towards frequencies (k,).

    The strength of the smoothing is the one that maximises the leave-one-out likelihood of the pairs.
    """
    k = len(towards)
    counts = torch.bincount(given * k + code, minlength=contexts * k).double().reshape(contexts, k)
    seen, each = counts.sum(1), counts[given, code]

    def left_out(strength: float) -> float:
        """Return the leave-one-out log likelihood: of every pair given all others."""
        likely = (each - 1 + strength * towards[code]) / (seen[given] - 1 + strength)
        return float(likely.log().sum())

    strength = max(STRENGTHS, key=left_out)
    return (counts + strength * towards) / (seen[:, None] + strength)


@dataclass(frozen=True)
class Fitted:
    """A prior, and what it was fitted and scored on.

    `nats` and `uniform_nats` are the mean costs of a test example's code under it and under the uniform prior;
    `source` is where the examples came from, and `seed` chose the subset of `items`.
    """

    prior: Markov
    nats: float
    uniform_nats: float
    items: int
    test_items: int
    seed: int
    source: str

    def facts(self) -> dict[str, Any]:
        """Return everything except the prior, as JSON values."""
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
    """Return the prior stored at `path` if it was fitted for the same arguments; otherwise fit one and store it there.

    Arguments:
        model: the model whose codes to fit.
        weights: its weights file, whose checksum the stored prior must have.
        path: where to store the prior.
        splits: returns the data; called only if a prior must be fitted.
        items: the number of training examples to fit on, a seeded subset; `TEST_ITEMS` test examples score the prior.
        seed: of the subsets.
        data: identifies the data, if `path` does not.
        track: shows the progress.
        unkept: called with the reason if `path` cannot be written.

    Raises: DataError if `path` cannot be written and `unkept` is not given.
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
        reason = (
            f"{path}: the prior cannot be written ({error}). Expected a folder that can be written to, on a disk with "
            "free space."
        )
        if unkept is None:
            raise DataError(reason) from None
        unkept(reason)
    return fitted


def place_of(folder: Path | None, weights: Path) -> Path:
    """Return where the prior of weights is stored: in `folder`, or in the user's cache if it is None."""
    if folder:
        return folder / "prior.safetensors"
    return user_cache() / "priors" / f"{weights.stem}_{file_sha256(weights)[:12]}.safetensors"


def _fit(model: Model, splits: Splits, *, items: int, seed: int, track: Track) -> Fitted:
    train, test = fixed_subset(splits.train, items, seed), fixed_subset(splits.test, TEST_ITEMS, seed)
    codes = encode_all(model, splits.train, items=train, track=track, what="training examples")
    prior = fit_markov(codes, model.options)
    scored = prior.nats(encode_all(model, splits.test, items=test, track=track, what="test examples"))
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
    """Return the prior at a path; None if it does not exist, is damaged, or was fitted for other arguments."""
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
