"""vqtk eval, of one model, and vqtk results, one table of several."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqtk.cli.eval_tables import print_evaluation
from vqtk.cli.options import (
    DataDir,
    Device,
    Json,
    ModelPath,
    Opened,
    OtherData,
    PictureFormat,
    Plugins,
    Searched,
    open_model,
    print_json,
    say_unkept,
    search_by,
    tracked,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from vqtk.compare.model_table import Subject
    from vqtk.evaluate.evaluation import Evaluation
    from vqtk.metrics import Metric
    from vqtk.sampling.prior import Markov


def eval_command(
    model: ModelPath,
    items: Annotated[
        int | None,
        typer.Option(
            min=1, help="Measure on a random subset of N test examples, drawn with a fixed seed.", metavar="N"
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Batch size. Default: 100, or less if the proposals would be too large.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Also train classifiers on the codes. The data need labels.")
    ] = False,
    probe_items: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="With --probe: train on a random subset of N training examples, drawn with a fixed seed.",
        ),
    ] = None,
    quality: Annotated[
        bool, typer.Option("--quality", help="Also measure the distance between samples and test images.")
    ] = False,
    references: Annotated[
        bool,
        typer.Option(
            "--references",
            help="Also compute two reference curves from the data alone: K-means on raw pixels, and the "
            "rate–distortion function of a Gaussian.",
        ),
    ] = False,
    codec: Annotated[
        bool,
        typer.Option(
            "--codec",
            help="Also write the codes to files and measure their size; for images, compare it with JPEG, WebP and "
            "AVIF. Needs vqtk[codec].",
        ),
    ] = False,
    search: Searched = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="METRIC",
            help="Also measure this metric, e.g. ssim (repeatable). `vqtk list metrics` lists them.",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    data: OtherData = None,
    plugin: Plugins = None,
    format: Annotated[
        PictureFormat | None, typer.Option("--format", help="Format of the plot in a run directory. Default: png.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure rate, distortion and code usage on the test split.

    Prints a row for each stage, and the speed of encoding and decoding. For a run directory, also writes
    RUN/eval.json and RUN/images/rate_distortion.png.
    """
    from vqtk.errors import VqtkError
    from vqtk.evaluate.overview import EvaluationRequest, overview

    if format and not model.is_dir():
        raise VqtkError(f"--format {format.value} is that of the plot in a run directory, and {model} is not one.")
    if probe_items and not probe:
        raise VqtkError("--probe-items limits the training examples of --probe. Give both.")
    if threads:
        import torch

        torch.set_num_threads(threads)
    opened, unkept = open_model(model, device, data_dir, data), list[str]()
    search_by(opened, search)
    metrics = _asked_metrics(opened, metric or [])
    asked = EvaluationRequest(
        items=items, batch=batch, probe=probe, probe_items=probe_items, quality=quality, search=search, metrics=metrics
    )
    splits = opened.splits
    compared = _references(opened, unkept) if references else {}
    further = partial(_codec, opened, unkept) if codec else None
    measured = overview(opened.model, opened.recipe, splits, asked=asked, track=tracked, further=further)
    found = {**measured, "updates": opened.updates, **compared}
    if json:
        print_json(found)
    else:
        print_evaluation(found, metrics)
    written = _kept(found, opened.folder, (format or PictureFormat.png).value, unkept) if opened.folder else []
    if not json:
        for path in written:
            print(f"Written: {path}")
    say_unkept(unkept)


def results_command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[LABEL=]MODEL...",
            help="Run directories, weights files, or models that ship, each with its name in the table.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.md", help="The table to write.")] = Path(
        "results.md"
    ),
    search: Annotated[
        str | None, typer.Option(help="Also encode by this search, e.g. beam:16. Models without one keep a –.")
    ] = None,
    items: Annotated[
        int | None, typer.Option(min=2, help="Measure on a fixed subset of N test examples.", metavar="N")
    ] = None,
    samples: Annotated[
        bool, typer.Option(help="Compare samples from uniform codes and from a prior with test examples.")
    ] = True,
    prior_items: Annotated[
        int, typer.Option(min=1, metavar="N", help="Fit the prior to the codes of N training examples.")
    ] = 10_000,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    plugin: Plugins = None,
) -> None:
    """Measure several models of images in the same way, and write one table.

    Writes FILE.md, and FILE.json with everything measured. Models in FILE.json that were measured in the same way are
    not measured again, so the command can be stopped and repeated.
    """
    from vqtk.compare.model_table import ModelsRequest, measure_models, measured_rows, rows_as_json, rows_as_markdown
    from vqtk.errors import VqtkError
    from vqtk.files import write_text
    from vqtk.recipe.build import build_search

    if out.suffix != ".md":
        raise VqtkError(f"--out {out}: expected a name that ends in .md; {out.stem}.json is written beside it.")
    if threads:
        import torch

        torch.set_num_threads(threads)
    if search:
        build_search(search, origin="--search")
    store = out.with_suffix(".json")

    def keep(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> None:
        try:
            write_text(store, rows_as_json([*rows, *others]))
            write_text(out, rows_as_markdown(rows))
        except OSError as error:
            raise VqtkError(f"{error.filename}: the table cannot be written ({error.strerror}).") from None

    subjects = [partial(_subject, text, device, data_dir) for text in models]
    asked = ModelsRequest(items=items, search=search, samples=samples, prior_items=prior_items)
    rows = measure_models(subjects, asked, kept=measured_rows(store), keep=keep, track=tracked)
    print(rows_as_markdown(rows))
    print(f"Written: {out}\nWritten: {store}")


def _subject(text: str, device: str, data_dir: Path | None) -> Subject:
    """Return the model that `LABEL=MODEL` or `MODEL` names, its data, and what is known of its training."""
    from vqtk.compare.model_table import Subject
    from vqtk.files import file_sha256
    from vqtk.io.weights import run_of, weights_of
    from vqtk.runs.directory import RunDirectory

    label, named, path = text.rpartition("=")
    opened = open_model(Path(path), device, data_dir)
    run = run_of(opened.path)
    finished = run is not None and (run / "summary.json").is_file()
    summary = RunDirectory(run).summary() if run and finished else {}
    updates = opened.updates
    training = {
        "updates": updates,
        "examples": None if updates is None else updates * opened.recipe.examples_per_update,
        "seconds": summary.get("train_s"),
    }
    name = label if named else opened.recipe.name
    weights = file_sha256(weights_of(opened.path))
    return Subject(name, weights, opened.model, opened.recipe, opened.splits, training)


def _references(opened: Opened, unkept: list[str]) -> dict[str, Any]:
    """Return the references as a part of the results; a run stores them."""
    from vqtk.evaluate.references import REFERENCES_FILE, references

    keep = opened.folder / REFERENCES_FILE if opened.folder else None
    found = references(
        opened.model, opened.splits, seed=opened.recipe.seed, keep=keep, track=tracked, unkept=unkept.append
    )
    return {"references": found.plain()}


def _codec(opened: Opened, unkept: list[str], evaluation: Evaluation, items: Tensor) -> dict[str, Any]:
    """Return the measurements of the codec as a part of the results."""
    from vqtk.cli.sampling import prior_for
    from vqtk.codec import codec_figures

    def fitted() -> Markov:
        return prior_for(opened, items=None, unkept=unkept.append).prior

    test = opened.splits.test
    return {"codec": codec_figures(opened.model, evaluation, test, items, fitted=fitted, track=tracked)}


def _kept(found: dict[str, Any], folder: Path, format: str, unkept: list[str]) -> list[Path]:
    """Write the results into a run's folder. Return the files, or [] if they cannot be written."""
    from vqtk.errors import VqtkError

    try:
        return _write(found, folder, format)
    except (OSError, VqtkError) as error:
        unkept.append(f"{folder}: the results cannot be written there ({error}).")
        return []


def _write(found: dict[str, Any], run: Path, format: str) -> list[Path]:
    from json import dumps

    from vqtk.files import write_text
    from vqtk.report.plots import run_rate_distortion, write_plot

    figures, plot = run / "eval.json", run / "images" / f"rate_distortion.{format}"
    write_text(figures, dumps(found, indent=2, ensure_ascii=False) + "\n")
    write_plot(run_rate_distortion(found["stages"], found["kind"], references=found.get("references")), plot)
    return [figures, plot]


def _asked_metrics(opened: Opened, asked: list[str]) -> dict[str, Metric]:
    """Return the metrics that `--metric` names; the run's plugins may have some."""
    from vqtk.plugin.loading import loaded_plugins
    from vqtk.recipe.build import build_metric

    with loaded_plugins([plugin.path for plugin in opened.recipe.plugins]):
        return dict(build_metric(text, opened.model.data, origin="--metric") for text in asked)
