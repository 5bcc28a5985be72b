"""Arguments that several commands share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vqtk.report.sheet import Sheet

ModelPath = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="A run directory, a weights file, or mnist, which ships with vqtk."),
]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, a .yaml file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="OVERRIDE", help="dotted.path=value, as in train.updates=2000."),
]


def _use_plugins(context: typer.Context, paths: list[Path] | None) -> None:
    if paths:
        from vqtk.plugin import use

        context.with_resource(use(paths))


Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="Have the components of this file or package folder, too; may be repeated.",
        callback=_use_plugins,
        expose_value=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Where to write, a .png; for text a .txt.")]
Show = Annotated[bool, typer.Option("--show", help="Draw pictures in the terminal, too; text is always printed.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where data sets lie; $VQTK_DATA or ~/.cache/vqtk/data by default.")
]


def print_json(values: Any) -> None:
    """Print values as JSON."""
    import json

    print(json.dumps(values, indent=2, ensure_ascii=False))


def tracked(parts: Sequence[Any], what: str) -> Iterable[Any]:
    """Yield the parts; in a terminal, with a line on stderr that shows how far it is, and goes when it is done."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(parts, description=what, console=console, transient=True, disable=not console.is_terminal)


def load_model(path: Path, device: str) -> tuple[Any, Any]:
    """Return the model of a run directory or weights file on a device, and its recipe."""
    from vqtk.io.weights import load_weights, weights_of
    from vqtk.train.device import choose_device

    return load_weights(weights_of(path), device=choose_device(device))


def write_sheet(
    sheet: Sheet, model: Path, *, name: str, output: Path | None, show: bool, json: bool, facts: dict[str, Any]
) -> None:
    """Write a sheet to `output`; by default into the run's images, or beside the caller for a weights file.

    Text is printed, pictures are drawn with `show`, and the path is told last; with `json` the facts and the path.
    Raises: VqtkError if the suffix of `output` is not that of the sheet.
    """
    from vqtk.errors import VqtkError

    folder = model / "images" if model.is_dir() else Path()
    path = output or folder / f"{'' if model.is_dir() else model.stem + '_'}{name}{sheet.suffix}"
    if path.suffix.lower() not in ("", sheet.suffix):
        what = "pictures are" if sheet.plain is None else "text is"
        raise VqtkError(
            f"{path}: {what} written as {sheet.suffix}, not as {path.suffix}. Give -o a path like "
            f"{path.with_suffix(sheet.suffix)}."
        )
    sheet.write(path)
    if json:
        print_json({"path": str(path), **facts})
        return
    _show(sheet, draw=show)
    print(path)


def code_facts(model: Any, targets: Any, codes: Any, indices: list[int]) -> dict[str, Any]:
    """Return the indices, codes and distortions of test items, for `--json`."""
    from vqtk.report.pictures import distortion

    return {"items": indices, "codes": codes.tolist(), "distortion": distortion(model, targets, codes).tolist()}


def _show(sheet: Sheet, *, draw: bool) -> None:
    import sys

    from rich.console import Console

    console = Console()
    if console.is_terminal and (draw or sheet.plain):
        console.print(sheet.drawn(console.width))
    elif sheet.plain:
        print(sheet.plain)
    elif draw:
        print("--show draws in a terminal, and this is none; the picture is in the file.", file=sys.stderr)


def load_splits(model: Any, recipe: Any, data_dir: Path | None) -> Any:
    """Return the splits of a model's data, telling the user if they are a substitute.

    Raises: DataError if they are text of another vocabulary than the model's.
    """
    import sys

    from vqtk.datasets._base import data_root
    from vqtk.errors import DataError
    from vqtk.recipe.build import build_dataset

    splits = build_dataset(recipe).load(data_root(data_dir))
    if splits.note:
        print(splits.note, file=sys.stderr)
    if model.data.characters not in (None, splits.characters):
        raise DataError(
            f"the text in {splits.source} has another vocabulary than the text that this model was trained on. Point "
            "VQTK_DATA or --data-dir at the same text."
        )
    return splits


def test_items(
    model: Any, recipe: Any, items: list[int] | None, count: int, data_dir: Path | None
) -> tuple[Any, list[int]]:
    """Return test items in training units, and their indices: those asked for, or the first of a seeded subset."""
    import torch

    from vqtk.errors import DataError
    from vqtk.evaluate.walks import fixed_subset

    test = load_splits(model, recipe, data_dir).test
    for item in items or []:
        if not 0 <= item < len(test):
            raise DataError(f"--item {item}: the test split has items 0 to {len(test) - 1}.")
    indices = torch.tensor(items) if items else fixed_subset(test, count, recipe.seed)
    return model.data.normalise(test[indices].to(model.device)), indices.tolist()
