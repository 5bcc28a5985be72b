"""vqtk compare: compare any runs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqtk.cli.options import Force, Json

if TYPE_CHECKING:
    from rich.console import Console

    from vqtk.compare.result import RunComparison

_WIDTH = 140
"""Width of tables, in columns, outside a terminal."""


class CostAxis(str, Enum):
    """The cost to plot quality against."""

    time = "time"
    flops = "flops"


def compare_command(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Run directories, folders of runs, or study directories.")
    ],
    baseline: Annotated[
        str | None,
        typer.Option(help="Variant to compare the others with. Default: the study's baseline, or the first variant."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Metric to compare by: one that `vqtk list metrics` shows, such as final, or another that the runs "
            "have; or stages.S.distortion, the loss after stage S. Default: the study's first metric, or final.",
        ),
    ] = None,
    higher: Annotated[bool, typer.Option("--higher", help="Treat higher values of the metric as better.")] = False,
    against: Annotated[
        CostAxis, typer.Option(help="Cost on the horizontal axis of the plot of quality.")
    ] = CostAxis.time,
    unequal: Annotated[
        bool, typer.Option("--unequal", help="Compare runs even if budgets or data differ. Every output states this.")
    ] = False,
    search: Annotated[
        str | None,
        typer.Option(help="Compare codes found by this search. Run vqtk eval RUN --search SEARCH for every run first."),
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(
            metavar="MARGIN",
            help="Also test whether each variant is equivalent to the baseline: whether its true difference from it is "
            "smaller than this margin. Default: the study's margin.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="Folder to write to. Default: the study directory, if PATH is one study that is compared by its own "
            "metric and baseline. Otherwise, nothing is written.",
        ),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Compare runs across seeds.

    Runs whose recipes differ in the seed and the name alone form a variant. Prints how much each variant differs from a
    baseline, with confidence intervals, and the costs of each variant. With --out, or if PATH is one study that is
    compared by its own metric and baseline, also writes comparison.json, .md, .csv and .tex, and report.html.
    """
    from vqtk.cli.options import print_json, require_new, say_unkept
    from vqtk.compare.collect import STUDY
    from vqtk.compare.comparison import FILES, ComparisonRequest, write
    from vqtk.compare.comparison import compare as compared
    from vqtk.errors import VqtkError

    require_new(*((output / name for name in FILES) if output else ()), force=force)
    asked = ComparisonRequest(
        baseline=baseline, metric=metric, higher=higher, against=against.value, unequal=unequal, search=search,
        within=within,
    )  # fmt: skip
    found = compared(paths, asked)
    own = paths[0] if len(paths) == 1 and (paths[0] / STUDY).is_file() else None
    as_planned = not (baseline or metric or higher or unequal or search or within)
    folder = output or (own if as_planned else None)
    if json:
        print_json(found.to_json())
    else:
        print_comparison(found)
    try:
        written = write(found, folder) if folder else []
    except VqtkError as error:
        if output:
            raise
        say_unkept([str(error)])
        return
    if not json:
        for path in written:
            print(f"Written: {path}")
        if own and not folder:
            print(f"Not written: {own} keeps the comparison of the study file. Write this one elsewhere with --out.")


def print_comparison(found: RunComparison) -> None:
    """Print the tables of a comparison, and what there is to remark on it."""
    from vqtk.compare.tables import as_rich, costs_table, remarks, results_table
    from vqtk.errors import printable

    console = wide_console()
    better = f"{found.metric}: {found.better} is better; baseline {found.baseline}"
    console.print(as_rich(results_table(found), title=f"{found.name}  ({better})"))
    console.print()
    console.print(as_rich(costs_table(found), title="costs"))
    console.print()
    for line in remarks(found):
        console.print(printable(line), markup=False, soft_wrap=True)


def wide_console() -> Console:
    """Return a console for tables, which is wide outside a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)
