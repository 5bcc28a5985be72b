"""`vqtk stages`: reconstructions stage by stage."""

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


def stages(
    model: ModelPath,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many test items.")] = 10,
    item: Annotated[list[int] | None, typer.Option(help="A test item by its index; may be repeated.")] = None,
    output: Output = None,
    show: Show = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    data: OtherData = None,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Show reconstructions stage by stage: one more stage a row, the item itself last; a column or a block an item."""
    from vqtk.report import pictures

    opened = open_model(model, device, data_dir, data)
    loaded = opened.model
    pictures.require_stepwise(loaded)
    targets, indices = test_items(opened, item, count)
    codes = pictures.encoded(loaded, targets)
    sheet = pictures.stages(loaded, targets, codes=codes)
    facts = code_facts(loaded, targets, codes, indices) if json else {}
    write_sheet(sheet, opened, name="stages", output=output, show=show, json=json, facts=facts)
