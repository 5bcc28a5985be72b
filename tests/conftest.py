"""Tests run three at a time, for some of them wait, each with one thread.

A run draws its page only where a test looks at it.
"""

from __future__ import annotations

import os
from functools import cache

import pytest
import typer.main

os.environ["OMP_NUM_THREADS"] = "1"  # Read when torch is imported, here and in the processes that tests begin.

typer.main.get_command = cache(typer.main.get_command)  # Otherwise it builds all commands for every call.

LOOKS_AT_REPORTS = ("test_report", "test_cli", "test_compare", "test_ablate")


@pytest.fixture(autouse=True)
def runs_without_a_page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out `report.html`, which takes several times as long to draw as a tiny run takes to train."""
    if request.path.stem not in LOOKS_AT_REPORTS:
        monkeypatch.setattr("vqtk.runs.experiment.write_report", lambda run: None)
