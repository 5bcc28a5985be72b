"""The command line: parsing and printing only. Torch is imported when a command runs, so `--help` is fast."""

from __future__ import annotations

import os
import sys
import warnings
from functools import partial
from typing import Any

import typer
from typer.core import TyperGroup

from vqtk.cli.ablate import ablate_command
from vqtk.cli.compare import compare_command
from vqtk.cli.eval import eval_command, results_command
from vqtk.cli.exchange import export_command, import_command, pull_command, push_command
from vqtk.cli.exchange import plugin_app as plugin
from vqtk.cli.look import (
    explore_command,
    proposals_command,
    reconstruct_command,
    report_command,
    stages_command,
    tree_command,
)
from vqtk.cli.recipes import list_command, show_command, validate_command
from vqtk.cli.run import bench_command, run_command
from vqtk.cli.runs import runs_app
from vqtk.cli.sampling import complete_command, sample_command
from vqtk.cli.storage import compress_command, decompress_command, index_command, pack_command

_LESS_MEMORY = (
    "Free some, or use less: a smaller data.batch or train.micro_batch, fewer examples (-n), a smaller "
    "model, another --device."
)


_CALLED = {
    "train": "run", "fit": "run", "resume": "run --resume", "test": "eval", "evaluate": "eval", "generate": "sample",
    "sweep": "ablate", "study": "ablate", "tune": "ablate", "check": "validate", "help": "--help", "ls": "list",
    "benchmark": "bench", "profile": "bench --profile", "diff": "compare", "inpaint": "complete",
}  # fmt: skip
"""What users call commands, and their names here."""
_UsageError: Any = typer.BadParameter.__base__
"""The root of errors of usage: click's or, in later versions of typer, its own."""


class Panels(TyperGroup):
    """Lists the commands of `--help` by panel, with whole summaries."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments name. Raises: VqtkError with the nearest, if there is none."""
        from vqtk.errors import VqtkError, closest

        name = args[0]
        if name in self.commands or name.startswith("-"):
            return super().resolve_command(ctx, args)
        near = _CALLED.get(name.lower()) or closest(name, list(self.commands))
        advice = f"Did you mean {ctx.command_path} {near}? " if near else ""
        known = ", ".join(self.commands)
        raise VqtkError(f"{ctx.command_path}: there is no command {name!r}. {advice}The commands: {known}.")

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per panel, in the order of the commands."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            summary = command.short_help or (command.help or "").strip().partition("\n\n")[0]
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            panels.setdefault(panel, []).append((name, " ".join(summary.split())))
        width = max(map(len, self.commands))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(width), summary) for name, summary in rows])


app = typer.Typer(
    name="vqtk",
    cls=Panels,
    help="A research toolkit around VQ-DRAW, a sequential discrete VAE.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

_TRAIN, _LOOK, _RECIPES = "Train and measure", "Look at a model", "Recipes and components"
_CODES, _DATA = "Codes as files", "Data of many files"

app.command("run", rich_help_panel=_TRAIN)(run_command)
app.command("eval", rich_help_panel=_TRAIN)(eval_command)
app.command("results", rich_help_panel=_TRAIN)(results_command)
app.command("ablate", rich_help_panel=_TRAIN, short_help="Train all variants of a study and compare them.")(
    ablate_command
)
app.command("bench", rich_help_panel=_TRAIN)(bench_command)
app.command("compare", rich_help_panel=_TRAIN)(compare_command)
app.add_typer(runs_app, rich_help_panel=_TRAIN)
app.command("sample", rich_help_panel=_LOOK)(sample_command)
app.command("reconstruct", rich_help_panel=_LOOK)(reconstruct_command)
app.command("stages", rich_help_panel=_LOOK)(stages_command)
app.command("report", rich_help_panel=_LOOK)(report_command)
app.command("proposals", rich_help_panel=_LOOK)(proposals_command)
app.command("tree", rich_help_panel=_LOOK)(tree_command)
app.command("complete", rich_help_panel=_LOOK)(complete_command)
app.command("explore", rich_help_panel=_LOOK)(explore_command)
app.command("compress", rich_help_panel=_CODES)(compress_command)
app.command("decompress", rich_help_panel=_CODES)(decompress_command)
app.command("index", rich_help_panel=_DATA)(index_command)
app.command("pack", rich_help_panel=_DATA)(pack_command)
app.command("list", rich_help_panel=_RECIPES)(list_command)
app.command("show", rich_help_panel=_RECIPES)(show_command)
app.command("validate", rich_help_panel=_RECIPES)(validate_command)
app.command("export", rich_help_panel=_RECIPES)(export_command)
app.command("push", rich_help_panel=_RECIPES)(push_command)
app.command("pull", rich_help_panel=_RECIPES)(pull_command)
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


def main() -> None:
    """Run the command line. An expected error prints one paragraph and exits with 2, without a traceback."""
    from vqtk.errors import VqtkError, VqtkWarning, is_out_of_memory, told_by_system
    from vqtk.plugin.loading import described, in_plugin

    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_show_warning, VqtkWarning, warnings.showwarning)
            sys.exit(app(prog_name="vqtk", standalone_mode=False))
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            print(f"error: {_usage(error)}", file=sys.stderr)
        sys.exit(2)
    except VqtkError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (BrokenPipeError, KeyboardInterrupt) as error:
        _end_early(error)
    except OSError as error:
        print(f"error: {told_by_system(error)}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if is_out_of_memory(error):
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            print(f"error: out of memory: {first}. {_LESS_MEMORY}", file=sys.stderr)
        elif in_plugin(error):
            print(f"error: a plugin failed: {described(error)}", file=sys.stderr)
        else:
            raise
        sys.exit(2)


def _usage(error: Any) -> str:
    """Return an error of usage as a sentence: the command, what is wrong with its arguments, and what to write."""
    from vqtk.errors import closest, printable

    command = error.ctx.command_path if error.ctx else "vqtk"
    option = getattr(error, "option_name", "")
    if not hasattr(error, "possibilities"):
        message = error.format_message().rstrip(".").replace("Value error, ", "")
        message += "" if message.endswith("?") else "."
        return printable(f"{command}: {message[:1].lower()}{message[1:]} See {command} --help.")
    options = [name for one in error.ctx.command.params for name in one.opts if name.startswith("--")]
    longer = [name for name in options if name.startswith(option) or option.startswith(name)]
    setting = _setting(option) if any(one.name == "overrides" for one in error.ctx.command.params) else ""
    near = longer[0] if longer else closest(option, options, cutoff=0.6)
    advice = f"Did you mean {near}? " if near and (longer or not setting) else setting
    return printable(f"{command}: there is no option {option}. {advice}See {command} --help.")


def _setting(option: str) -> str:
    """Return how a recipe's setting that was given as an option is written; an empty string if it is none."""
    from vqtk.recipe.recipe import setting_called

    word = option.lstrip("-").rpartition(".")[2]
    place = setting_called(word)
    if not place:
        return ""
    after = [given.partition(option)[2] for given in sys.argv if given.startswith(f"{option}=")]
    after += [f"={value}" for name, value in zip(sys.argv, sys.argv[1:], strict=False) if name == option]
    value = after[0] if after and place.rpartition(".")[2] == word else "=…"
    return f"Settings of a recipe are given by their paths, without dashes: {place}{value}. "


def _show_warning(ours: type[Warning], otherwise: Any, message: Any, category: type[Warning], *place: Any) -> None:
    """Print a warning of vqtk as one line; pass others on."""
    if issubclass(category, ours):
        print(f"warning: {message}", file=sys.stderr)
    else:
        otherwise(message, category, *place)


def _end_early(error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt):
        print("interrupted: stopped at once, without a checkpoint", file=sys.stderr)
        sys.exit(130)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)
