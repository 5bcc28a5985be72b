"""The commands, gathered. Their modules import torch only when they run, so that `--help` is quick."""

from __future__ import annotations

import typer

from vqtk.cli.ablate import ablate
from vqtk.cli.bench import bench
from vqtk.cli.compare import compare
from vqtk.cli.complete import complete
from vqtk.cli.eval import evaluate
from vqtk.cli.export import export
from vqtk.cli.import_original import import_original
from vqtk.cli.list import list_components
from vqtk.cli.plugin import app as plugin
from vqtk.cli.proposals import proposals
from vqtk.cli.reconstruct import reconstruct
from vqtk.cli.report import report
from vqtk.cli.run import run
from vqtk.cli.sample import sample
from vqtk.cli.show import show
from vqtk.cli.stages import stages
from vqtk.cli.tree import tree
from vqtk.cli.validate import validate

app = typer.Typer(
    name="vqtk",
    help="A research toolkit around VQ-DRAW, a sequential discrete variational auto-encoder.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_TRAIN, _LOOK, _RECIPES = "Train and measure", "Look at a model", "Recipes and components"

app.command("run", rich_help_panel=_TRAIN)(run)
app.command("eval", rich_help_panel=_TRAIN)(evaluate)
app.command("ablate", rich_help_panel=_TRAIN)(ablate)
app.command("bench", rich_help_panel=_TRAIN)(bench)
app.command("compare", rich_help_panel=_TRAIN)(compare)
app.command("sample", rich_help_panel=_LOOK)(sample)
app.command("reconstruct", rich_help_panel=_LOOK)(reconstruct)
app.command("stages", rich_help_panel=_LOOK)(stages)
app.command("report", rich_help_panel=_LOOK)(report)
app.command("proposals", rich_help_panel=_LOOK)(proposals)
app.command("tree", rich_help_panel=_LOOK)(tree)
app.command("complete", rich_help_panel=_LOOK)(complete)
app.command("list", rich_help_panel=_RECIPES)(list_components)
app.command("show", rich_help_panel=_RECIPES)(show)
app.command("validate", rich_help_panel=_RECIPES)(validate)
app.command("export", rich_help_panel=_RECIPES)(export)
app.add_typer(plugin, rich_help_panel=_RECIPES)
app.command("import-original", rich_help_panel=_RECIPES)(import_original)


@app.callback()
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        from vqtk import __version__

        print(__version__)
        raise typer.Exit


_version.__doc__ = None
