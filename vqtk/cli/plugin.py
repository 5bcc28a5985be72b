"""`vqtk plugin`: what concerns plugin files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqtk.cli.options import Json

if TYPE_CHECKING:
    from vqtk.testing.contract import Result

app = typer.Typer(
    name="plugin",
    help="Write and check plugins.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The component's name, and the file's.")],
    registry: Annotated[
        str | None, typer.Option("--registry", "-r", metavar="REGISTRY", help="Which registry; see `vqtk list`.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The folder to write into.")] = Path(),
    json: Json = False,
) -> None:
    """Write a plugin that works, to be changed, and its test: NAME.py and test_NAME.py."""
    from vqtk.cli.options import print_json
    from vqtk.errors import RegistryError
    from vqtk.plugin.scaffold import new_plugin
    from vqtk.registry import REGISTRIES

    if registry is None:
        raise RegistryError(
            f"vqtk plugin new {name}: of which registry? Give --registry, one of: {', '.join(REGISTRIES)}."
        )
    plugin, test = new_plugin(name, registry, out)
    if json:
        print_json({"plugin": str(plugin), "test": str(test)})
    else:
        print(f"{plugin}\n{test}\nCheck it: vqtk plugin check {plugin}")


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A plugin: a .py file, or a package folder.")],
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile with torch.compile's own backend, not only trace; it is slow.")
    ] = False,
    json: Json = False,
) -> None:
    """Hold every component of a plugin to the contract of its registry; exit with 2 if one does not keep to it."""
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
    """Print a table of all checks, and below it what failed or was skipped, the same message once."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    styles = {"ok": "green", "failed": "bold red", "skipped": "yellow"}
    table = Table("component", "check", "result", box=None, padding=(0, 2, 0, 0))
    for result in results:
        table.add_row(escape(result.component), result.check, f"[{styles[result.outcome]}]{result.outcome}[/]")
    Console().print(table)
    told: dict[str, list[Result]] = {}
    for result in results:
        if result.message:
            told.setdefault(result.message, []).append(result)
    for message, same in told.items():
        print(f"\n{same[0].outcome}: {same[0].component}: {'; '.join(result.check for result in same)}")
        print(message)
