"""`vqtk compare`: runs and studies, compared over seeds."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from vqtk.cli.options import Json

_WIDTH = 140


class Cost(str, Enum):
    """What quality is drawn against."""

    time = "time"
    flops = "flops"


def compare(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Runs, folders of runs, or a study.")],
    baseline: Annotated[str | None, typer.Option(help="The variant to compare with.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="A test figure, as final; stages.K.distortion of a stage K; or area.")
    ] = None,
    higher: Annotated[bool, typer.Option("--higher", help="Higher is better.")] = False,
    against: Annotated[Cost, typer.Option(help="The cost to draw quality against.")] = Cost.time,
    unequal: Annotated[bool, typer.Option("--unequal", help="Compare runs of unequal terms, and say so.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The folder to write to; by default a study's own, if it is compared as it says."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compare runs over their seeds: differences to a baseline with intervals, costs, a table and a page.

    Written are comparison.json, .md, .csv and .tex, and report.html.
    """
    from vqtk.ablate.collect import STUDY
    from vqtk.ablate.compare import Asked, write
    from vqtk.ablate.compare import compare as compared
    from vqtk.cli.options import print_json, say_unkept
    from vqtk.errors import VqtkError

    asked = Asked(baseline=baseline, metric=metric, higher=higher, against=against.value, unequal=unequal)
    found = compared(paths, asked)
    own = paths[0] if len(paths) == 1 and (paths[0] / STUDY).is_file() else None
    as_planned = not (baseline or metric or higher or unequal)
    folder = output or (own if as_planned else None)
    if json:
        print_json(found)
    else:
        show(found)
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
            print(f"Not written: {own} keeps what its study asked for. Write this elsewhere with -o.")


def show(found: dict[str, Any]) -> None:
    """Print a comparison's tables, and what it says in words."""
    from rich.console import Console

    from vqtk.ablate.tables import as_rich, costs, remarks, results
    from vqtk.errors import printable

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    better = f"{found['metric']}: {found['better']} is better; baseline {found['baseline']}"
    console.print(as_rich(results(found), found, title=f"{found['name']}  ({better})"))
    console.print()
    console.print(as_rich(costs(), found, title="costs"))
    console.print()
    for line in remarks(found):
        console.print(printable(line), markup=False, soft_wrap=True)
