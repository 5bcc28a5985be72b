"""`vqtk proposals`: what a stage proposes."""

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
    open_model,
    test_items,
    write_sheet,
)


def proposals(
    model: ModelPath,
    stage: Annotated[int, typer.Option(min=1, help="Which stage, from 1.")] = 1,
    item: Annotated[
        int | None, typer.Option(help="Which test item, by its index; one drawn by the recipe's seed by default.")
    ] = None,
    columns: Annotated[int, typer.Option(min=1, help="How many pictures in a row.")] = 8,
    output: Output = None,
    show: Show = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    data: OtherData = None,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Show all options of one stage for a test item, the chosen one marked."""
    from vqtk.errors import VqtkError
    from vqtk.report import pictures

    opened = open_model(model, device, data_dir, data)
    loaded = opened.model
    pictures.require_stepwise(loaded)
    if stage > loaded.stages:
        raise VqtkError(f"--stage {stage}: this model has stages 1 to {loaded.stages}.")
    targets, indices = test_items(opened, None if item is None else [item], 1)
    sheet, chosen = pictures.proposals(loaded, targets[0], stage=stage - 1, columns=columns)
    name = f"proposals_stage_{stage}" + ("" if item is None else f"_item_{item}")
    facts = {"item": indices[0], "stage": stage, "chosen": chosen}
    write_sheet(sheet, opened, name=name, output=output, show=show, json=json, facts=facts)
