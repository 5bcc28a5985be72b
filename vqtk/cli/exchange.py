"""vqtk plugin, export, push, pull and import-original: plugins, and models in other forms and places."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqtk.cli.options import Force, Json, ModelPath, Overrides, Plugins, RecipePath

if TYPE_CHECKING:
    from vqtk.io.exported import GraphForm
    from vqtk.testing.contract import Result


plugin_app = typer.Typer(
    name="plugin",
    help="Write and check plugins.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@plugin_app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the component, and of the file.")],
    registry: Annotated[
        str | None,
        typer.Option(
            "--registry", "-r", metavar="REGISTRY", help="Registry of the component, e.g. block. `vqtk list` shows all."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write to.")] = Path(),
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a working plugin and its test: NAME.py and test_NAME.py."""
    from vqtk.cli.options import print_json
    from vqtk.errors import RegistryError
    from vqtk.plugin.sources import new_plugin
    from vqtk.registry import REGISTRIES

    if registry is None:
        raise RegistryError(
            f"vqtk plugin new {name}: which registry? Give --registry, one of: {', '.join(REGISTRIES)}."
        )
    plugin, test = new_plugin(name, registry, out, force=force)
    if json:
        print_json({"plugin": str(plugin), "test": str(test)})
    else:
        print(f"{plugin}\n{test}\nCheck it: vqtk plugin check {plugin}")


@plugin_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A plugin: a .py file or a package folder.")],
    compile: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile with the default backend of torch.compile (slow), instead of only tracing."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Check that every component of a plugin satisfies the contract of its registry.

    The exit code is 2 if a check fails.
    """
    from vqtk.cli.options import print_json
    from vqtk.errors import VqtkError
    from vqtk.testing.contract import check_plugin

    results = list(check_plugin(file, backend="inductor" if compile else "eager"))
    failed = [result for result in results if result.outcome == "failed"]
    if json:
        print_json({"plugin": str(file), "ok": not failed, "checks": [vars(result) for result in results]})
    else:
        _print(results)
    if failed:
        raise VqtkError(f"plugin {file}: {len(failed)} of {len(results)} checks failed; see above.")


def _print(results: list[Result]) -> None:
    """Print a table of all checks, then each distinct message of a failed or skipped one."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    styles = {"ok": "green", "failed": "bold red", "skipped": "yellow"}
    table = Table("component", "check", "result", box=None, padding=(0, 2, 0, 0))
    for result in results:
        table.add_row(escape(result.component), result.check, f"[{styles[result.outcome]}]{result.outcome}[/]")
    Console().print(table)
    by_message: dict[str, list[Result]] = {}
    for result in results:
        if result.message:
            by_message.setdefault(result.message, []).append(result)
    for message, same in by_message.items():
        print(f"\n{same[0].outcome}: {same[0].component}: {'; '.join(result.check for result in same)}")
        print(message)


# ── models in other forms and places ─────────────────────────────────────────────────────────────


class Form(str, Enum):
    """What `vqtk export` writes."""

    weights = "weights"
    bundle = "bundle"
    onnx = "onnx"
    torch = "torch"


Half = Annotated[bool, typer.Option("--half", help="Store weights in half precision, at half the size.")]


def export_command(
    model: ModelPath,
    output: Annotated[Path, typer.Option("-o", "--out", help="File to write, or folder if not weights.")] = ...,  # type: ignore[assignment]
    force: Force = False,
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="weights: one file with the recipe. bundle: a folder with weights, recipe, plugins and a model card. "
            "onnx, torch: a folder with the graphs encode and decode, for onnxruntime or torch.export.load.",
        ),
    ] = Form.weights,
    half: Half = False,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Write a model as one file with weights and recipe, as a bundle, or as ONNX or torch.export graphs.

    If MODEL is a run directory, exports the newest checkpoint. Every command that takes a MODEL accepts the file, and a
    bundle.
    """
    from vqtk.cli.options import print_json, require_new
    from vqtk.errors import VqtkError
    from vqtk.io.bundle import write_bundle
    from vqtk.io.exported import export_graphs, graph_paths
    from vqtk.io.weights import load_weights, read_weights, save_weights, weights_of

    graphs: GraphForm | None = "onnx" if form is Form.onnx else "torch" if form is Form.torch else None
    if half and graphs:
        raise VqtkError(f"--half --format {graphs}: graphs compute in float32. Leave out --half.")
    require_new(*(graph_paths(output, graphs) if graphs else [output]), force=force)
    if form is Form.bundle:
        written = write_bundle(output, model, half=half, force=force)
    else:
        source = weights_of(model)
        loaded, recipe = load_weights(source)
        if graphs is None:
            facts = read_weights(source)[1]["facts"]
            save_weights(output, loaded.half() if half else loaded, recipe, **facts)
            written = [output]
        else:
            written = export_graphs(output, loaded, recipe, graphs, say=_say)
    sizes = {str(path): path.stat().st_size for path in written}
    if json:
        key = {"weights": str(output), "bytes": sizes[str(output)]} if form is Form.weights else {"files": sizes}
        print_json({**key, "half": half})
    else:
        print("\n".join(f"{path}  {size:,} bytes" for path, size in sizes.items()))


def _say(line: str) -> None:
    print(line, file=sys.stderr)


HubModel = Annotated[str, typer.Argument(metavar="hf://USER/NAME", help="A model on the Hugging Face hub.")]


def push_command(
    model: ModelPath,
    name: HubModel,
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    half: Half = False,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Upload a model's bundle, with a model card, to the Hugging Face hub.

    Log in before, with `hf auth login` or the variable HF_TOKEN. Unless the repository is private, everyone can
    then load the model: vqtk sample hf://USER/NAME.
    """
    from vqtk.cli.options import print_json
    from vqtk.io.bundle import push

    address = push(model, name, private=private, half=half)
    if json:
        print_json({"address": address})
    else:
        print(address)


def pull_command(
    name: HubModel,
    output: Annotated[Path, typer.Option("-o", "--out", help="New folder to write to.")] = ...,  # type: ignore[assignment]
    force: Force = False,
    json: Json = False,
) -> None:
    """Download a model's bundle from the Hugging Face hub. No code in it is executed."""
    from vqtk.cli.options import print_json, require_new
    from vqtk.io.bundle import pull

    require_new(output, force=force)
    written = pull(name, output, force=force)
    if json:
        print_json({"files": [str(path) for path in written]})
    else:
        print("\n".join(map(str, written)))


def import_command(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="Checkpoint of the original implementation (.pt).")
    ],
    recipe: RecipePath,
    overrides: Overrides = None,
    output: Annotated[Path, typer.Option("-o", "--out", help="Weights file to write.")] = ...,  # type: ignore[assignment]
    force: Force = False,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Convert a checkpoint of the original implementation into a weights file.

    RECIPE must describe the network of the checkpoint. No code in the checkpoint is executed.
    """
    from vqtk.cli.options import print_json, require_new
    from vqtk.errors import CheckpointError
    from vqtk.io.original import load_original, read_original
    from vqtk.io.weights import save_weights
    from vqtk.recipe.build import build_model
    from vqtk.recipe.recipe import load_recipe

    require_new(output, force=force)
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
