"""`vqtk tree`: the first levels of the tree of decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vqtk.cli.options import (
    DataDir,
    Device,
    Json,
    ModelPath,
    Opened,
    OtherData,
    Output,
    Plugins,
    Show,
    open_model,
    test_items,
    write_sheet,
)

if TYPE_CHECKING:
    from torch import Tensor


def tree(
    model: ModelPath,
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
    output: Output = None,
    show: Show = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    data: OtherData = None,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Show what all codes of the first stages stand for, as one tree: pictures in pictures, or points in the plane."""
    from vqtk.report import tree as report

    codes = _codes(prefix)
    opened = open_model(model, device, data_dir, data)
    loaded = opened.model
    used_by = _used_by(opened, used, options)
    sheet, grown = report.tree(loaded, prefix=codes, levels=levels, options=options, used_by=used_by)
    name = "_".join(["tree", *map(str, codes)])
    facts = {
        "prefix": codes,
        "levels": len(grown) - 1,
        "nodes": sum(int(level.taken.sum()) for level in grown[1:]),
        "codes": grown[-1].codes[grown[-1].taken].tolist(),
    }
    write_sheet(sheet, opened, name=name, output=output, show=show, json=json, facts=facts)


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
    from vqtk.report.pictures import encoded

    if used is None:
        return None
    if options is None:
        raise VqtkError("--used says by which items --options are chosen. Give --options, too, as in --options 8.")
    targets, _ = test_items(opened, None, used)
    return encoded(opened.model, targets)
