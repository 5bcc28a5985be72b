"""`vqtk reconstruct`: encode and decode test items."""

from __future__ import annotations

from typing import Annotated

import typer

from vqtk.cli.options import (
    DataDir,
    Device,
    Json,
    ModelPath,
    Output,
    Show,
    load_model,
    test_items,
    write_picture,
)


def reconstruct(
    model: ModelPath,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many test items.")] = 32,
    item: Annotated[list[int] | None, typer.Option(help="A test item by its index; may be repeated.")] = None,
    columns: Annotated[int, typer.Option(min=1, help="How many in a row.")] = 8,
    output: Output = None,
    show: Show = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Draw test items with their reconstructions below them."""
    from vqtk.report import pictures

    loaded, recipe = load_model(model, device)
    targets = test_items(loaded, recipe, item, count, data_dir)
    sheet = pictures.reconstructions(loaded, targets, columns=columns)
    write_picture(sheet, model, "reconstructions", output, show, json, count=len(targets))
