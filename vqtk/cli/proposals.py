"""`vqtk proposals`: what a stage proposes."""

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


def proposals(
    model: ModelPath,
    stage: Annotated[int, typer.Option(min=1, help="Which stage, from 1.")] = 1,
    item: Annotated[
        int | None, typer.Option(help="Which test item, by its index; one drawn by the recipe's seed by default.")
    ] = None,
    columns: Annotated[int, typer.Option(min=1, help="How many in a row.")] = 8,
    output: Output = None,
    show: Show = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Draw all options of one stage for a test item, the chosen one framed."""
    from vqtk.errors import VqtkError
    from vqtk.report import pictures

    loaded, recipe = load_model(model, device)
    if stage > loaded.stages:
        raise VqtkError(f"--stage {stage}: this model has stages 1 to {loaded.stages}.")
    target = test_items(loaded, recipe, None if item is None else [item], 1, data_dir)[0]
    sheet, chosen = pictures.proposals(loaded, target, stage=stage - 1, columns=columns)
    kind = f"proposals_stage_{stage}" + ("" if item is None else f"_item_{item}")
    write_picture(sheet, model, kind, output, show, json, stage=stage, chosen=chosen)
