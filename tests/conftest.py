"""Tests run two at a time, so each takes one thread; and a run draws its page only where a test looks at it."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)

LOOKS_AT_REPORTS = ("test_report", "test_cli", "test_compare", "test_ablate")


@pytest.fixture(autouse=True)
def runs_without_a_page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out `report.html`, which takes several times as long to draw as a tiny run takes to train."""
    if request.path.stem not in LOOKS_AT_REPORTS:
        monkeypatch.setattr("vqtk.experiment.write_report", lambda run: None)
