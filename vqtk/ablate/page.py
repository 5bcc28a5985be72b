"""A comparison as one page that needs no other file."""

from __future__ import annotations

import base64
import re
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from vqtk.ablate.figures import (
    GRID,
    INK,
    curves_figure,
    differences_figure,
    effects_figure,
    entropy_figure,
    pareto_figure,
    rate_distortion_figure,
)
from vqtk.ablate.tables import cells, costs, results, stages
from vqtk.io.atomic import write_text

_DRAWN = (
    (differences_figure, "Differences to the baseline with their intervals; a filled point stands."),
    (curves_figure, "Over training: thin lines are seeds, thick ones their mean."),
    (rate_distortion_figure, "Rate and distortion; the band is one standard deviation over seeds."),
    (pareto_figure, "Quality against cost; the dotted line joins what no other variant beats in both."),
    (effects_figure, "Main effects: means over the cells of each value, all else being equal."),
    (entropy_figure, "Code usage: 1 is all options equally often."),
)
_PICTURES = {
    "samples": (
        "Samples of codes drawn uniformly, or from a model's own prior. Variants whose codes have one shape decode the "
        "same codes."
    ),
    "reconstructions": "Test items, each with its reconstruction: the same items for each variant.",
}
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
_SETTINGS: dict[Any, str] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "svg.hashsalt": "vqtk",
    **dict.fromkeys(_INKED, INK),
}


class _Drawn(NamedTuple):
    content: Markup
    caption: str


def write_page(comparison: dict[str, Any], path: Path) -> Path:
    """Write the page of a comparison; pictures are read from the directories of its runs. Raises: OSError."""
    environment = Environment(
        loader=PackageLoader("vqtk.ablate", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    with matplotlib.rc_context(_SETTINGS):
        drawn = [(draw(comparison), caption + _referred(draw, comparison)) for draw, caption in _DRAWN]
        figures = [_Drawn(_svg(figure), caption) for figure, caption in drawn if figure]
    page = environment.get_template("comparison.html.j2").render(
        comparison=comparison,
        results=cells(results(comparison), comparison),
        costs=cells(costs(), comparison),
        stages=stages(comparison),
        figures=figures,
        pixelated=comparison["kind"] != "points",
        pictures={sort: (told, _pictures(comparison, sort)) for sort, told in _PICTURES.items()},
    )
    write_text(path, page)
    return path


def _referred(draw: object, comparison: dict[str, Any]) -> str:
    """Return what the references beside rate and distortion are."""
    found = comparison["references"]
    if draw is not rate_distortion_figure or not found:
        return ""
    kmeans, gaussian = found["kmeans"]["label"], found["gaussian"]["label"]
    return f" Without a network, at {found['options']} options a stage: {kmeans}; {gaussian}."


def _svg(figure: Figure) -> Markup:
    """Return a figure as SVG without a ground, its text as text, in the page's colours."""
    written = StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(written, format="svg", transparent=True, metadata=metadata)
    text = written.getvalue()
    return Markup(text[text.index("<svg") :].replace(INK, "currentColor").replace(GRID, "var(--grid)"))


def _pictures(comparison: dict[str, Any], sort: str) -> list[_Drawn]:
    """Return the newest picture of each variant, of the first seed that most of them have."""
    having = [seed for row in comparison["variants"] for seed in row["seeds"]]
    seed = min(having, key=lambda one: (-having.count(one), one))
    found = []
    for row in comparison["variants"]:
        run = next((run for run in row["runs"] if run["seed"] == seed), row["runs"][0])
        files = sorted(
            file
            for file in (Path(run["path"]) / "images").glob(f"{sort}_*")
            if re.fullmatch(rf"{sort}_\d{{8}}", file.stem)
        )
        if files:
            found.append(_Drawn(_content(files[-1], row["name"]), f"{row['name']}, seed {run['seed']}"))
    return found


def _content(path: Path, alt: str) -> Markup:
    if path.suffix == ".txt":
        return Markup("<pre>{}</pre>").format(path.read_text(encoding="utf-8"))
    encoded = base64.b64encode(path.read_bytes()).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(escape(alt), encoded)
