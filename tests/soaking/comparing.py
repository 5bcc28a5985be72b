"""How a run that was killed and resumed differs from one that was not."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vqtk.io.run_files import checkpoints
from vqtk.io.weights import read_weights


@dataclass
class Found:
    """What became of the runs of a kind."""

    kind: str
    counts: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    def add(self, what: str, number: int, remark: str) -> None:
        """Count something that should not be."""
        if number:
            self.counts[what] += number
            self.remarks.append(f"{self.kind}: {remark}")


def compare(runs: list[Path], whole: list[Path], found: Found) -> None:
    """Add to what was found how runs differ from those that nothing interrupted."""
    for run, other in zip(runs, whole, strict=True):
        different = _different(_end(run), _end(other))
        found.add("differences", len(different), f"{run}: {', '.join(different)}")
        own, theirs = _rows(run), _rows(other)
        lost, doubled = theirs - own, Counter({row: n - 1 for row, n in own.items() if n > 1})
        found.add("lost", lost.total(), f"{run}: lost or different {list(lost)[:3]}")
        found.add("doubled", doubled.total(), f"{run}: doubled {list(doubled)[:3]}")
        found.add("differences", (own - theirs - doubled).total() and not lost, f"{run}: more lines")


def _end(run: Path) -> dict[str, Any]:
    """Return all that a run came to, but for times."""
    weights = checkpoints(run)[-1]
    state = torch.load(weights.with_suffix(".trainer.pt"), weights_only=True)
    summary = json.loads((run / "summary.json").read_text())
    kept = {key: summary[key] for key in ("updates", "test", "stages", "test_items")}
    return {
        **{f"weights {name}": value for name, value in read_weights(weights)[0].items()},
        **{f"optimiser {name}": value for name, value in _tensors(state["optimizer"]).items()},
        "summary": kept,
        "evaluation": json.loads((run / "evaluation.json").read_text()),
        "checkpoint": weights.name,
    }


def _tensors(state: Any, place: str = "") -> dict[str, Any]:
    if isinstance(state, dict):
        return {name: one for key, value in state.items() for name, one in _tensors(value, f"{place}/{key}").items()}
    return {place: state}


def _different(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    def same(name: str) -> bool:
        own, theirs = one.get(name), other.get(name)
        return torch.equal(own, theirs) if isinstance(own, torch.Tensor) else own == theirs

    return [name for name in {**one, **other} if not same(name)]


def _rows(run: Path) -> Counter[str]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = ({key: value for key, value in json.loads(line).items() if key != "step_ms"} for line in lines)
    return Counter(json.dumps(row) for row in rows)


def leftovers(out: Path) -> list[Path]:
    """Return temporaries, states without weights and weights without a state, and what was set aside as damaged."""
    left = [*out.rglob(".*"), *out.rglob("*.tmp*"), *out.rglob("*.damaged"), *out.rglob("stop")]
    for weights in out.rglob("update_*.safetensors"):
        left += [] if weights.with_suffix(".trainer.pt").exists() else [weights]
    for state in out.rglob("update_*.trainer.pt"):
        left += [] if state.with_name(state.name.replace(".trainer.pt", ".safetensors")).exists() else [state]
    return sorted(set(left))
