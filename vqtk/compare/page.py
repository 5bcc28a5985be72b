"""A comparison as one page that needs no other file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from vqtk.compare.plots import (
    compared_entropy,
    compared_rate_distortion,
    curves_plot,
    differences_plot,
    effects_plot,
    pareto_plot,
)
from vqtk.compare.tables import costs_table, results_table, runs_table, stages_table
from vqtk.io.files import write_text
from vqtk.report.page import as_html, newest_image, page_template
from vqtk.report.plots import as_svg

_DRAWN = (
    (differences_plot, "Differences to the baseline with their intervals; a filled point stands."),
    (curves_plot, "Over training: thin lines are seeds, thick ones their mean."),
    (compared_rate_distortion, "Rate and distortion; the band is one standard deviation over seeds."),
    (pareto_plot, "Quality against cost; the dotted line joins what no other variant beats in both."),
    (effects_plot, "Main effects: means over the cells of each value, all else being equal."),
    (compared_entropy, "Code usage: 1 is all options equally often."),
)
_PICTURES = {
    "samples": (
        "Samples of codes drawn uniformly, or from a model's own prior. Variants whose codes have one shape decode the "
        "same codes."
    ),
    "reconstructions": "Test items, each with its reconstruction: the same items for each variant.",
}


class _Drawn(NamedTuple):
    content: Markup
    caption: str


def write_page(comparison: dict[str, Any], path: Path) -> Path:
    """Write the page of a comparison; pictures are read from the directories of its runs. Raises: OSError."""
    drawn = [(draw(comparison), caption + _referred(draw, comparison)) for draw, caption in _DRAWN]
    plots = [_Drawn(Markup(as_svg(plot)), caption) for plot, caption in drawn if plot]
    page = page_template("vqtk.compare", "comparison.html.j2").render(
        comparison=comparison,
        results=runs_table(results_table(comparison), comparison),
        costs=runs_table(costs_table(), comparison),
        stages=stages_table(comparison),
        plots=plots,
        pictures={sort: (told, _pictures(comparison, sort)) for sort, told in _PICTURES.items()},
    )
    write_text(path, page)
    return path


def _referred(draw: object, comparison: dict[str, Any]) -> str:
    """Return what the references beside rate and distortion are."""
    found = comparison["references"]
    if draw is not compared_rate_distortion or not found:
        return ""
    kmeans, gaussian = found["kmeans"]["label"], found["gaussian"]["label"]
    return f" Without a network, at {found['options']} options a stage: {kmeans}; {gaussian}."


def _pictures(comparison: dict[str, Any], sort: str) -> list[_Drawn]:
    """Return the newest picture of each variant, of the first seed that most of them have."""
    having = [seed for row in comparison["variants"] for seed in row["seeds"]]
    seed = min(having, key=lambda one: (-having.count(one), one))
    found = []
    for row in comparison["variants"]:
        run = next((run for run in row["runs"] if run["seed"] == seed), row["runs"][0])
        newest = newest_image(Path(run["path"]) / "images", sort)
        if newest:
            content = as_html(newest, row["name"], pixelated=comparison["kind"] != "points")
            found.append(_Drawn(content, f"{row['name']}, seed {run['seed']}"))
    return found
