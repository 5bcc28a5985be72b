"""`vqtk bench`: the core's speed."""

from __future__ import annotations

from typing import Annotated

import typer

from vqtk.cli.options import Device, Json, Overrides, Plugins, RecipePath


def bench(
    recipe: RecipePath,
    overrides: Overrides = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each side is timed, after one warm-up.")] = 7,
    batch: Annotated[int | None, typer.Option(min=1, help="Items a batch; the recipe's by default.")] = None,
    device: Device = "auto",
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Time decoding, encoding and an update against the plainest implementation: interleaved, medians."""
    from vqtk.cli.options import print_json
    from vqtk.evaluate.bench import bench as compare
    from vqtk.recipe.recipe import load_recipe
    from vqtk.train.device import choose_device

    loaded = load_recipe(recipe, overrides or [])
    results = compare(loaded, rounds=rounds, batch=batch or loaded.batch, device=choose_device(device))
    if json:
        print_json([{**vars(result), "ratio": result.ratio} for result in results])
        return
    for result in results:
        ours = f"{result.ours_ms:8.1f} ms {result.ours:<19}"
        theirs = f"{result.theirs_ms:8.1f} ms {result.theirs:<40}"
        print(f"{result.what:<7} {ours} {theirs} {result.ratio:5.2f} times as fast")
