"""The command line, called in this process, and a tiny recipe."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import vqtk.cli

RECIPE_MNIST = Path(__file__).parent.parent / "recipes" / "mnist.yaml"
TINY = """
name: tiny
data: {name: mnist, batch: 8}
model:
  stages: 3
  options: 4
  loss: mse
  refiner:
    backbone: {name: conv, layers: [{width: 4, stride: 2}, {width: 8, stride: 2}]}
    head: {name: conv, layers: [{width: 8, upsample: 2}, {width: 8, upsample: 2}]}
train:
  updates: 4
  evaluate_items: 16
  final_items: 64
"""


def vqtk_main(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Call the command line as a shell does; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["vqtk", *map(str, arguments)])
    try:
        vqtk.cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def without_data(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Hide data sets and the network, so that the digits that ship with the package are used."""
    monkeypatch.delenv("VQTK_DATA", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("vqtk.datasets.mnist._download", lambda root: False)
