"""`vqtk stages`: reconstructions stage by stage."""

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


def stages(
    model: ModelPath,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many test items.")] = 10,
    item: Annotated[list[int] | None, typer.Option(help="A test item by its index; may be repeated.")] = None,
    output: Output = None,
    show: Show = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Draw reconstructions stage by stage: a column an item, a row one more stage, the item itself last."""
    from vqtk.report import pictures

    loaded, recipe = load_model(model, device)
    targets = test_items(loaded, recipe, item, count, data_dir)
    sheet = pictures.stages(loaded, targets)
    write_picture(sheet, model, "stages", output, show, json, count=len(targets), stages=loaded.stages)
