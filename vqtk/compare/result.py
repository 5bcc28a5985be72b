"""What a comparison found. `to_json` returns what `comparison.json` holds; docs/compare.md lists its keys."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vqtk.compare.collect import LeftOut
from vqtk.compare.metrics import Span
from vqtk.compare.statistics import Effect, MeanStd
from vqtk.recipe.show import Change


@dataclass(frozen=True)
class Difference:
    """The difference of a variant from the baseline, over the seeds that both have.

    Arguments:
        pairs: how many such seeds there are.
        mean: variant − baseline.
        low: the lower end of the confidence interval; None if there are too few seeds.
        high: its upper end.
        p: the p-value of the paired t-test.
        p_holm: the p-value, corrected over all variants.
        significant: whether the corrected p is small enough; None if there are too few seeds.
        p_within: the p-value of the tests of equivalence, corrected likewise; None without a margin.
        equivalent: whether that p is below 0.05: the variant is equivalent to the baseline within the margin.
        verdict: that in words.
    """

    pairs: int
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    significant: bool | None
    p_within: float | None
    equivalent: bool | None
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"stands" if key == "significant" else key: value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class ComparedStage:
    """What a variant reached after a stage.

    Arguments:
        stage: its number, from 1.
        bits: the rate up to it.
        distortion: over seeds.
        entropy: of the stage's code, as a share of its maximum: the mean over seeds.
    """

    stage: int
    bits: float
    distortion: MeanStd
    entropy: float

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"stage": self.stage, "bits": self.bits, **asdict(self.distortion), "entropy": self.entropy}


@dataclass(frozen=True)
class CodeUsage:
    """How a variant uses its codes.

    Arguments:
        entropy_nats: of a stage's code: the mean over stages and seeds.
        used: options that a stage uses: the mean over stages and seeds.
        options: how many there are.
    """

    entropy_nats: float
    used: float
    options: int | None


@dataclass(frozen=True)
class MeasuredCosts:
    """What a variant costs.

    Arguments:
        bits: the rate of an example.
        parameters: of the model.
        encode_flops: operations to encode an example; None if the model cannot be built without its data.
        decode_flops: operations to decode an example, likewise.
        updates: the mean over seeds.
        train_s: the seconds of training: the mean over seeds.
        step_ms: of an update: the median of the logged ones.
        examples_per_s: in training, by `step_ms`.
        peak_memory_mb: the largest of all seeds.
    """

    bits: float | None
    parameters: int | None
    encode_flops: int | None
    decode_flops: int | None
    updates: int
    train_s: float
    step_ms: float | None
    examples_per_s: float | None
    peak_memory_mb: float

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON values."""
        counted = self.encode_flops is not None
        return {
            "bits": self.bits,
            "parameters": self.parameters,
            "flops": {"encode": self.encode_flops, "decode": self.decode_flops} if counted else None,
            "updates": self.updates,
            "train_s": self.train_s,
            "step_ms": self.step_ms,
            "items_per_s": self.examples_per_s,
            "peak_memory_mb": self.peak_memory_mb,
        }


@dataclass(frozen=True)
class ComparedRun:
    """A run of a variant.

    Arguments:
        seed: the run's.
        path: its directory.
        value: of the metric.
        curve: the test metric over updates, as (update, value).
    """

    seed: int
    path: Path
    value: float | None
    curve: list[tuple[int, float]]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class ComparedVariant:
    """What the runs of a variant reached.

    Arguments:
        name: unique in the comparison.
        choices: its value on each axis of a study.
        seeds: of its finished runs.
        result: the metric over seeds.
        area: the area under the rate–distortion curve, over seeds.
        also: each of the other metrics, over seeds.
        stages: what it reached after each stage.
        late_fall: by what part the curve improved over the last fifth of the updates; None if that is unknown.
        usage: how it uses its codes.
        costs: what it costs.
        runs: one a seed.
        difference: from the baseline; None for the baseline itself.
        changes: where its recipe differs from the baseline's.
    """

    name: str
    choices: dict[str, str]
    seeds: list[int]
    result: MeanStd
    area: MeanStd
    also: dict[str, MeanStd]
    stages: list[ComparedStage]
    late_fall: float | None
    usage: CodeUsage
    costs: MeasuredCosts
    runs: list[ComparedRun]
    difference: Difference | None
    changes: list[Change]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "name": self.name,
            "choices": self.choices,
            "n": len(self.seeds),
            "seeds": self.seeds,
            **asdict(self.result),
            "area": asdict(self.area),
            "also": {name: asdict(reached) for name, reached in self.also.items()},
            "stages": [stage.to_json() for stage in self.stages],
            "late_fall": self.late_fall,
            **asdict(self.usage),
            **self.costs.to_json(),
            "runs": [run.to_json() for run in self.runs],
            "difference": self.difference.to_json() if self.difference else None,
            "changes": [asdict(change) for change in self.changes],
        }


@dataclass(frozen=True)
class Sweep:
    """An axis of numbers.

    Arguments:
        scale: how it is drawn: `log` or `linear`.
        numbers: of each variant, by name.
    """

    scale: str
    numbers: dict[str, float]


@dataclass(frozen=True)
class RunComparison:
    """A comparison of runs.

    Arguments:
        name: the study's, otherwise those of the paths.
        metric: what the variants are compared by.
        better: `lower` or `higher`.
        baseline: the name of the variant that the others are compared with.
        also: the study's other metrics.
        against: the cost to plot the metric against: `time` or `flops`.
        kind: of data.
        terms: what a study holds equal, in words.
        search: how all runs encoded the test examples for the metrics; None if greedily.
        within: the margin of equivalence, in units of the metric; None if equivalence is not tested.
        seeding: how a study adds seeds: `start`, `most`, `until`; None if it does not.
        sweeps: the axes of numbers of a study, by the path of the setting.
        unequal: a sentence for each term that differs between runs.
        units: a sentence if the losses are in different units, otherwise empty.
        confidence: of the intervals.
        span_bits: the rates between which areas are taken; None if the curves have none in common.
        curve: the metric that is plotted over updates.
        references: `References.plain` of the first run that has any.
        effects: the main effect of each axis of a study.
        left_out: the runs that are not compared.
        variants: the baseline first.
        verdicts: a sentence for each variant but the baseline.
        notes: what to know beside the numbers.
    """

    name: str
    metric: str
    better: str
    baseline: str
    also: list[str]
    against: str
    kind: str | None
    terms: str | None
    search: str | None
    within: float | None
    seeding: dict[str, Any] | None
    sweeps: dict[str, Sweep]
    unequal: list[str]
    units: str
    confidence: float
    span_bits: Span | None
    curve: str
    references: dict[str, Any] | None
    effects: dict[str, list[Effect]]
    left_out: list[LeftOut]
    variants: list[ComparedVariant]
    verdicts: list[str]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, which `comparison.json` holds."""
        return {
            **vars(self),
            "sweeps": {axis: asdict(sweep) for axis, sweep in self.sweeps.items()},
            "effects": {axis: [effect.to_json() for effect in effects] for axis, effects in self.effects.items()},
            "left_out": [{"path": str(one.path), "why": one.why} for one in self.left_out],
            "variants": [variant.to_json() for variant in self.variants],
        }
