"""Arguments shared by several commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from vqtk.errors import VqtkError

if TYPE_CHECKING:
    from vqtk.datasets import Splits
    from vqtk.models import Model
    from vqtk.recipe.recipe import Recipe
    from vqtk.render.sheets import Sheet

ModelPath = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A run directory, weights file or bundle, hf://user/name, or a model that ships with vqtk, e.g. mnist.",
    ),
]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe (.yaml).")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="OVERRIDE", help="Override a setting: dotted.path=value, e.g. train.updates=2000."),
]


def _use_plugins(context: typer.Context, paths: list[Path] | None) -> None:
    if paths:
        from vqtk.plugin.loading import use_plugins

        context.with_resource(use_plugins(paths))


Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="Load a plugin: a .py file or a package folder (repeatable).",
        callback=_use_plugins,
        expose_value=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Output = Annotated[
    Path | None, typer.Option("-o", "--out", help="File to write: .png, .svg or .pdf, or .txt for text.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist at --out.")]
Bare = Annotated[bool, typer.Option("--bare", help="Leave out the title and all labels.")]


class PictureFormat(str, Enum):
    """The format of a file of images."""

    png = "png"
    svg = "svg"
    pdf = "pdf"


Format = Annotated[
    PictureFormat | None, typer.Option("--format", help="Format of images. Default: the suffix of --out, or png.")
]
Dpi = Annotated[
    int | None,
    typer.Option("--dpi", min=50, max=600, help="Pixels per inch of images, for png and pdf. Default: 200."),
]
Show = Annotated[bool, typer.Option("--show", help="Also draw images in the terminal. Text is always printed.")]
Device = Annotated[str, typer.Option("--device", help="Device: auto, cpu, cuda, cuda:N or mps.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder that contains the data sets. Default: $VQTK_DATA, or ~/.cache/vqtk/data."),
]
OtherData = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="KEY=VALUE",
        help="Use other data: override a data setting of the recipe, e.g. path=photos (repeatable). For a run, results "
        "on other data are written to RUN/other_data.",
    ),
]

Searched = Annotated[
    str | None,
    typer.Option(
        "--search",
        metavar="SEARCH",
        help="Encode with this search instead of the recipe's, e.g. beam:8, polish or {name: polish, after: beam}.",
    ),
]


def print_json(values: Any) -> None:
    """Print values as JSON."""
    import json

    print(json.dumps(values, indent=2, ensure_ascii=False))


def tracked(parts: Sequence[Any], what: str) -> Iterable[Any]:
    """Yield the parts. In a terminal, show a transient progress bar on stderr."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(parts, description=what, console=console, transient=True, disable=not console.is_terminal)


@dataclass
class Opened:
    """The model at `path`, its recipe and its data: those of its run, or those that `other` settings select."""

    path: Path
    model: Model
    recipe: Recipe
    data_dir: Path | None
    other: Sequence[str]

    @cached_property
    def splits(self) -> Splits:
        """The splits, read on first use. A line on stderr reports a substitute.

        Raises: DataError if they differ from the run's data or do not fit the model.
        """
        from vqtk.io.weights import facts_of, run_of, weights_of
        from vqtk.recipe.recipe import with_data
        from vqtk.runs.data import own_splits, suited_splits
        from vqtk.runs.directory import RunDirectory

        run = run_of(self.path)
        if run and not self.other:
            return own_splits(self.recipe, RunDirectory(run), data_dir=self.data_dir, say=_say)
        recipe = with_data(self.recipe, self.other) if self.other else self.recipe
        trained_on = None if self.other else facts_of(weights_of(self.path)).get("data_sha256")
        return suited_splits(recipe, self.model, data_dir=self.data_dir, say=_say, trained_on=trained_on)

    @property
    def updates(self) -> int | None:
        """The number of updates that the weights were trained for; None if the file does not say."""
        from vqtk.io.weights import facts_of, weights_of

        return facts_of(weights_of(self.path)).get("update")

    @cached_property
    def folder(self) -> Path | None:
        """Folder of results: the run's own, or a subfolder for other data. None for a weights file."""
        from vqtk.io.weights import run_of

        if not self.path.is_dir() or run_of(self.path) is None:
            return None
        return self.path / "other_data" / self._tag if self.other else self.path

    @property
    def _tag(self) -> str:
        return f"{self.splits.fingerprint()['sha256'][:12]}"

    def picture(self, name: str) -> Path:
        """Return the path of an image: in the run's `images/`, or in the working directory for a weights file."""
        if self.folder:
            return self.folder / "images" / name
        return Path("_".join([self.path.stem, *([self._tag] if self.other else []), name]))


def open_model(path: Path, device: str, data_dir: Path | None = None, other: Sequence[str] | None = None) -> Opened:
    """Load the model of a run directory or weights file onto a device. Its data are read when needed."""
    from vqtk.io.weights import load_weights, weights_of
    from vqtk.training.execution import choose_device

    model, recipe = load_weights(weights_of(path), device=choose_device(device))
    return Opened(path, model, recipe, data_dir, other or ())


def search_by(opened: Opened, search: str | None) -> None:
    """Make a model encode by the search that `--search` names. Raises: VqtkError if it works without one."""
    from vqtk.models.vqdraw import VQDraw
    from vqtk.recipe.build import build_search

    if search is None:
        return
    if not isinstance(opened.model, VQDraw):
        raise VqtkError(f"--search {search}: {type(opened.model).__name__} has no stages to search. Leave it out.")
    opened.model.search = build_search(search, origin="--search")


def _say(line: str) -> None:
    import sys

    print(line, file=sys.stderr)


@dataclass(frozen=True)
class Look:
    """Parameters shared by every command that shows a model."""

    model: ModelPath
    output: Output = None
    force: Force = False
    show: Show = False
    bare: Bare = False
    format: Format = None
    dpi: Dpi = None
    device: Device = "auto"
    data_dir: DataDir = None
    data: OtherData = None
    plugin: Plugins = None
    json: Json = False

    def open(self) -> Opened:
        """Return the model, its recipe and its data. Raises: VqtkError if `output` exists and may not be replaced."""
        require_new(self.output, force=self.force)
        return open_model(self.model, self.device, self.data_dir, self.data)

    def write(self, sheet: Sheet, opened: Opened, *, title: str, name: str, facts: dict[str, Any]) -> None:
        """Write a sheet to `output`, by default to `opened.picture`; images with a title and labels, unless `bare`.

        Print text, draw images with `show`, and print the path last. With `json`, print the facts and the path.
        Raises: VqtkError if the options contradict each other, or, after printing, if the file cannot be written.
        """
        suffix = self._suffix(sheet)
        path = self.output or opened.picture(f"{name}{suffix}")
        refusal = None
        try:
            self._write(sheet, path, suffix[1:], f"{opened.recipe.name}: {title}")
        except VqtkError as error:
            refusal = error
        if self.json:
            print_json({"path": None if refusal else str(path), **facts})
        else:
            _show(sheet, draw=self.show)
        if refusal:
            raise refusal
        if not self.json:
            print(path)

    def _suffix(self, sheet: Sheet) -> str:
        """Return the suffix of the file that is written. Raises: VqtkError if the options contradict each other."""
        path, suffix = self.output, self.output.suffix.lower() if self.output else ""
        known = [sheet.suffix] if sheet.plain is not None else [f".{one.value}" for one in PictureFormat]
        if path and suffix not in ("", *known):
            what = "text is" if sheet.plain is not None else "images are"
            raise VqtkError(
                f"{path}: {what} written as {' or '.join(known)}, not as {path.suffix}. Give --out a path like "
                f"{path.with_suffix(sheet.suffix)}."
            )
        if sheet.plain is not None:
            if self.format or self.dpi:
                raise VqtkError("--format and --dpi are for images; this model's data are text. Leave them out.")
            return sheet.suffix
        if self.format and suffix not in ("", f".{self.format.value}"):
            raise VqtkError(f"{path}: --format {self.format.value} contradicts the suffix {suffix}. Give one of them.")
        written = f".{self.format.value}" if self.format else suffix or sheet.suffix
        if self.dpi and (written == ".svg" or (self.bare and written == ".png")):
            why = "an SVG file is scaled freely" if written == ".svg" else "with --bare, the sheet decides its pixels"
            raise VqtkError(f"--dpi {self.dpi}: {why}. Leave it out.")
        return written

    def _write(self, sheet: Sheet, path: Path, format: str, title: str) -> None:
        from vqtk.render.sheets import ImageSheet

        if not isinstance(sheet, ImageSheet) or (self.bare and format == "png"):
            sheet.write(path)
            return
        from vqtk.render.labelled import write_labelled

        write_labelled(sheet, path, title=None if self.bare else title, format=format, dpi=self.dpi)


def require_new(*paths: Path | None, force: bool) -> None:
    """Raise VqtkError if a file, or a folder with files, is at a path that --out leads to, unless `force` is given."""
    for path in paths:
        if path and not force and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
            what = "this folder has files" if path.is_dir() else "this file exists"
            replaced = "files of the same names" if path.is_dir() else "it"
            raise VqtkError(f"{path}: {what}. Choose another path with --out, or give --force to replace {replaced}.")


def looking(command: Callable[..., None]) -> Callable[..., None]:
    """Add the parameters of `Look` to a command, which receives them as one `Look`, its first argument."""
    shared, hints = signature(Look).parameters, get_type_hints(Look, include_extras=True)
    own, own_hints = list(signature(command).parameters.values())[1:], get_type_hints(command, include_extras=True)

    @wraps(command)
    def call(**given: Any) -> None:
        command(Look(**{name: given.pop(name) for name in shared}), **given)

    model, *others = (shared[name].replace(annotation=hints[name]) for name in shared)
    own = [parameter.replace(annotation=own_hints[parameter.name]) for parameter in own]
    every = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in (model, *own, *others)]
    call.__signature__ = Signature(every)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in every}
    return call


def say_unkept(reasons: Iterable[str]) -> None:
    """Warn of files that could not be written, after the results are printed."""
    for reason in reasons:
        _say(f"warning: {reason}")


def code_facts(model: Model, targets: Any, codes: Any, indices: list[int]) -> dict[str, Any]:
    """Return the indices, codes and distortions of test examples, for `--json`."""
    from vqtk.render.pictures import distortion

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
        print("--show draws only in a terminal; the image is in the file.", file=sys.stderr)


def test_items(opened: Opened, items: list[int] | None, count: int) -> tuple[Any, list[int]]:
    """Return test examples in training units, and their indices: `items`, or a seeded subset of `count`."""
    import torch

    from vqtk.datasets import fixed_subset
    from vqtk.errors import DataError

    test = opened.splits.test
    for item in items or []:
        if not 0 <= item < len(test):
            raise DataError(f"--item {item}: the test split has examples 0 to {len(test) - 1}.")
    indices = torch.tensor(items) if items else fixed_subset(test, count, opened.recipe.seed)
    return opened.model.data.normalise(test[indices].to(opened.model.device)), indices.tolist()
