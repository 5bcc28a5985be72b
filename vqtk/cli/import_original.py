"""`vqtk import-original`: take over a checkpoint of the original implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqtk.cli.options import Json, Overrides, Plugins, RecipePath


def import_original(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="A .pt file of the original implementation.")],
    recipe: RecipePath,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The weights file to write.")] = ...,  # type: ignore[assignment]
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Turn a checkpoint of the original implementation into a weights file. No code in it is executed."""
    from vqtk.cli.options import print_json
    from vqtk.errors import CheckpointError
    from vqtk.io.original import load_original, read_original
    from vqtk.io.weights import save_weights
    from vqtk.recipe.build import build_model
    from vqtk.recipe.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    model = build_model(loaded)
    state = read_original(checkpoint)
    try:
        load_original(model, state)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from None
    save_weights(output, model, loaded, imported_from=checkpoint.name)
    parameters = sum(p.numel() for p in model.parameters())
    if json:
        print_json({"weights": str(output), "parameters": parameters})
    else:
        print(f"{output}  {parameters:,} parameters")
