"""A run's report: a self-contained page, made from the files of the run directory."""

from __future__ import annotations

import base64
import json
import re
import warnings
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from vqtk.errors import CheckpointError, VqtkWarning
from vqtk.evaluate.references import REFERENCES_FILE, kept
from vqtk.files import write_text
from vqtk.io.run_files import EvaluationFile, File, ManifestFile, SummaryFile, read_file, read_metrics, watched_of
from vqtk.report.plots import GRID, HOVER, INK, entropy_plot, losses_plot, run_rate_distortion, usage_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_IMAGES = {
    "samples": ("Samples", "Codes drawn uniformly, or from the model's own prior if it has one; decoded."),
    "reconstructions": ("Reconstructions", "Test examples, each with its reconstruction below it."),
    "stages": ("Stage by stage", "One more stage at a time; the test examples themselves last."),
    "proposals": ("Proposals", "What one stage proposes for a test example, the chosen option marked."),
}

_POINTS = {
    "samples": "Uniformly drawn codes, decoded (blue), over test examples (grey).",
    "reconstructions": "Test examples (grey), each joined to its reconstruction (blue).",
    "stages": "Test examples (grey), each joined to its reconstruction after one more stage (blue).",
    "proposals": "What one stage proposes for a test example (the cross), the chosen option marked.",
}
"""The captions of points."""

_LINES = {
    "samples": "Codes drawn uniformly, or from the model's own prior if it has one; decoded.",
    "reconstructions": "Test examples, each with its reconstruction below it (blue), over the example (grey).",
    "stages": "One more stage at a time (blue), over the test examples (grey); the examples themselves last.",
    "proposals": "What one stage proposes for a test example (grey), the chosen option marked.",
}
"""The captions of signals and vectors drawn as lines."""


@dataclass(frozen=True)
class _Shown:
    """A plot or an image of the page."""

    title: str
    caption: str
    content: Markup


def write_report(run: Path, path: Path | None = None) -> Path:
    """Write the page of a run directory, at whatever point the run is, as its `report.html` or to a path; return that.

    Raises: OSError if it cannot be written.
    """
    metrics = _metrics(run / "metrics.jsonl")
    kinds: dict[str, type[File]] = {"manifest": ManifestFile, "summary": SummaryFile, "evaluation": EvaluationFile}
    manifest, summary, tested = (_whole(run / f"{name}.json", kind) for name, kind in kinds.items())
    references = kept(run / REFERENCES_FILE)
    training = [row for row in metrics if watched_of(row) is None]
    last = training[-1] if training else {}
    stages = tested.get("stages", [])
    page = page_template("vqtk.report", "report.html.j2").render(
        name=manifest.get("name", run.parent.name),
        state=_state(run, last, summary),
        facts=_facts(manifest, last, summary, tested),
        shown=[
            *(_curves(metrics, manifest) if training else []),
            *(_measured(tested, manifest, references.plain() if references else {}) if stages else []),
            *_images(run / "images", manifest.get("shown_as", manifest.get("kind"))),
        ],
        tested=_tested(tested) if stages else "",
        stages=stages,
        recipe=_read(run / "recipe.yaml"),
        manifest=json.dumps(manifest, indent=2, ensure_ascii=False),
    )  # fmt: skip
    path = path or run / "report.html"
    write_text(path, page)
    return path


def _metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of the metrics that are whole, and of training those that have the terms of the first."""
    rows, damaged = read_metrics(path)
    training = [row for row in rows if watched_of(row) is None]
    alike = [row for row in rows if watched_of(row) or row.keys() == training[0].keys()]
    left_out = damaged + len(rows) - len(alike)
    if left_out:
        warnings.warn(VqtkWarning(f"{path}: {left_out:,} of its lines are damaged, and left out."), stacklevel=2)
    return alike


def page_template(package: str, name: str) -> Template:
    """Return a page's template from a package; it may extend the frame of all pages, `base.html.j2`."""
    loader = ChoiceLoader([PackageLoader(package, "."), PackageLoader("vqtk.report", ".")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["number"] = _number
    return environment.get_template(name)


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _state(run: Path, last: dict[str, Any], summary: dict[str, Any]) -> str:
    if summary:
        return f"{run.name}: done, {summary['updates']:,} updates."
    return f"{run.name}: after update {last['update']:,}." if last else f"{run.name}: just begun."


def _facts(
    manifest: dict[str, Any], last: dict[str, Any], summary: dict[str, Any], tested: dict[str, Any]
) -> dict[str, str]:
    """Return the facts at the head of the page, by name."""
    data = manifest.get("data", {})
    facts = {
        "bits per example": f"{manifest['bits_per_item']:g}" if "bits_per_item" in manifest else None,
        "parameters": f"{manifest['parameters']:,}" if "parameters" in manifest else None,
        "examples, train + test": f"{data['train_items']:,} + {data['test_items']:,}" if "test_items" in data else None,
        f"test distortion ({_part(tested)})": _number(float(tested["row"]["final"])) if tested else None,
        "training loss": _number(last.get("choice", last.get("end_to_end", last.get("final")))) if last else None,
        "time per update": f"{last['step_ms']:,.0f} ms" if last else None,
        "time in training": f"{summary['train_s'] / 60:.1f} min" if summary else None,
        "device": f"{manifest['device']}, {manifest['threads']} threads" if "device" in manifest else None,
        "seed": str(manifest["seed"]) if "seed" in manifest else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _tested(tested: dict[str, Any]) -> str:
    return f"After update {tested['update']:,}, on {_part(tested)} {tested.get('split', 'test')} examples."


def _part(tested: dict[str, Any]) -> str:
    """Return how many test examples were evaluated, and of how many: a subset may be easier than the split."""
    examples, every = tested.get("items", 0), tested.get("of")
    if every is None:  # Written by an earlier version.
        return f"{examples:,}"
    return f"all {examples:,}" if examples == every else f"a fixed {examples:,} of {every:,}"


def _curves(metrics: list[dict[str, Any]], manifest: dict[str, Any]) -> list[_Shown]:
    options = manifest["options"]
    pooled = f"Of the codes of a batch, pooled over the stages; the dashed line is the maximum, ln {options}."
    return [
        _Shown("Losses", "Lines: training, and its running mean; points: examples that are not trained on.",
               as_svg(losses_plot(metrics))),
        _Shown("Entropy", pooled, as_svg(entropy_plot(metrics, options))),
    ]  # fmt: skip


def _measured(tested: dict[str, Any], manifest: dict[str, Any], references: dict[str, Any]) -> list[_Shown]:
    """Return the plots of an evaluation: rate and distortion, if there are enough points, and code usage."""
    stages, measured = tested["stages"], _tested(tested)
    usage = f"How often each stage chose each option. {measured}"
    shown = [_Shown("Code usage", usage, as_svg(usage_plot(tested["usage"])))]
    reached = [row for row in stages if row["distortion"] is not None]
    if len(reached) >= (1 if references else 2):
        plot = run_rate_distortion(stages, manifest["kind"], references=references, loss=manifest.get("loss"))
        shown.insert(0, _Shown("Rate and distortion", f"A point a stage. {measured}", as_svg(plot)))
    return shown


def as_svg(figure: Figure) -> Markup:
    """Return a plot as SVG for a page: no background, text as text, in the page's colours, values under the pointer."""
    import matplotlib

    written, metadata = StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
    settings: dict[Any, Any] = {"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "vqtk"}
    with matplotlib.rc_context(settings):
        figure.savefig(written, format="svg", transparent=True, metadata=metadata)
    text = written.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace(GRID, "var(--grid)")
    return Markup(_HOVER.sub(_titled, text))


_HOVER = re.compile(rf'<a xlink:href="{HOVER}([^"]*)"[^>]*>(.*?)</a>', re.DOTALL)


def _titled(link: re.Match[str]) -> str:
    shape = re.sub(r' style="[^"]*"', "", link[2]).strip()
    return f'<g class="value"><title>{link[1]}</title>{shape}</g>'


def _images(folder: Path, form: str | None) -> list[_Shown]:
    """Return the newest image of each kind."""
    found = []
    for kind, (title, caption) in _IMAGES.items():
        newest = newest_image(folder, kind)
        if newest:
            update = int(newest.stem.rpartition("_")[2])
            shown = {"points": _POINTS, "lines": _LINES}.get(form or "", {}).get(kind, caption)
            content = as_html(newest, title, pixelated=form not in ("points", "lines"))
            found.append(_Shown(title, f"{shown} After update {update:,}.", content))
    return found


def newest_image(folder: Path, kind: str) -> Path | None:
    """Return the newest file of a kind of images, such as `samples`, in a run's folder; None if there is none."""
    files = (path for path in folder.glob(f"{kind}_*") if re.fullmatch(rf"{kind}_\d{{8}}", path.stem))
    return max(files, default=None)


def as_html(path: Path, alt: str, *, pixelated: bool) -> Markup:
    """Return a file of images, or of text, as a part of a page; `pixelated` keeps the edges of enlarged pixels."""
    if path.suffix == ".txt":
        return Markup("<pre>{}</pre>").format(_read(path))
    encoded, classes = base64.b64encode(path.read_bytes()).decode(), "pixels" if pixelated else ""
    return Markup('<img alt="{}" class="{}" src="data:image/png;base64,{}">').format(alt, classes, encoded)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _whole(path: Path, kind: type[File]) -> dict[str, Any]:
    """Return the content of a file of the run; nothing, with a warning, if it is damaged."""
    if not path.exists():
        return {}
    try:
        return read_file(path, kind)
    except CheckpointError as error:
        warnings.warn(VqtkWarning(f"{error} The page is written without it."), stacklevel=2)
        return {}
