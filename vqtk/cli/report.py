"""`vqtk report`: a run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqtk.cli.options import Json


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write; RUN/report.html.")] = None,
    json: Json = False,
) -> None:
    """Write report.html of a run, as it is now: curves, pictures, code usage, recipe and manifest on one page."""
    from vqtk.cli.options import print_json
    from vqtk.errors import VqtkError
    from vqtk.report.page import write_report
    from vqtk.train.run_directory import RunDirectory

    RunDirectory.open(run)[0].check_recipe()
    try:
        path = write_report(run, output)
    except OSError as error:
        place = output or run / "report.html"
        raise VqtkError(f"{place}: the page cannot be written ({error}). Choose another path with -o.") from None
    if json:
        print_json({"report": str(path)})
    else:
        print(path)
