"""Tests run three at a time, for some of them wait, each with one thread.

A run draws its page only where a test looks at it.
"""

from __future__ import annotations

import gc
import os
from functools import cache

import pytest
import typer.main

os.environ["OMP_NUM_THREADS"] = "1"  # Read when torch is imported, here and in the processes that tests begin.

# Freed memory is kept for the next tensors: to take fresh pages from the system each time costs up to a third of the
# time of a pass in float64. The C library reads this as a process begins: those that run tests, and that tests begin.
os.environ |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(4 << 30)}

typer.main.get_command = cache(typer.main.get_command)  # Otherwise it builds all commands for every call.

gc.disable()  # While tests are collected, which imports much that stays.

LOOKS_AT_REPORTS = ("test_report", "test_cli", "test_compare", "test_ablate")


@pytest.fixture(autouse=True)
def runs_without_a_page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out `report.html`, which takes several times as long to draw as a tiny run takes to train."""
    if request.path.stem not in LOOKS_AT_REPORTS:
        monkeypatch.setattr("vqtk.runs.train.write_report", lambda run: None)


def pytest_collection_finish() -> None:
    """Collect garbage from here on."""
    gc.enable()
