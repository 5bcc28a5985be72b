"""vqtk reconstruct, stages, proposals, tree and report: look at a model or a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqtk.cli.options import Json, Look, Opened, code_facts, looking, test_items

if TYPE_CHECKING:
    from torch import Tensor


@looking
def proposals_command(
    look: Look,
    stage: Annotated[int, typer.Option(min=1, help="Which stage, from 1.")] = 1,
    item: Annotated[
        int | None, typer.Option(help="Which test item, by its index; one drawn by the recipe's seed by default.")
    ] = None,
    columns: Annotated[int, typer.Option(min=1, help="How many pictures in a row.")] = 8,
) -> None:
    """Show all options of one stage for a test item, the chosen one marked."""
    from vqtk.errors import VqtkError
    from vqtk.render import pictures

    opened = look.open()
    loaded = opened.model
    pictures.require_stepwise(loaded)
    if stage > loaded.stages:
        raise VqtkError(f"--stage {stage}: this model has stages 1 to {loaded.stages}.")
    targets, indices = test_items(opened, None if item is None else [item], 1)
    sheet, chosen = pictures.proposals(loaded, targets[0], stage=stage - 1, columns=columns)
    name = f"proposals_stage_{stage}" + ("" if item is None else f"_item_{item}")
    facts = {"item": indices[0], "stage": stage, "chosen": chosen}
    look.write(sheet, opened, name=name, facts=facts)


@looking
def reconstruct_command(
    look: Look,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many test items.")] = 32,
    item: Annotated[list[int] | None, typer.Option(help="A test item by its index; may be repeated.")] = None,
    columns: Annotated[int, typer.Option(min=1, help="How many pictures in a row.")] = 8,
) -> None:
    """Show test items with their reconstructions below them."""
    from vqtk.render import pictures

    opened = look.open()
    loaded = opened.model
    targets, indices = test_items(opened, item, count)
    codes = pictures.encoded(loaded, targets)
    sheet = pictures.reconstructions(loaded, targets, codes=codes, columns=columns)
    facts = code_facts(loaded, targets, codes, indices) if look.json else {}
    look.write(sheet, opened, name="reconstructions", facts=facts)


@looking
def stages_command(
    look: Look,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many test items.")] = 10,
    item: Annotated[list[int] | None, typer.Option(help="A test item by its index; may be repeated.")] = None,
) -> None:
    """Show reconstructions stage by stage: one more stage a row, the item itself last; a column or a block an item."""
    from vqtk.render import pictures

    opened = look.open()
    loaded = opened.model
    pictures.require_stepwise(loaded)
    targets, indices = test_items(opened, item, count)
    codes = pictures.encoded(loaded, targets)
    sheet = pictures.stages(loaded, targets, codes=codes)
    facts = code_facts(loaded, targets, codes, indices) if look.json else {}
    look.write(sheet, opened, name="stages", facts=facts)


@looking
def tree_command(
    look: Look,
    levels: Annotated[
        int | None,
        typer.Option(min=1, help="How many stages; for images 2, points all that can be shown, others 1."),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(metavar="CODES", help="Show what is below these codes, as in 5,12.")
    ] = None,
    options: Annotated[int | None, typer.Option(min=1, help="Only the first so many options of each stage.")] = None,
    used: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="ITEMS",
            help="With --options: those that most of so many test items take, and none that no item takes.",
        ),
    ] = None,
) -> None:
    """Show what all codes of the first stages stand for, as one tree: pictures in pictures, or points in the plane."""
    from vqtk.render.tree import tree

    codes = _codes(prefix)
    opened = look.open()
    loaded = opened.model
    used_by = _used_by(opened, used, options)
    sheet, grown = tree(loaded, prefix=codes, levels=levels, options=options, used_by=used_by)
    name = "_".join(["tree", *map(str, codes)])
    facts = {
        "prefix": codes,
        "levels": len(grown) - 1,
        "nodes": sum(int(level.taken.sum()) for level in grown[1:]),
        "codes": grown[-1].codes[grown[-1].taken].tolist(),
    }
    look.write(sheet, opened, name=name, facts=facts)


def _codes(prefix: str | None) -> list[int]:
    """Return the codes that a prefix says. Raises: VqtkError if it says none."""
    from vqtk.errors import VqtkError

    try:
        return [int(code) for code in prefix.split(",")] if prefix else []
    except ValueError:
        raise VqtkError(
            f"--prefix {prefix}: expected codes with commas between them, the first stage's first, as in 5,12."
        ) from None


def _used_by(opened: Opened, used: int | None, options: int | None) -> Tensor | None:
    """Return the codes of so many test items. Raises: VqtkError if there is nothing to choose."""
    from vqtk.errors import VqtkError
    from vqtk.render.pictures import encoded

    if used is None:
        return None
    if options is None:
        raise VqtkError("--used says by which items --options are chosen. Give --options, too, as in --options 8.")
    targets, _ = test_items(opened, None, used)
    return encoded(opened.model, targets)


def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write; RUN/report.html.")] = None,
    json: Json = False,
) -> None:
    """Write report.html of a run, as it is now: curves, pictures, code usage, recipe and manifest on one page."""
    from vqtk.cli.options import print_json
    from vqtk.errors import VqtkError
    from vqtk.report.page import write_report
    from vqtk.runs.directory import RunDirectory

    RunDirectory.open(run)[0].check_recipe()
    try:
        path = write_report(run, output)
    except OSError as error:
        place = output or run / "report.html"
        raise VqtkError(f"{place}: the page cannot be written ({error}). Choose another path with -o.") from None
    if json:
        print_json({"report": str(path)})
    else:
        print(path)
