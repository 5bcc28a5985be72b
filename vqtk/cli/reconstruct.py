"""`vqtk reconstruct`: encode and decode test items."""

from __future__ import annotations

from typing import Annotated

import typer

from vqtk.cli.options import (
    DataDir,
    Device,
    Json,
    ModelPath,
    OtherData,
    Output,
    Plugins,
    Show,
    code_facts,
    open_model,
    test_items,
    write_sheet,
)


def reconstruct(
    model: ModelPath,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many test items.")] = 32,
    item: Annotated[list[int] | None, typer.Option(help="A test item by its index; may be repeated.")] = None,
    columns: Annotated[int, typer.Option(min=1, help="How many pictures in a row.")] = 8,
    output: Output = None,
    show: Show = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    data: OtherData = None,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Show test items with their reconstructions below them."""
    from vqtk.report import pictures

    opened = open_model(model, device, data_dir, data)
    loaded = opened.model
    targets, indices = test_items(opened, item, count)
    codes = pictures.encoded(loaded, targets)
    sheet = pictures.reconstructions(loaded, targets, codes=codes, columns=columns)
    facts = code_facts(loaded, targets, codes, indices) if json else {}
    write_sheet(sheet, opened, name="reconstructions", output=output, show=show, json=json, facts=facts)
