"""A run's own data: found again from anywhere, and recognised by their fingerprint."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqtk.datasets import Dataset, Splits, data_root
from vqtk.datasets._paths import existing, expanded
from vqtk.errors import CheckpointError, DataError, VqtkWarning
from vqtk.models import Model
from vqtk.recipe.build import build_dataset
from vqtk.recipe.recipe import Recipe, load_recipe, require_overrides
from vqtk.recipe.show import changes
from vqtk.runs.directory import RunDirectory


def data(recipe: str | Path, *overrides: str, data_dir: str | Path | None = None, **others: Any) -> Splits:
    """Return the data of a recipe, read as for a run: `vqtk.data("recipes/mnist.yaml").test`.

    The splits `train` and `test`, and `validation` if the recipe has one, return examples as stored for a tensor of
    indices, and have `labels`, a tensor or None. `model.data.normalise` maps examples to training units.

    Arguments:
        recipe: the path of a recipe.
        overrides: its overrides, such as `data.path=photos`.
        data_dir: the folder of the data sets.

    Raises: RecipeError; DataError if they are missing or damaged.
    """
    require_overrides(data, others)
    dataset = build_dataset(load_recipe(recipe, overrides))
    splits = dataset.splits(data_root(None if data_dir is None else Path(data_dir), of=dataset))
    if splits.note:
        warnings.warn(splits.note, VqtkWarning, stacklevel=2)
    return splits


@dataclass(frozen=True)
class _Place:
    """Where data may be: the data root, and for a data set with a `path` setting the path itself."""

    root: Path
    path: Path | None

    def __str__(self) -> str:
        return str(self.path or self.root)


def recorded_place(dataset: Dataset, root: Path) -> dict[str, str]:
    """Return where a data set is read from, as absolute paths: the `root`, and the `path` if it has one.

    Empty for a data set that is generated.
    """
    if dataset.path is None:
        return {}
    found = existing(dataset.path, root) if dataset.path else None
    return {"root": os.path.abspath(root), **({"path": os.path.abspath(found)} if found else {})}


def own_splits(
    recipe: Recipe, directory: RunDirectory, *, data_dir: Path | None, say: Callable[[str], object]
) -> Splits:
    """Read the data that a run was trained on, recognised by their fingerprint wherever they are.

    The places searched are `data_dir` if given, where they were, the same place relative to a run that was moved, the
    data root, the working directory, and the folders that contain the run.

    Raises: DataError, with what was found instead, if they are not found; CheckpointError if the manifest is damaged.
    """
    manifest = directory.manifest()
    recorded = manifest.get("data") or {}
    if not recorded.get("sha256"):
        raise CheckpointError(
            f"{directory.path}: there is no manifest.json that says which data the run was trained on. Restore the "
            "file, or name the data with --data, as in --data path=FOLDER."
        )
    asked = data_root(data_dir) if data_dir else None
    dataset, passed = build_dataset(recipe), list[str]()
    for place in _places(dataset, directory.path, manifest, asked):
        if place.path is not None:
            dataset.path = str(place.path)
        try:
            splits = dataset.splits(place.root)
            found = splits.fingerprint()
        except (DataError, OSError) as error:
            if place.root == asked:
                raise
            passed.append(f"{place}: {str(error).partition('. ')[0].rstrip('.')}")
            continue
        if found["sha256"] == recorded["sha256"]:
            if splits.note:
                say(splits.note)
            if asked and place.root != asked and dataset.path is not None:
                say(f"Reading the run's own data from {place}: {asked} has other data, or none.")
            return splits
        passed.append(f"{place} has other data, {_counted(found)}")
    at = f" The nearest: {'; '.join(passed[:3])}." if passed else ""
    raise DataError(
        f"{directory.path}: the data that this run was trained on ({_counted(recorded)} from {recorded.get('source')}) "
        f"are not found.{at} Restore them, or give their place with --data-dir or VQTK_DATA. To look at the model on "
        "other data: --data path=FOLDER or --data name=mnist."
    )


def data_like(
    recipe: Recipe, run: RunDirectory, *, data_dir: Path | None, say: Callable[[str], object]
) -> tuple[Splits | None, dict[str, str] | None]:
    """Return the data of a run that another recipe repeats, and where they are recorded to be.

    Both are None if the recipe has other data than the run, which are then read as for any run.

    Raises: DataError if the run's data are not found.
    """
    own, now = ({"data": one.plain()["data"]} for one in (load_recipe(run.path / "recipe.yaml"), recipe))
    if any(change.path != "data.batch" for change in changes(own, now)):
        return None, None
    recorded = run.manifest()["data"]
    splits = own_splits(recipe, run, data_dir=data_dir, say=say)
    return splits, {key: recorded[key] for key in ("root", "path") if recorded.get(key)}


def suited_splits(
    recipe: Recipe,
    model: Model,
    *,
    data_dir: Path | None,
    say: Callable[[str], object],
    trained_on: str | None = None,
) -> Splits:
    """Read the data of a recipe for a model that may have been trained on other data.

    `trained_on` is the SHA-256 of the data that the model was trained on; `say` is called with a warning if these are
    others.

    Raises: DataError if the model cannot take the data.
    """
    dataset = build_dataset(recipe)
    spec, own = dataset.spec, model.data
    if (spec.kind, spec.shape, spec.classes) != (own.kind, own.shape, own.classes):
        raise DataError(
            f"these data do not fit the model: they are {spec.kind} of shape {spec.shape}, and it takes {own.kind} of "
            f"shape {own.shape}. Choose other data, or settings such as data.size, to match."
        )
    splits = dataset.splits(data_root(data_dir, of=dataset))
    if splits.note:
        say(splits.note)
    if own.characters not in (None, splits.characters):
        raise DataError(
            f"the text in {splits.source} has another vocabulary than the one that this model was trained on. Point "
            "VQTK_DATA or --data-dir at the same text."
        )
    if trained_on not in (None, splits.fingerprint()["sha256"]):
        say(
            f"warning: these weights were trained on other data (SHA-256 {str(trained_on)[:8]}) than those in "
            f"{splits.source} ({splits.fingerprint()['sha256'][:8]}), which are used here."
        )
    return splits


def require_same(recorded: dict[str, Any], splits: Splits) -> None:
    """Raise DataError if the data are not those that a run's manifest records under `data`."""
    found = splits.fingerprint()
    if recorded.get("sha256") != found["sha256"]:
        raise DataError(
            f"the data are not those that the run was started with: {_counted(found)} from {found['source']}, not "
            f"{_counted(recorded)} from {recorded.get('source')}. Point VQTK_DATA or --data-dir at the same data."
        )


def _counted(data: dict[str, Any]) -> str:
    return f"{data.get('train_items')} + {data.get('test_items')} examples, SHA-256 {str(data.get('sha256'))[:8]}"


def _places(dataset: Dataset, run: Path, manifest: dict[str, Any], asked: Path | None) -> Iterator[_Place]:
    """Yield the places where a run's data may be, each once, the most likely first."""
    if dataset.path is None:
        yield _Place(run, None)
        return
    given = dataset.path
    possible = _paths(given, run, manifest, asked) if given else _roots(run, manifest, asked)
    seen = set()
    for place in possible:
        real = os.path.realpath(str(place))
        if real not in seen:
            seen.add(real)
            yield place


def _paths(given: str, run: Path, manifest: dict[str, Any], asked: Path | None) -> Iterator[_Place]:
    path, recorded = expanded(Path(given)), manifest["data"]
    before = recorded.get("path") or recorded.get("source")
    folders = [run.resolve(), *run.resolve().parents]
    if asked and (asked / path).exists():
        yield _Place(asked, asked / path)
    was = [Path(before), *_moved(before, run, manifest)] if before and os.path.isabs(before) else []
    for place in [*was, _own_root() / path, Path.cwd() / path, *(folder / path for folder in folders)]:
        if place.exists() and place.resolve() not in folders:
            yield _Place(place.parent, place)


def _roots(run: Path, manifest: dict[str, Any], asked: Path | None) -> Iterator[_Place]:
    if asked:
        yield _Place(asked, None)
    before = manifest["data"].get("root")
    for root in [Path(before), *_moved(before, run, manifest)] if before else []:
        if root.is_dir() or root == expanded(Path("~/.cache/vqtk/data")):
            yield _Place(root, None)
    if not asked:
        yield _Place(data_root(), None)


def _own_root() -> Path:
    return expanded(Path(os.environ.get("VQTK_DATA") or "~/.cache/vqtk/data"))


def _moved(place: str, run: Path, manifest: dict[str, Any]) -> list[Path]:
    """Return where a path is now if it was moved together with the run."""
    before = manifest.get("directory")
    if not isinstance(before, str) or not os.path.isabs(before):
        return []
    try:
        return [Path(os.path.normpath(run.resolve() / os.path.relpath(place, before)))]
    except ValueError:  # On Windows, another drive.
        return []
