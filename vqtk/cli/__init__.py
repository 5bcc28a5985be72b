"""The command line: argument parsing and printing, one file per group of commands."""

from __future__ import annotations

import os
import sys
import warnings
from functools import partial
from typing import Any

_LESS_MEMORY = (
    "Free some, or use less: a smaller data.batch or train.micro_batch, fewer examples (-n), a smaller "
    "model, another --device."
)


def main() -> None:
    """Run the command line. An expected error prints one paragraph and exits with 2, without a traceback."""
    from vqtk.cli.app import app
    from vqtk.errors import VqtkError, VqtkWarning, is_out_of_memory, told_by_system
    from vqtk.plugin.loading import described, in_plugin

    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_show_warning, VqtkWarning, warnings.showwarning)
            app(prog_name="vqtk")
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
