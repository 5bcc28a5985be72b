"""vqtk runs: list, filter, compare, tag and delete runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from vqtk.cli.options import Json

if TYPE_CHECKING:
    from vqtk.runs.catalogue import ListedRun

RUNS = Path("runs")
_COLUMNS = "state,updates,final,train_s,tag,note"
_WIDTH = 120
"""Width of the table, in columns, outside a terminal."""


class ListingGroup(TyperGroup):
    """Runs `list` if the first argument names no command, so that folders and filters need no word before them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `list` before the arguments of a listing."""
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, the commands, and the arguments and options of a listing."""
        super().format_options(ctx, formatter)
        listing = [parameter.get_help_record(ctx) for parameter in self.commands["list"].params]
        with formatter.section("Without a command"):
            formatter.write_dl([record for record in listing if record])


runs_app = typer.Typer(
    name="runs",
    cls=ListingGroup,
    help="List, filter, compare, tag and delete runs.",
    rich_markup_mode=None,
    subcommand_metavar="[FOLDER] [FILTER]... | COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"]},  # A help option that was once made is kept.
)
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


@runs_app.command("list")
def list_runs_command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FOLDER]... [FILTER]...",
            help="Folders of runs (default: runs), and filters such as name=mnist, 'lr>1e-3', 'final<0.1', tag=good or "
            "note~beam. Quote < and >, which the shell would take for files.",
        ),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(help="Sort by this value, e.g. final; -final sorts falling. Default: started.")
    ] = None,
    columns: Annotated[str, typer.Option(help="Columns, separated by commas, e.g. final,lr,seed.")] = _COLUMNS,
    json: Json = False,
) -> None:
    """List runs, and keep those for which all filters hold. (This is `vqtk runs` without a command.)"""
    from vqtk.cli.options import print_json
    from vqtk.errors import VqtkError, closest
    from vqtk.runs.catalogue import Filter, runs_in, select

    filters = {text: found for text in arguments or [] if (found := Filter.of(text)) and not Path(text).is_dir()}
    folders = [Path(text) for text in arguments or [] if text not in filters] or [RUNS]
    commands = [command.name or "" for command in runs_app.registered_commands]
    first = str(folders[0])
    if not folders[0].exists() and (near := closest(first, commands)):
        raise VqtkError(f"vqtk runs: {first} is neither a command nor a folder. Did you mean vqtk runs {near}?")
    runs = list({run.path.resolve(): run for folder in folders for run in runs_in(folder)}.values())
    chosen = select(runs, list(filters.values()), sort=sort)
    if json:
        print_json([_facts(run) for run in chosen])
        return
    if chosen:
        _print_runs(chosen, [name.strip() for name in columns.split(",") if name.strip()])
    print(f"{len(chosen):,} of {len(runs):,} runs in {', '.join(map(str, folders))}.")
    for run in chosen:
        if run.damage:
            print(f"damaged: {_plain(run.damage)}")


def _facts(run: ListedRun) -> dict[str, Any]:
    from vqtk.runs.catalogue import FACTS

    return {**{key: run.value(key) for key in FACTS}, "metrics": run.metrics, "damage": run.damage or None}


def _print_runs(runs: list[ListedRun], columns: list[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for name in ("run", *columns):
        table.add_column(name, overflow="fold")
    for run in runs:
        table.add_row(*(Text(_plain(value)) for value in (str(run.path), *(_shown(run.value(c)) for c in columns))))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(_WIDTH, *(len(str(run.path)) + 60 for run in runs)))
    console.print(table)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _plain(text: str) -> str:
    from vqtk.errors import printable, shortened

    return printable(shortened(text, most=300))


@runs_app.command("diff")
def diff_command(
    one: Annotated[Path, typer.Argument(metavar="A", help="A run directory.")],
    other: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    json: Json = False,
) -> None:
    """Show the differences between two runs: recipe, plugins, data, versions, and test metrics."""
    from vqtk.cli.options import print_json
    from vqtk.recipe.node import read
    from vqtk.recipe.show import changes
    from vqtk.runs.catalogue import ListedRun, require_run

    for path in (one, other):
        require_run(path)
    runs = [ListedRun.of(path) for path in (one, other)]
    recipe = changes(*(read(path / "recipe.yaml").plain() for path in (one, other)))
    found = {
        "recipe": {change.path: [change.baseline, change.variant] for change in recipe if change.path != "plugins"},
        **{part: _differing(*(_part(run, part) for run in runs)) for part in ("plugins", "data", "versions")},
        "metrics": _differing(*(run.metrics for run in runs)),
    }
    if json:
        print_json(found)
        return
    for run in runs:
        if run.damage:
            print(f"damaged: {_plain(run.damage)}")
    print(f"A  {_plain(str(one))}\nB  {_plain(str(other))}")
    for part, differing in found.items():
        print(f"{part}: the same" if not differing else f"{part}:")
        for key, (a, b) in differing.items():
            print(f"  {_plain(key)}: {_plain(_shown(a))} → {_plain(_shown(b))}{_by(a, b)}")


_VERSIONS = ("vqtk", "git", "python", "torch", "device", "processor", "threads", "execution")
_DATA = ("sha256", "train_items", "test_items", "queries", "source")


def _part(run: ListedRun, part: str) -> dict[str, Any]:
    """Return a part of a run's manifest as values by name."""
    manifest = run.manifest
    if part == "plugins":
        return {one.get("file", "?"): one.get("sha256", "")[:12] for one in manifest.get("plugins", [])}
    if part == "data":
        return {key: manifest.get("data", {}).get(key) for key in _DATA}
    return {key: manifest.get(key) for key in _VERSIONS}


def _differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, list[Any]]:
    keys = dict.fromkeys([*one, *other])
    return {key: [one.get(key), other.get(key)] for key in keys if one.get(key) != other.get(key)}


def _by(one: Any, other: Any) -> str:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (one, other))
    return f" ({other - one:+.3g})" if numbers else ""


@runs_app.command("tag")
def tag_command(
    run: RunPath,
    tags: Annotated[list[str], typer.Argument(metavar="TAG...", help="Tags to add.")],
    remove: Annotated[bool, typer.Option("--remove", help="Remove these tags instead.")] = False,
) -> None:
    """Tag a run, for filters such as tag=good."""
    from vqtk.runs.catalogue import label

    kept = label(run, remove=tags) if remove else label(run, add=tags)
    print(f"{_plain(str(run))}: {', '.join(kept) or 'no tags'}")


@runs_app.command("note")
def note_command(
    run: RunPath, text: Annotated[str, typer.Argument(metavar="TEXT", help="The note; an empty text removes it.")]
) -> None:
    """Write a note about a run, which replaces its note before."""
    from vqtk.runs.catalogue import label

    label(run, note=text)
    print(f"{_plain(str(run))}: {_plain(text) or 'no note'}")


@runs_app.command("delete")
def delete_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete runs. Nothing else is deleted, and no run that a process trains."""
    from vqtk.errors import VqtkError
    from vqtk.files import RUN, is_locked
    from vqtk.runs.catalogue import delete, require_run

    for run in runs:
        require_run(run)
        if is_locked(run / RUN):
            raise VqtkError(f"{run}: a process trains this run. Stop it first. Nothing was deleted.")
    listed = "\n".join(f"  {_plain(str(run))}" for run in runs)
    what = "this run" if len(runs) == 1 else f"these {len(runs)} runs"
    try:
        agreed = yes or typer.confirm(f"{listed}\nDelete {what}?")
    except typer.Abort:  # Ctrl-C, or no one to answer.
        agreed = False
    if not agreed:
        raise VqtkError("nothing was deleted. Answer y, or give --yes.")
    for run in runs:
        delete(run)
        print(f"Deleted: {_plain(str(run))}")
