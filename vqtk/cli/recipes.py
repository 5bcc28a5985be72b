"""vqtk list, show and validate: inspect components and recipes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqtk.cli.options import DataDir, Json, Overrides, Plugins, RecipePath

if TYPE_CHECKING:
    from vqtk.recipe.build import Validation
    from vqtk.recipe.recipe import Recipe
    from vqtk.registry import Registry

TIMELESS_S = 1e-6
"""Stands for the seconds of an update where a budget of time is not to be measured."""


def list_command(
    registry: Annotated[
        str | None, typer.Argument(metavar="REGISTRY", help="Registry to list in detail, e.g. block or blocks.")
    ] = None,
    plugin: Plugins = None,
    json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print all components as a Markdown page (docs/reference.md).")
    ] = False,
) -> None:
    """List all components, or the components of one registry with their settings."""
    from vqtk.cli.options import print_json
    from vqtk.errors import RegistryError, nearest
    from vqtk.registry import REGISTRIES, installed

    plural = {one.package.rpartition(".")[2]: kind for kind, one in REGISTRIES.items()}
    registry = plural.get(registry, registry) if registry else None
    if registry is not None and registry not in REGISTRIES:
        raise RegistryError(
            f"there is no registry {registry!r}. {nearest(registry, list(REGISTRIES))}Known: {', '.join(REGISTRIES)}."
        )
    chosen = [REGISTRIES[registry]] if registry else list(REGISTRIES.values())
    described = {one.kind: [_described(one, name) for name in one.entries()] for one in chosen}
    broken = [one for one in installed() if one.error]
    if json:
        print_json({**described, "broken": [vars(one) for one in broken]} if broken else described)
    elif markdown:
        print(_reference(described), end="")
    elif registry:
        _print_registry(chosen[0], described[registry])
    else:
        _print_names(described)
    if not json and not markdown:
        for one in broken:
            print(f"broken: {one.name}, of the installed package {one.package} {one.version}: {one.error}")


def _described(registry: Registry, name: str) -> dict[str, Any]:
    import inspect

    from vqtk.recipe.signature import describe, parameters

    entry = registry.get(name)
    settings = {}
    for key, parameter in parameters(entry.component).items():
        settings[key] = {"type": describe(parameter.hint)}
        if parameter.default is not inspect.Parameter.empty:
            settings[key]["default"] = parameter.default
    return {
        "name": name,
        "purpose": entry.purpose,
        **_facts_of_a_metric(registry, entry.component),
        "documentation": inspect.getdoc(entry.component),
        "parameters": settings,
        "origin": entry.origin,
    }


def _facts_of_a_metric(registry: Registry, component: Any) -> dict[str, Any]:
    """Return the units of a metric, which direction is better, and the kinds of data; {} for other components."""
    if registry.kind != "metric":
        return {}
    return {"units": component.units, "better": component.better, "data": list(component.kinds) or ["all"]}


def _measured_in(component: dict[str, Any]) -> str:
    """Return the facts of a metric in words."""
    return f"Units: {component['units']}; {component['better']} is better; data: {', '.join(component['data'])}."


def _print_names(described: dict[str, list[dict[str, Any]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    for kind, components in described.items():
        table.add_row(kind, ", ".join(component["name"] for component in components))
    Console().print(table)
    print("\nvqtk list REGISTRY describes its components and their settings.")


def _print_registry(registry: Registry, components: list[dict[str, Any]]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for component in components:
        default = "  (default)" if component["name"] == registry.default else ""
        console.print(f"[bold]{component['name']}[/]{default}")
        console.print(f"  {component['purpose']}", markup=False)
        if "units" in component:
            console.print(f"  {_measured_in(component)}", markup=False)
        for key, parameter in component["parameters"].items():
            default = f" (default {_yaml(parameter['default'])})" if "default" in parameter else ""
            console.print(f"    {key}: {parameter['type']}{default}", markup=False)
        console.print(f"  [dim]{component['origin']}[/]")


def _reference(described: dict[str, list[dict[str, Any]]]) -> str:
    """Return the components as a Markdown page."""
    from vqtk.registry import REGISTRIES

    lines = ["# Components", "", "Made by `vqtk list --markdown` from the signatures and docstrings in the code."]
    for kind, components in described.items():
        registry = REGISTRIES[kind]
        lines += ["", f"## {kind}", "", f"Supplied by the toolkit: {', '.join(registry.supplied) or 'nothing'}."]
        for component in components:
            default = " (default)" if component["name"] == registry.default else ""
            lines += ["", f"### {kind}: `{component['name']}`{default}", "", component["documentation"]]
            if "units" in component:
                lines += ["", _measured_in(component)]
            if component["parameters"]:
                lines += ["", "| a recipe may set | type | default |", "| --- | --- | --- |"]
            for key, parameter in component["parameters"].items():
                value = f"`{_yaml(parameter['default'])}`" if "default" in parameter else ""
                lines.append(f"| `{key}` | {parameter['type']} | {value} |")
    return "\n".join([*lines, *_train_reference()]) + "\n"


def _train_reference() -> list[str]:
    """Return the `train` section of a recipe, which no registry holds."""
    import inspect

    from vqtk.recipe.recipe import Train
    from vqtk.recipe.signature import describe, parameters

    lines = ["", "## train", "", inspect.getdoc(Train) or ""]
    lines += ["", "| a recipe may set | type | default |", "| --- | --- | --- |"]
    for key, parameter in parameters(Train).items():
        default = "" if parameter.default is inspect.Parameter.empty else f"`{_yaml(parameter.default)}`"
        lines.append(f"| `{key}` | {describe(parameter.hint)} | {default} |")
    return lines


def _yaml(value: Any) -> str:
    from vqtk.recipe.node import Node
    from vqtk.recipe.show import inline

    return inline(Node.of(value, ""))


def show_command(
    recipe: RecipePath,
    overrides: Overrides = None,
    plugin: Plugins = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show a recipe with all defaults and overrides applied, its parameters and operations.

    Prints the origin of each value, then the length of a code, the number of parameters, the data, and the number of
    operations.
    """
    from vqtk.cli.options import print_json
    from vqtk.datasets import data_root
    from vqtk.evaluate.profile import flops, parameters_by_part, total_parameters
    from vqtk.recipe.build import build_dataset, build_model
    from vqtk.recipe.node import walk
    from vqtk.recipe.recipe import load_recipe
    from vqtk.recipe.show import as_yaml

    loaded = load_recipe(recipe, overrides or [])
    model = build_model(loaded, device="meta")
    dataset = build_dataset(loaded)
    root = data_root(data_dir, of=dataset)
    dataset.check(root)
    plan, missing = dataset.plan(root), dataset.missing(root)
    parts, operations = parameters_by_part(model), flops(loaded)
    if json:
        origins = {path: node.origin for path, node in walk(loaded.node) if not isinstance(node.value, (dict, list))}
        facts = {"stages": model.stages, "options": model.options, "bits": model.bits, "segments": model.segments}
        costs = {
            "parameters": {**parts, "total": total_parameters(model)},
            "flops": operations,
            "data": plan,
            "missing": missing,
        }
        print_json({"recipe": loaded.plain(), "origins": origins, **facts, **costs})
        return
    print(as_yaml(loaded.node, [plugin.path for plugin in loaded.plugins]))
    segments = f", {model.segments} segments of {model.segment}" if model.segments > 1 else ""
    print(f"code        {model.stages} stages × {model.options} options = {model.bits:g} bits per example{segments}")
    print(
        f"parameters  {total_parameters(model):,}: " + ", ".join(f"{part} {count:,}" for part, count in parts.items())
    )
    encode, decode = (_engineering(operations[key]) for key in ("encode", "decode"))
    print(f"data        {plan}")
    if missing:
        print(f"            {missing}")
    print(f"operations  encode {encode}FLOPs, decode {decode}FLOPs per example")


def _engineering(value: int) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value} "


def validate_command(
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE... [OVERRIDE]...", help="Recipes or studies (.yaml), then overrides of each."),
    ],
    plugin: Plugins = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Build the model of each recipe, or of each variant of a study, and try it on one example.

    To save time, the example passes only through the first and the last stage of the first and the last segment. The
    data are not read: if they are missing, a line says so, and the recipe is still ok.
    """
    from vqtk.cli.options import print_json
    from vqtk.errors import RecipeError, VqtkError

    overrides = [one for one in recipes if "=" in one and not Path(one).is_file()]
    results: list[dict[str, Any]] = []
    for path in (Path(one) for one in recipes if one not in overrides):
        said = ""
        for result in _validated(path, overrides, data_dir):
            results.append(result)
            if not json:
                _print(result, said)
            said = result.get("missing", said)
    if not results:
        raise RecipeError("vqtk validate: expected a recipe or a study, as recipes/mnist.yaml.")
    if json:
        print_json(results)
    failed = [result for result in results if not result["ok"]]
    if failed:
        raise VqtkError(f"{len(failed)} of {len(results)} recipes cannot be trained; see above.")


def _validated(path: Path, overrides: list[str], data_dir: Path | None) -> Iterator[dict[str, Any]]:
    """Yield the result for a recipe, or for each variant of a study up to the first that cannot be trained."""
    from vqtk.errors import VqtkError
    from vqtk.recipe.build import data_missing, unchanged
    from vqtk.recipe.build import validate as try_out
    from vqtk.recipe.node import is_study, shown_path
    from vqtk.recipe.recipe import load_recipe
    from vqtk.study.plan import plan
    from vqtk.study.runner import try_out as try_out_variants
    from vqtk.study.study import load_study

    def facts(name: str, recipe: Recipe, tried: Validation, warnings: list[str]) -> dict[str, Any]:
        plugins = [shown_path(plugin.path) for plugin in recipe.plugins]
        measured = {"parameters": tried.parameters, "bits": tried.bits, "seconds": round(tried.seconds, 1)}
        missing = data_missing(recipe, data_dir)
        return {"recipe": name, "ok": True, **measured, "warnings": warnings, "missing": missing, "plugins": plugins}

    try:
        if is_study(path):
            made = plan(load_study(path, overrides), path.with_suffix(""), lambda recipe: TIMELESS_S)
            for variant, tried, warnings in try_out_variants(made):
                yield facts(f"{path}: {variant.name}", variant.recipe, tried, warnings)
        else:
            recipe = load_recipe(path, overrides)
            yield facts(str(path), recipe, try_out(recipe), unchanged(recipe))
    except VqtkError as error:
        yield {"recipe": str(path), "ok": False, "error": str(error)}


def _print(result: dict[str, Any], said: str) -> None:
    """Print a result; what is missing of the data not if it was `said` of the variant before."""
    if result["ok"]:
        size = f"{result['parameters']:,} parameters  {result['bits']:g} bits"
        print(f"ok     {result['recipe']}  {size}  {result['seconds']} s")
        for plugin in result["plugins"]:
            print(f"       check its plugin: vqtk plugin check {plugin}")
        for warning in result["warnings"]:
            print(f"       warning: {warning}")
        if result["missing"] not in ("", said):
            print(f"       data: {result['missing']}")
    else:
        print(f"wrong  {result['recipe']}\n{result['error']}")
