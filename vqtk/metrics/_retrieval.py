"""An exact search among reconstructions for the nearest neighbours of queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor

from vqtk.datasets import Split, Splits
from vqtk.metrics._base import RetrievalMetric
from vqtk.metrics._measure import MOST_VALUES
from vqtk.models import Model
from vqtk.registry import metrics

MOST_RANKS = 100
"""How many of the nearest reconstructions of a query are looked at."""
QUERIES_AT_ONCE = 1024


@dataclass(frozen=True)
class Retrieval:
    """What a search found.

    Arguments:
        hits: (queries, ranks), whether the reconstruction of this rank is that of the query's nearest example.
        squared_error: the mean squared distance of an example to its reconstruction, in the units of the files: a sum
            over values, as it is reported for vectors.
    """

    hits: Tensor
    squared_error: float


@torch.no_grad()
def retrieval(model: Model, splits: Splits, items: Tensor, codes: Tensor) -> Retrieval | None:
    """Search the decoded test examples exactly, in L2, for the nearest one of each query; None without queries.

    Examples are read and decoded in blocks.

    Arguments:
        model: the model.
        splits: the data.
        items: the indices of the test examples that are searched (n,).
        codes: their codes (n, stages).
    """
    if splits.queries is None:
        return None
    originals = partial(_blocks, model, items, splits.test)
    decoded = partial(_blocks, model, codes)
    hits = _nearest(model, splits.queries, decoded, MOST_RANKS) == _nearest(model, splits.queries, originals, 1)
    pairs = zip(originals(), decoded(), strict=True)
    squares = sum((one - other).double().square().sum().item() for one, other in pairs)
    std = splits.units["std"][0] if splits.units else 1.0
    return Retrieval(hits, squares * std**2 / len(items))


def retrieval_metrics(model: Model, splits: Splits, items: Tensor, codes: Tensor) -> dict[str, float]:
    """Return the registered metrics of a search by name; {} without queries. Arguments as in `retrieval`."""
    found = retrieval(model, splits, items, codes)
    if found is None:
        return {}
    known = {name: entry.component for name, entry in metrics.entries().items()}
    return {name: one(model.data).measure(found) for name, one in known.items() if issubclass(one, RetrievalMetric)}


def _blocks(model: Model, which: Tensor, split: Split | None = None) -> Iterator[Tensor]:
    """Yield examples of a split (indices), or without one the reconstructions of codes, in blocks (m, values)."""
    for some in which.split(max(1, MOST_VALUES // max(prod(model.data.shape), QUERIES_AT_ONCE))):
        if split is None:
            block = model.loss.show(model.decode(some.to(model.device)))
        else:
            block = model.data.normalise(split[some].to(model.device), model.dtype)
        yield block.flatten(1)


def _nearest(model: Model, queries: Split, base: Callable[[], Iterator[Tensor]], most: int) -> Tensor:
    """Return the places of the `most` base vectors nearest to each query, the nearest first: (q, most), on the CPU."""
    found = []
    for some in torch.arange(len(queries)).split(QUERIES_AT_ONCE):
        wanted = model.data.normalise(queries[some].to(model.device), model.dtype)
        best, places, start = wanted.new_empty(len(some), 0), some.new_empty(len(some), 0).to(model.device), 0
        for block in base():
            distances = block.square().sum(1) - 2 * wanted @ block.T  # Less the square of the query, which ranks none.
            order = torch.arange(start, start + len(block), device=model.device).expand(len(some), -1)
            best, places = torch.cat([best, distances], 1), torch.cat([places, order], 1)
            best, kept = best.topk(min(most, best.shape[1]), largest=False)
            places, start = places.gather(1, kept), start + len(block)
        found.append(places.cpu())
    return torch.cat(found)
