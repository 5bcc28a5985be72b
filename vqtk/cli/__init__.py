"""The command line: one file a command; nothing but parsing and printing."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line. An expected error is one paragraph and exit code 2, never a traceback."""
    from vqtk.cli.app import app
    from vqtk.errors import VqtkError

    try:
        app(prog_name="vqtk")
    except VqtkError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
