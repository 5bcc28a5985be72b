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

from vqtk.compare.notes import engineering, format_difference, format_mean_std, format_number, format_p
from vqtk.compare.result import ComparedStage, ComparedVariant, RunComparison
from vqtk.errors import printable

STAGES_SHOWN = 12
"""The most stages that a table has rows for, evenly spaced."""

SEARCHED = "All runs encoded the test examples with the search {search}; curves over updates are greedy."
Rows = list[list[str]]
"""A table as text, the header first."""


class Column(NamedTuple):
    """A column of a table with a row for each variant: its title, and the text of a variant's entry."""

    title: str
    entry: Callable[[ComparedVariant], str]


def results_table(comparison: RunComparison) -> Rows:
    """Return what the variants reached."""
    percent = f"{100 * comparison.confidence:g} %"
    within = comparison.within
    has_area = comparison.metric != "area" and not comparison.units
    columns = [
        Column("variant", lambda row: row.name),
        Column("n", lambda row: str(len(row.seeds))),
        Column(f"{comparison.metric} ± std", lambda row: format_mean_std(row.result)),
        Column(f"difference [{percent}]", lambda row: format_difference(row.difference)),
        Column("p (Holm)", lambda row: format_p(row.difference.p_holm if row.difference else None)),
        *([Column(f"p (equivalence, ±{within:g})", _p_within)] if within is not None else []),
        Column("verdict", lambda row: row.difference.verdict if row.difference else "baseline"),
        *(Column(f"{name} ± std", partial(_also, name)) for name in comparison.also),
        *([Column("area ± std", lambda row: format_mean_std(row.area))] if has_area else []),
        Column("entropy per stage", lambda row: f"{row.usage.entropy_nats:.3f}"),
        Column("used per stage", _used),
    ]
    return _rows(columns, comparison)


def _also(name: str, row: ComparedVariant) -> str:
    return format_mean_std(row.also[name])


def _p_within(row: ComparedVariant) -> str:
    return format_p(row.difference.p_within if row.difference else None)


def _used(row: ComparedVariant) -> str:
    return f"{row.usage.used:.1f}" + (f"/{row.usage.options}" if row.usage.options else "")


def costs_table(comparison: RunComparison) -> Rows:
    """Return what the variants cost."""
    columns = [
        Column("variant", lambda row: row.name),
        Column("bits", lambda row: format_number(row.costs.bits)),
        Column("parameters", lambda row: engineering(row.costs.parameters)),
        Column("encode (FLOPs)", lambda row: engineering(row.costs.encode_flops)),
        Column("decode (FLOPs)", lambda row: engineering(row.costs.decode_flops)),
        Column("updates", lambda row: f"{row.costs.updates:,}"),
        Column("step (ms)", lambda row: format_number(row.costs.step_ms)),
        Column("examples/s", lambda row: format_number(row.costs.examples_per_s)),
        Column("training (s)", lambda row: format_number(row.costs.train_s)),
        Column("memory (MB)", lambda row: format_number(row.costs.peak_memory_mb)),
    ]
    return _rows(columns, comparison)


def _rows(columns: Sequence[Column], comparison: RunComparison) -> Rows:
    header = [column.title for column in columns]
    return [header, *([column.entry(row) for column in columns] for row in comparison.variants)]


def stages_table(comparison: RunComparison) -> Rows:
    """Return distortion ± std by stage, with a column for each variant.

    Of the stages at which any variant has a reconstruction, about STAGES_SHOWN are taken, and the last of each variant.
    Where the rate of a stage differs between variants, each entry names its bits.
    """
    variants = comparison.variants
    deepest = max((row.stages for row in variants), key=len)
    alike = len({row.stages[0].bits for row in variants}) == 1
    body = [
        [
            f"{index + 1} ({deepest[index].bits:g} bits)" if alike else str(index + 1),
            *(_stage(row.stages[index : index + 1], bits=not alike) for row in variants),
        ]
        for index in _stages_shown(variants)
    ]
    return [["stage", *(row.name for row in variants)], *body]


def _stages_shown(variants: Sequence[ComparedVariant]) -> list[int]:
    last = {len(row.stages) - 1 for row in variants}
    reached = {index for row in variants for index, stage in enumerate(row.stages) if stage.distortion.mean is not None}
    step = max(1, -(-len(reached) // STAGES_SHOWN))
    falling = enumerate(sorted(reached, reverse=True))
    return sorted(index for left, index in falling if index in last or left % step == 0)


def _stage(found: Sequence[ComparedStage], *, bits: bool) -> str:
    """Return a stage's distortion, or a dash past a variant's last stage, or if it has no reconstruction."""
    if not found or found[0].distortion.mean is None:
        return "–"
    return format_mean_std(found[0].distortion) + (f" at {found[0].bits:g} bits" if bits else "")


def as_rich(rows: Sequence[Sequence[str]], *, title: str) -> Table:
    """Return a table for the terminal, numbers to the right."""
    table = Table(title=_literal(title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    header, *body = rows
    for index, name in enumerate(header):
        table.add_column(_literal(name), justify="right" if index else "left", overflow="fold")
    for row in body:
        table.add_row(*map(_literal, row))
    return table


def _literal(text: str) -> str:
    """Return text that a terminal shows as it is: names come from files, and may look like markup."""
    return escape(printable(text))


def remarks(comparison: RunComparison) -> list[str]:
    """Return the sentences of a comparison: unequal terms first, then terms, verdicts, notes and what is left out."""
    unequal = ["UNEQUAL TERMS. " + " ".join(comparison.unequal)] if comparison.unequal else []
    terms = [comparison.terms] if comparison.terms else []
    search = [SEARCHED.format(search=comparison.search)] if comparison.search else []
    left_out = [f"Left out: {one.path}: {one.why}" for one in comparison.left_out]
    return [*unequal, *search, *terms, *comparison.verdicts, *comparison.notes, *left_out]


def as_markdown(comparison: RunComparison) -> str:
    """Return the comparison as Markdown."""
    parts = [
        f"# {comparison.name}",
        f"Baseline: {comparison.baseline}; {comparison.metric}: {comparison.better} is better.",
        _markdown(results_table(comparison)),
        "\n".join(f"- {line}" for line in remarks(comparison)),
        "## Costs",
        _markdown(costs_table(comparison)),
    ]
    if not comparison.units:
        parts += ["## Distortion by stage", _markdown(stages_table(comparison))]
    for axis, effects in comparison.effects.items():
        header = [axis, f"{comparison.metric} ± std", "variants", "seeds"]
        body = [[one.value, format_mean_std(one.result), str(one.variants), str(one.seeds)] for one in effects]
        parts += [f"## Main effect of {axis}", _markdown([header, *body])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(entry.replace("|", "\\|") for entry in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def as_csv(comparison: RunComparison) -> str:
    """Return a line for each variant with every number in full, and the terms that are unequal."""
    written = StringIO()
    rows = [_flat(row, comparison) for row in comparison.variants]
    writer = csv.DictWriter(written, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


def _flat(row: ComparedVariant, comparison: RunComparison) -> dict[str, Any]:
    gap, costs = row.difference, row.costs
    return {
        "variant": row.name,
        "baseline": comparison.baseline,
        "n": len(row.seeds),
        "metric": comparison.metric,
        "mean": row.result.mean,
        "std": row.result.std,
        **{key: getattr(gap, key, None) for key in ("pairs", "low", "high", "p", "p_holm", "p_within", "verdict")},
        "difference": gap.mean if gap else None,
        **{key: value for name, one in row.also.items() for key, value in ((name, one.mean), (f"{name}_std", one.std))},
        "area": row.area.mean,
        "area_std": row.area.std,
        "used_a_stage": row.usage.used,
        "entropy_nats": row.usage.entropy_nats,
        "options": row.usage.options,
        "bits": costs.bits,
        "parameters": costs.parameters,
        "encode_flops": costs.encode_flops,
        "decode_flops": costs.decode_flops,
        "updates": costs.updates,
        "train_s": costs.train_s,
        "step_ms": costs.step_ms,
        "items_per_s": costs.examples_per_s,
        "peak_memory_mb": costs.peak_memory_mb,
        "late_fall": row.late_fall,
        "unequal": " ".join(comparison.unequal),
    }


def as_tex(comparison: RunComparison) -> str:
    """Return the results as a LaTeX table in the style of booktabs."""
    shown = 5 if comparison.within is None else 6
    header, *body = [row[:shown] for row in results_table(comparison)]
    lines = [" & ".join(map(_tex, row)) + r" \\" for row in body]
    unequal = [rf"\multicolumn{{{shown}}}{{l}}{{\emph{{Unequal terms.}}}} \\"] if comparison.unequal else []
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            rf"\begin{{tabular}}{{l{'r' * (shown - 1)}}}",
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
