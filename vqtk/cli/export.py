"""`vqtk export`: a model as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqtk.cli.options import Json, ModelPath, Plugins


def export(
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
