"""`vqtk validate`: try recipes out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vqtk.cli.options import Json, Plugins


def validate(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE", help="Recipes, .yaml files.")],
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Build each recipe's model, and train and decode one item through the stages that differ."""
    from vqtk.cli.options import print_json
    from vqtk.errors import VqtkError
    from vqtk.recipe.guard import unchanged
    from vqtk.recipe.node import shown_path
    from vqtk.recipe.recipe import load_recipe
    from vqtk.recipe.validate import validate as try_out

    results: list[dict[str, Any]] = []
    for path in recipes:
        try:
            recipe = load_recipe(path)
            shown, warnings = try_out(recipe), unchanged(recipe)
        except VqtkError as error:
            results.append({"recipe": str(path), "ok": False, "error": str(error)})
        else:
            plugins = [shown_path(plugin.path) for plugin in recipe.plugins]
            facts = {"parameters": shown.parameters, "bits": shown.bits, "seconds": round(shown.seconds, 1)}
            results.append({"recipe": str(path), "ok": True, **facts, "warnings": warnings, "plugins": plugins})
        if not json:
            _print(results[-1])
    if json:
        print_json(results)
    failed = [result for result in results if not result["ok"]]
    if failed:
        raise VqtkError(f"{len(failed)} of {len(results)} recipes cannot be trained as they stand; see above.")


def _print(result: dict[str, Any]) -> None:
    if result["ok"]:
        size = f"{result['parameters']:,} parameters  {result['bits']:g} bits"
        print(f"ok     {result['recipe']}  {size}  {result['seconds']} s")
        for plugin in result["plugins"]:
            print(f"       its plugin is held to its contract by: vqtk plugin check {plugin}")
        for warning in result["warnings"]:
            print(f"       warning: {warning}")
    else:
        print(f"wrong  {result['recipe']}\n{result['error']}")
