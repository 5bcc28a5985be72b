"""The commands, gathered. Their modules import torch only when they run, so that `--help` is quick."""

from __future__ import annotations

import typer

from vqtk.cli.eval import eval_command
from vqtk.cli.exchange import export_command, import_command
from vqtk.cli.exchange import plugin_app as plugin
from vqtk.cli.look import proposals_command, reconstruct_command, report_command, stages_command, tree_command
from vqtk.cli.recipes import list_command, show_command, validate_command
from vqtk.cli.run import bench_command, run_command
from vqtk.cli.sampling import complete_command, sample_command
from vqtk.cli.studies import ablate_command, compare_command

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

app.command("run", rich_help_panel=_TRAIN)(run_command)
app.command("eval", rich_help_panel=_TRAIN)(eval_command)
app.command("ablate", rich_help_panel=_TRAIN)(ablate_command)
app.command("bench", rich_help_panel=_TRAIN)(bench_command)
app.command("compare", rich_help_panel=_TRAIN)(compare_command)
app.command("sample", rich_help_panel=_LOOK)(sample_command)
app.command("reconstruct", rich_help_panel=_LOOK)(reconstruct_command)
app.command("stages", rich_help_panel=_LOOK)(stages_command)
app.command("report", rich_help_panel=_LOOK)(report_command)
app.command("proposals", rich_help_panel=_LOOK)(proposals_command)
app.command("tree", rich_help_panel=_LOOK)(tree_command)
app.command("complete", rich_help_panel=_LOOK)(complete_command)
app.command("list", rich_help_panel=_RECIPES)(list_command)
app.command("show", rich_help_panel=_RECIPES)(show_command)
app.command("validate", rich_help_panel=_RECIPES)(validate_command)
app.command("export", rich_help_panel=_RECIPES)(export_command)
app.add_typer(plugin, rich_help_panel=_RECIPES)
app.command("import-original", rich_help_panel=_RECIPES)(import_command)


@app.callback()
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        from vqtk import __version__

        print(__version__)
        raise typer.Exit


_version.__doc__ = None
