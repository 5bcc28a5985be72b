"""vqtk export and import-original: weights as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqtk.cli.options import Json, ModelPath, Overrides, Plugins, RecipePath


def export_command(
    model: ModelPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="The weights file to write.")] = ...,  # type: ignore[assignment]
    half: Annotated[bool, typer.Option("--half", help="In half precision: half the size.")] = False,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Write a run's newest weights, with their recipe, to one file that every command takes."""
    from vqtk.cli.options import print_json
    from vqtk.io.weights import load_weights, read_weights, save_weights, weights_of

    source = weights_of(model)
    loaded, recipe = load_weights(source)
    facts = read_weights(source)[1]["facts"]
    save_weights(output, loaded.half() if half else loaded, recipe, **facts)
    size = output.stat().st_size
    if json:
        print_json({"weights": str(output), "bytes": size, "half": half})
    else:
        print(f"{output}  {size:,} bytes")


def import_command(
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
