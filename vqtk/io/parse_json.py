"""JSON of files that somebody else may have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises: ValueError if it is none, or is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file with a JSON object a line, none if there is no file.

    Lines that are none, such as one that was cut short, are left out.
    """
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            rows.append(parse_json(line))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict)]
