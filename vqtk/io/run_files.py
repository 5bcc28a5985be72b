"""The JSON files of runs and studies: the contents of each, checked when it is read.

A file may have been cut short, edited or overwritten. Readers get complete values of the right types, or one error
that says which file is damaged, and where.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le, Len
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vqtk.errors import CheckpointError

PARTS = ".dist"
"""How the name of a checkpoint ends that is a folder of parts."""
Number = float | None
"""A metric; None if it does not apply to the kind of data."""


class File(BaseModel):
    """The types of a file's values; a file may hold further values."""

    model_config = ConfigDict(strict=True, extra="allow")
    what: ClassVar[str] = "the file"


class DataRecord(File):
    """The record of a run's data in its manifest."""

    train_items: int = 0
    test_items: int = 0
    sha256: str = ""
    source: str | None = None
    note: str | None = None
    root: str | None = None
    path: str | None = None
    skipped: dict[str, Any] = {}


class ExecutionRecord(File):
    """How a run's updates are computed."""

    inductor: bool = False
    graph: bool = False
    precision: str = "float32"
    recompute: int = 0
    channels_last: bool = False


class BegunRecord(File):
    """The weights that a run started from."""

    path: str
    sha256: str
    update: int | None = None


class ManifestFile(File):
    """`manifest.json`; a value has its default if the version of vqtk that wrote the file did not know it."""

    what: ClassVar[str] = "the manifest"
    directory: str = ""
    recipe_sha256: str = ""
    name: str = ""
    seed: int = 0
    parameters: int = 0
    bits_per_item: float = 0.0
    options: Annotated[int, Ge(1)] = 1
    kind: str = ""
    loss: str | None = None
    recipe: dict[str, Any] = {}
    data: DataRecord = DataRecord()
    characters: str = ""
    execution: ExecutionRecord = ExecutionRecord()
    plugins: list[dict[str, str]] = []
    installed: dict[str, str] = {}
    begun: BegunRecord | None = Field(None, alias="from")
    threads: Annotated[int, Ge(1)] = 1
    device: str = ""


class StageRecord(File):
    """The metrics after a stage."""

    stage: Annotated[int, Ge(1)]
    bits: Annotated[float, Gt(0)]
    distortion: Number
    entropy_nats: float
    used: int
    mse: Number = None
    mse_pixels: Number = None
    iou: Number = None
    distance: Number = None


StageRecords = Annotated[list[StageRecord], Len(1)]


class TestedRecord(File):
    """The metrics of test examples."""

    final: float


class EvaluationFile(File):
    """`evaluation.json`."""

    what: ClassVar[str] = "the evaluation"
    update: int
    items: int
    split: str = "test"
    row: TestedRecord
    stages: StageRecords
    usage: Annotated[list[Annotated[list[int], Len(1)]], Len(1)]


class QualityRecord(File):
    """The distances of samples from the data."""

    features: str | None = None


class SearchedFile(File):
    """`eval.json`, as far as a comparison by a search reads it."""

    what: ClassVar[str] = "the results of vqtk eval"
    search: str | None = None
    updates: int | None = None
    is_subset: bool = True
    test: TestedRecord
    stages: StageRecords


class SummaryFile(File):
    """`summary.json`."""

    what: ClassVar[str] = "the summary"
    updates: int
    train_s: float
    peak_memory_mb: float
    test_items: int
    test_is_subset: bool = False
    test: dict[str, Number]
    stages: StageRecords
    quality: QualityRecord = QualityRecord()


class CodesRecord(File):
    """A model's codes of test examples, and their reconstructions."""

    mse: Number
    mse_pixels: Number
    psnr_db: Number
    entropy_bits: float
    encode_items_per_s: float
    decode_items_per_s: float


class SamplesRecord(File):
    """The distances of a model's samples from test examples."""

    features: str
    count: int
    reference: dict[str, float]
    uniform: dict[str, float]
    prior: dict[str, str | float]


class ResultRow(File):
    """A model's row in the file of `vqtk results`."""

    label: str
    identity: dict[str, str | int | bool | None]
    bits: float
    parameters: int
    training: dict[str, Number]
    items: int
    greedy: CodesRecord
    searched: CodesRecord | None = None
    samples: SamplesRecord | None = None
    environment: dict[str, Any]


class ResultsFile(File):
    """The file of `vqtk results`."""

    what: ClassVar[str] = "the file of results"
    rows: list[ResultRow]


class MetricsRow(File):
    """A line of `metrics.jsonl`."""

    update: int
    test: dict[str, Number] = {}
    subset: dict[str, Number] = {}
    validation: dict[str, Number] = {}
    __pydantic_extra__: dict[str, float | bool] = Field(init=False)


class LabelsFile(File):
    """`labels.json`: what a user wrote about a run."""

    what: ClassVar[str] = "the file of tags"
    tags: list[str] = []
    note: str | None = None


class CodesHeader(File):
    """The header of a file of codes; `array` if the examples came from one array, not from files of their own."""

    what: ClassVar[str] = "the header"
    model: Annotated[str, Len(64, 64)]
    kind: str
    shape: list[Annotated[int, Ge(1)]]
    stages: Annotated[int, Ge(1), Le(10_000)]
    options: Annotated[int, Ge(2), Le(65_536)]
    count: Annotated[int, Ge(1), Le(1 << 40)]
    block: Annotated[int, Ge(1), Le(1 << 15)]
    prior: Annotated[str, Len(1, 40)]
    tables: Annotated[int, Ge(0)]
    named: bool
    array: bool
    search: str | None = None


class CellFile(File):
    """`cell.json` of a study's run."""

    what: ClassVar[str] = "the state of this cell"
    state: str = "done"
    error: str | None = None
    attempts: int = 0
    worker: str | None = None
    host: str | None = None


class _Placed(File):
    variant: str
    path: str
    choices: dict[str, str] | None = None
    seed: int = 0
    updates: int | None = None
    examples: int | None = None


class _Metric(File):
    name: str
    better: str | None = None


class _Terms(File):
    equal: str | None = None
    said: str | None = None
    measured: dict[str, int] = {}


class LimitsFile(File):
    """`limits.json` of a study's run."""

    what: ClassVar[str] = "the limits of this run"
    metric: _Metric
    limits: dict[str, float]


class _Seeding(File):
    start: Annotated[int, Ge(3)]
    most: int
    until: Annotated[float, Gt(0)]


class StudyFile(File):
    """`study.json`."""

    what: ClassVar[str] = "the study"
    name: str | None = None
    baseline: str | None = None
    metrics: list[_Metric] = []
    terms: _Terms = _Terms()
    axes: dict[str, list[str]] = {}
    numeric: dict[str, str] = {}
    within: Annotated[float, Gt(0)] | None = None
    seeding: _Seeding | None = None
    cells: list[_Placed]


class _Point(File):
    stage: int
    bits: float
    mse: float
    mse_pixels: float


class _Curve(File):
    stages: Annotated[list[_Point], Len(1)]


class ReferencesFile(File):
    """`references.json`."""

    what: ClassVar[str] = "the references"
    format: str
    kmeans: _Curve
    gaussian: _Curve


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises: ValueError if it is not JSON, or is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_file(path: Path, kind: type[File]) -> dict[str, Any]:
    """Return the values of a JSON file. Raises: CheckpointError, of one sentence, if they are not of this kind."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {kind.what} is damaged: not JSON ({_first_line(error)}).") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: {kind.what} is damaged: not a JSON object.")
    try:
        kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{path}: {kind.what} is damaged: {place}: {first['msg'].lower()}.") from None
    return found


def read_rows(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the complete rows of metrics, without the damaged ones."""
    rows = []
    for line in lines:
        try:
            row = parse_json(line)
            MetricsRow.model_validate(row)
        except ValueError:
            continue
        rows.append(row)
    return rows


def watched_of(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return the metrics in a row of the examples of every evaluation: the same ones from the first to the last.

    They are of the validation split, or without one of the fixed subset of the test split. None for a row of training.
    """
    return next((row[split] for split in ("validation", "subset", "test") if isinstance(row.get(split), dict)), None)


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return a run's complete rows of metrics and the number of damaged ones; an unfinished last line is neither."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [], 0
    lines = text.splitlines()
    rows = read_rows(lines)
    unfinished = bool(text) and not text.endswith("\n") and not read_rows(lines[-1:])
    return rows, len(lines) - len(rows) - unfinished


def checkpoints(run: Path) -> list[Path]:
    """Return a run's weights files, oldest first."""
    return sorted((run / "checkpoints").glob("update_*.safetensors"))


def resumable(run: Path) -> list[Path]:
    """Return the checkpoints that a run can be resumed from, oldest first: weights files, and folders of parts.

    A run that holds its weights in parts resumes from these; the weights file of the same update is for others.
    """
    parts = {path.stem: path for path in (run / "checkpoints").glob(f"update_*{PARTS}")}
    whole = {path.stem: path for path in checkpoints(run)}
    return [path for _, path in sorted({**whole, **parts}.items())]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
