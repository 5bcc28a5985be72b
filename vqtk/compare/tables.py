"""A comparison as tables: for the terminal, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from functools import partial
from io import StringIO
from typing import Any, NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table

from vqtk.compare.notes import engineering, format_difference, format_number, format_spread, p_value
from vqtk.errors import printable

_ENDS = (("", "mean"), ("_std", "std"))
STAGES_SHOWN = 12
"""Stages that tables have rows for at most, evenly spaced."""


class Column(NamedTuple):
    """A column: its title, and how a variant's entry is said."""

    title: str
    said: Callable[[dict[str, Any]], str]


def results_table(comparison: dict[str, Any]) -> list[Column]:
    """Return the columns of what the variants reached."""
    percent = f"{100 * comparison['confidence']:g} %"
    return [
        Column("variant", lambda row: row["name"]),
        Column("n", lambda row: str(row["n"])),
        Column(f"{comparison['metric']} ± sd", format_spread),
        Column(f"difference [{percent}]", lambda row: format_difference(row["difference"])),
        Column("p (Holm)", lambda row: p_value(row["difference"])),
        Column("verdict", lambda row: row["difference"]["verdict"] if row["difference"] else "baseline"),
        *(Column(f"{name} ± sd", partial(_also, name)) for name in comparison["also"]),
        *(
            []
            if comparison["metric"] == "area" or comparison["units"]
            else [Column("area ± sd", lambda row: format_spread(row["area"]))]
        ),
        Column("entropy a stage", lambda row: f"{row['entropy_nats']:.3f}"),
        Column("used a stage", lambda row: f"{row['used']:.1f}" + (f"/{row['options']}" if row["options"] else "")),
    ]


def _also(name: str, row: dict[str, Any]) -> str:
    return format_spread(row["also"][name])


def costs_table() -> list[Column]:
    """Return the columns of what the variants cost."""
    return [
        Column("variant", lambda row: row["name"]),
        Column("bits", lambda row: format_number(row["bits"])),
        Column("parameters", lambda row: engineering(row["parameters"])),
        Column("encode (FLOPs)", lambda row: engineering((row["flops"] or {}).get("encode"))),
        Column("decode (FLOPs)", lambda row: engineering((row["flops"] or {}).get("decode"))),
        Column("updates", lambda row: f"{row['updates']:,}"),
        Column("step (ms)", lambda row: format_number(row["step_ms"])),
        Column("items/s", lambda row: format_number(row["items_per_s"])),
        Column("training (s)", lambda row: format_number(row["train_s"])),
        Column("memory (MB)", lambda row: format_number(row["peak_memory_mb"])),
    ]


def stages_table(comparison: dict[str, Any]) -> list[list[str]]:
    """Return distortion ± sd by stage, a header row first: a column a variant.

    Of the stages that any variant has a reconstruction at, about STAGES_SHOWN are taken, and the last of each variant.
    Where a stage is not of the same rate in all variants, each entry says its bits.
    """
    variants = comparison["variants"]
    deepest = max((row["stages"] for row in variants), key=len)
    last = {len(row["stages"]) - 1 for row in variants}
    having = {index for row in variants for index, stage in enumerate(row["stages"]) if stage["mean"] is not None}
    step = max(1, -(-len(having) // STAGES_SHOWN))
    falling = enumerate(sorted(having, reverse=True))
    shown = sorted(index for left, index in falling if index in last or left % step == 0)
    alike = len({row["stages"][0]["bits"] for row in variants}) == 1
    body = [
        [
            f"{index + 1} ({deepest[index]['bits']:g} bits)" if alike else str(index + 1),
            *(_stage(row["stages"][index : index + 1], bits=not alike) for row in variants),
        ]
        for index in shown
    ]
    return [["stage", *(row["name"] for row in variants)], *body]


def _stage(found: Sequence[dict[str, Any]], *, bits: bool) -> str:
    """Return a stage's distortion, or a dash past a variant's last stage, or where it has no reconstruction."""
    if not found or found[0]["mean"] is None:
        return "–"
    return format_spread(found[0]) + (f" at {found[0]['bits']:g} bits" if bits else "")


def runs_table(columns: Sequence[Column], comparison: dict[str, Any]) -> list[list[str]]:
    """Return a table's rows as text, the header first."""
    return [
        [column.title for column in columns],
        *([column.said(row) for column in columns] for row in comparison["variants"]),
    ]


def as_rich(columns: Sequence[Column], comparison: dict[str, Any], *, title: str) -> Table:
    """Return a table for the terminal."""
    table = Table(title=_literal(title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    header, *body = runs_table(columns, comparison)
    for index, name in enumerate(header):
        table.add_column(_literal(name), justify="right" if index else "left", overflow="fold")
    for row in body:
        table.add_row(*map(_literal, row))
    return table


def _literal(text: str) -> str:
    """Return text that a terminal shows as it is: names come from files, and may look like markup."""
    return escape(printable(text))


def remarks(comparison: dict[str, Any]) -> list[str]:
    """Return all that is said in words: unequal terms first, then the terms, verdicts, notes, and what is left out."""
    marked = ["UNEQUAL TERMS. " + " ".join(comparison["unequal"])] if comparison["unequal"] else []
    said = [comparison["terms"]] if comparison["terms"] else []
    left = [f"Left out: {one['path']}: {one['why']}" for one in comparison["left_out"]]
    return [*marked, *said, *comparison["verdicts"], *comparison["notes"], *left]


def as_markdown(comparison: dict[str, Any]) -> str:
    """Return the comparison as Markdown."""
    parts = [
        f"# {comparison['name']}",
        f"Baseline: {comparison['baseline']}; {comparison['metric']}: {comparison['better']} is better.",
        _markdown(runs_table(results_table(comparison), comparison)),
        "\n".join(f"- {line}" for line in remarks(comparison)),
        "## Costs",
        _markdown(runs_table(costs_table(), comparison)),
    ]
    if not comparison["units"]:
        parts += ["## Distortion by stage", _markdown(stages_table(comparison))]
    for axis, rows in comparison["effects"].items():
        header = [axis, f"{comparison['metric']} ± sd", "cells", "seeds"]
        body = [[row["value"], format_spread(row), str(row["cells"]), str(row["seeds"])] for row in rows]
        parts += [f"## Main effect of {axis}", _markdown([header, *body])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def as_csv(comparison: dict[str, Any]) -> str:
    """Return a line a variant with every figure in full, and of unequal terms what they are."""
    written = StringIO()
    rows = [_flat(row, comparison) for row in comparison["variants"]]
    writer = csv.DictWriter(written, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


def _flat(row: dict[str, Any], comparison: dict[str, Any]) -> dict[str, Any]:
    gap, metric, operations = row["difference"] or {}, comparison["metric"], row["flops"] or {}
    return {
        "variant": row["name"],
        "baseline": comparison["baseline"],
        "n": row["n"],
        "metric": metric,
        "mean": row["mean"],
        "std": row["std"],
        **{key: gap.get(key) for key in ("pairs", "low", "high", "p", "p_holm", "verdict")},
        "difference": gap.get("mean"),
        **{f"{name}{end}": also[key] for name, also in row["also"].items() for end, key in _ENDS},
        "area": row["area"]["mean"],
        "area_std": row["area"]["std"],
        "used_a_stage": row["used"],
        **{key: row[key] for key in ("entropy_nats", "options", "bits", "parameters")},
        "encode_flops": operations.get("encode"),
        "decode_flops": operations.get("decode"),
        **{key: row[key] for key in ("updates", "train_s", "step_ms", "items_per_s", "peak_memory_mb", "late_fall")},
        "unequal": " ".join(comparison["unequal"]),
    }


def as_tex(comparison: dict[str, Any]) -> str:
    """Return the results as a LaTeX table in the style of booktabs."""
    header, *body = [row[:5] for row in runs_table(results_table(comparison), comparison)]
    lines = [" & ".join(map(_tex, row)) + r" \\" for row in body]
    unequal = [r"\multicolumn{5}{l}{\emph{Unequal terms.}} \\"] if comparison["unequal"] else []
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{tabular}{lrrrr}",
            r"\toprule",
            " & ".join(map(_tex, header)) + r" \\",
            r"\midrule",
            *lines,
            *([r"\midrule", *unequal] if unequal else []),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _tex(text: str) -> str:
    special = {**{sign: f"\\{sign}" for sign in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
    signs = {"±": r"$\pm$", "−": "$-$", "–": "--", "<": "$<$", "^": r"\textasciicircum{}"}
    return "".join({**special, **signs}.get(sign, sign) for sign in text)
