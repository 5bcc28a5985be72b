"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="A run directory, or a weights file.")]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, a .yaml file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="OVERRIDE", help="dotted.path=value, as in train.updates=2000."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Where to write the PNG.")]
Show = Annotated[bool, typer.Option("--show", help="Draw in the terminal, too.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where data sets lie; $VQTK_DATA or ~/.cache/vqtk/data by default.")
]


def print_json(values: Any) -> None:
    """Print values as JSON."""
    import json

    print(json.dumps(values, indent=2, ensure_ascii=False))


def load_model(path: Path, device: str) -> tuple[Any, Any]:
    """Return the model of a run directory or weights file on a device, and its recipe."""
    from vqtk.io.weights import load_weights, weights_of
    from vqtk.train.device import choose_device

    return load_weights(weights_of(path), device=choose_device(device))


def write_picture(
    sheet: Any, model: Path, kind: str, output: Path | None, show: bool, json: bool, **facts: Any
) -> None:
    """Write a sheet to `output`; by default into the run's images, or beside the caller for a weights file."""
    from vqtk.report.grid import write_png

    folder = model / "images" if model.is_dir() else Path()
    path = output or folder / f"{'' if model.is_dir() else model.stem + '_'}{kind}.png"
    write_png(sheet, path)
    if show:
        _draw(sheet)
    if json:
        print_json({"picture": str(path), **facts})
    else:
        print(path)


def _draw(sheet: Any) -> None:
    import sys

    from rich.console import Console

    from vqtk.report.terminal import drawn

    console = Console()
    if console.is_terminal:
        console.print(drawn(sheet))
    else:
        print("--show draws in a terminal, and this is none; the picture is in the file.", file=sys.stderr)


def test_split(recipe: Any, data_dir: Path | None) -> Any:
    """Return the test split of a recipe's data, telling the user if it is a substitute."""
    import sys

    from vqtk.datasets._base import data_root
    from vqtk.recipe.build import build_dataset

    splits = build_dataset(recipe).load(data_root(data_dir))
    if splits.note:
        print(splits.note, file=sys.stderr)
    return splits.test


def test_items(model: Any, recipe: Any, items: list[int] | None, count: int, data_dir: Path | None) -> Any:
    """Return test items in training units: those asked for by index, or the first `count` of a seeded subset."""
    import torch

    from vqtk.errors import DataError
    from vqtk.evaluate.walks import fixed_subset

    test = test_split(recipe, data_dir)
    for item in items or []:
        if not 0 <= item < len(test):
            raise DataError(f"--item {item}: the test split has items 0 to {len(test) - 1}.")
    indices = torch.tensor(items) if items else fixed_subset(test, count, recipe.seed)
    return model.data.normalise(test.items[indices].to(model.bias.device))
