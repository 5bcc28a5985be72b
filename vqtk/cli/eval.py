"""`vqtk eval`: distortion and code usage at every stage."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vqtk.cli.options import DataDir, Device, Json, ModelPath, load_model


def evaluate(
    model: ModelPath,
    items: Annotated[int | None, typer.Option(min=1, help="Only so many test items, a seeded subset.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Items encoded at a time.")] = 100,
    device: Device = "auto",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Measure distortion, entropy and options used after every stage, on the test split."""
    from vqtk.cli.options import print_json, test_split
    from vqtk.evaluate.walks import evaluate as walk_all
    from vqtk.evaluate.walks import fixed_subset

    loaded, recipe = load_model(model, device)
    test = test_split(recipe, data_dir)
    subset = fixed_subset(test, items, recipe.seed) if items else None
    figures = walk_all(loaded, test, items=subset, batch=batch)
    if json:
        print_json({"items": figures.items, "test": figures.row(), "stages": figures.stages()})
    else:
        _print(
            figures.stages(),
            f"{recipe.name}: {figures.items} test items, distortion as {recipe.model.settings['loss'].entry.name}",
        )


def _print(rows: list[dict[str, Any]], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for key in rows[0]:
        table.add_column(key.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:.5f}" if key == "distortion" else f"{value:.4g}" for key, value in row.items()))
    Console().print(table)
