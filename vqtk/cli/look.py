"""vqtk reconstruct, stages, proposals, tree, explore and report: look at a model or a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqtk.cli.options import (
    Device,
    Force,
    Json,
    Look,
    ModelPath,
    Opened,
    Plugins,
    Searched,
    code_facts,
    looking,
    search_by,
    test_items,
)

if TYPE_CHECKING:
    from torch import Tensor


@looking
def proposals_command(
    look: Look,
    stage: Annotated[int, typer.Option(min=1, help="Stage to show, from 1.")] = 1,
    item: Annotated[
        int | None, typer.Option(help="Index of the test example. Default: drawn with the recipe's seed.")
    ] = None,
    columns: Annotated[int, typer.Option(min=1, help="Images per row.")] = 8,
) -> None:
    """Show the proposals of all options of one stage, with the chosen one marked."""
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
    title = f"all options of stage {stage}; for test example {indices[0]}, option {chosen} is chosen"
    look.write(sheet, opened, title=title, name=name, facts=facts)


@looking
def reconstruct_command(
    look: Look,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Number of test examples.")] = 32,
    item: Annotated[list[int] | None, typer.Option(help="Index of a test example (repeatable).")] = None,
    columns: Annotated[int, typer.Option(min=1, help="Images per row.")] = 8,
    search: Searched = None,
) -> None:
    """Show test examples above their reconstructions."""
    from vqtk.render import pictures
    from vqtk.render.labelled import bits_label, examples_label

    opened = look.open()
    search_by(opened, search)
    loaded = opened.model
    targets, indices = test_items(opened, item, count)
    codes = pictures.encoded(loaded, targets)
    sheet = pictures.reconstructions(loaded, targets, codes=codes, columns=columns, indices=indices)
    facts = code_facts(loaded, targets, codes, indices) if look.json else {}
    bits = bits_label(loaded.stages, loaded.options)
    title = f"{examples_label(len(targets))}, reconstructed from {bits} each{_by(search)}"
    look.write(sheet, opened, title=title, name="reconstructions", facts=facts)


@looking
def stages_command(
    look: Look,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Number of test examples.")] = 10,
    item: Annotated[list[int] | None, typer.Option(help="Index of a test example (repeatable).")] = None,
    search: Searched = None,
) -> None:
    """Show the reconstructions of test examples after every stage.

    There is one row for each stage. The last row shows the examples themselves.
    """
    from vqtk.render import pictures
    from vqtk.render.labelled import examples_label

    opened = look.open()
    search_by(opened, search)
    loaded = opened.model
    pictures.require_stepwise(loaded)
    targets, indices = test_items(opened, item, count)
    codes = pictures.encoded(loaded, targets)
    sheet = pictures.stages(loaded, targets, codes=codes, indices=indices)
    facts = code_facts(loaded, targets, codes, indices) if look.json else {}
    title = f"{examples_label(len(targets))}, reconstructed after each stage{_by(search)}"
    look.write(sheet, opened, title=title, name="stages", facts=facts)


def _by(search: str | None) -> str:
    return f", encoded with {search}" if search else ""


@looking
def tree_command(
    look: Look,
    levels: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of stages to show. Default: 2 for images, as many as fit for points, and 1 for other data.",
        ),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(metavar="CODES", help="Show only codes that begin with these, e.g. 5,12.")
    ] = None,
    options: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Show only the first N options of each stage.")
    ] = None,
    used: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="With --options: encode N test examples, and show the options that they choose most often.",
        ),
    ] = None,
) -> None:
    """Show all reconstructions of the first stages as a tree.

    Each node of the tree is a reconstruction. Its children are the proposals of the next stage.
    """
    from vqtk.render.labelled import bits_label
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
    last = len(codes) + len(grown) - 1
    title = f"tree of the options of stage{'' if last == len(codes) + 1 else f's {len(codes) + 1} to'} {last}"
    title += f" ({bits_label(last, loaded.options)})" + (f", below the prefix {prefix}" if codes else "")
    look.write(sheet, opened, title=title, name=name, facts=facts)


def _codes(prefix: str | None) -> list[int]:
    """Parse a prefix. Raises: VqtkError if it is not a list of codes."""
    from vqtk.errors import VqtkError

    try:
        return [int(code) for code in prefix.split(",")] if prefix else []
    except ValueError:
        raise VqtkError(
            f"--prefix {prefix}: expected codes separated by commas, the first stage's first, as in 5,12."
        ) from None


def _used_by(opened: Opened, used: int | None, options: int | None) -> Tensor | None:
    """Return the codes of `used` test examples. Raises: VqtkError without `options`."""
    from vqtk.errors import VqtkError
    from vqtk.render.pictures import encoded

    if used is None:
        return None
    if options is None:
        raise VqtkError("--used chooses which --options are shown. Give both, as in --options 8.")
    targets, _ = test_items(opened, None, used)
    return encoded(opened.model, targets)


def explore_command(
    model: ModelPath,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to serve on; 0 takes any free one.")] = 8765,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to serve on. By default, only this machine can reach the page; with 0.0.0.0, others can.",
        ),
    ] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the page in a browser.")] = False,
    device: Device = "auto",
    plugin: Plugins = None,
) -> None:
    """Explore a model of images in the browser.

    On the page, you can walk the tree of options, encode images that you draw or drop, swap options of a code, and
    complete images of which a part is hidden.
    """
    from vqtk.cli.options import open_model
    from vqtk.errors import VqtkError

    try:
        from vqtk.explore.explorer import Explorer
        from vqtk.explore.server import serve
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("starlette", "uvicorn"):
            raise VqtkError(
                f"vqtk explore needs {missing}, which is not installed. Run: pip install 'vqtk[explore]'."
            ) from None
        raise
    opened = open_model(model, device)
    name = "/".join(model.resolve().parts[-2:]) if model.is_dir() else model.stem
    serve(Explorer(opened.model, name), host=host, port=port, browser=not no_browser)


def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    output: Annotated[Path | None, typer.Option("-o", "--out", help="File to write. Default: RUN/report.html.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a report of a run to one HTML page.

    The page shows curves, images, code usage, the recipe and the manifest. The run need not be finished.
    """
    from vqtk.cli.options import print_json, require_new
    from vqtk.errors import VqtkError
    from vqtk.report.page import write_report
    from vqtk.runs.directory import RunDirectory

    require_new(output, force=force)
    RunDirectory.open(run)[0].check_recipe()
    try:
        path = write_report(run, output)
    except OSError as error:
        place = output or run / "report.html"
        raise VqtkError(f"{place}: the page cannot be written ({error}). Choose another path with --out.") from None
    if json:
        print_json({"report": str(path)})
    else:
        print(path)
