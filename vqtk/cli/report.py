"""`vqtk report`: a run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqtk.cli.options import Json


def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")], json: Json = False) -> None:
    """Write report.html of a run, as it is now: curves, pictures, code usage, recipe and manifest on one page."""
    from vqtk.cli.options import print_json
    from vqtk.report.page import write_report
    from vqtk.train.run_directory import RunDirectory

    RunDirectory.open(run)
    path = write_report(run)
    if json:
        print_json({"report": str(path)})
    else:
        print(path)
