"""Bundles: a folder with all that a trained model needs, and its exchange with the Hugging Face hub."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from vqtk.errors import CheckpointError, VqtkError
from vqtk.files import new_folder, write_text
from vqtk.io.hub import BUNDLED, asked, hub_name, hub_package
from vqtk.io.run_files import SummaryFile, read_file
from vqtk.io.weights import PRETRAINED, load_weights, read_weights, run_of, save_weights, shipped, weights_of
from vqtk.models import Model
from vqtk.plugin.sources import FOLDER, keep
from vqtk.recipe.node import Node
from vqtk.recipe.recipe import Recipe
from vqtk.recipe.show import as_yaml

RECIPE, CARD = "recipe.yaml", "README.md"
_METRICS = {
    "final": "loss",
    "mse_pixels": "MSE in pixels",
    "psnr_db": "PSNR in dB",
    "bits_per_char_bound": "bits per character, a bound",
    "nats_bound": "nats, a bound",
}
"""The metrics of a run's summary that a card shows, in words."""


def write_bundle(
    folder: Path, path: Path, *, half: bool = False, name: str | None = None, force: bool = False
) -> list[Path]:
    """Write the bundle of a model, at a path that `weights_of` takes; return its files.

    It holds `model.safetensors`, the resolved `recipe.yaml`, copies of the `plugins/`, and a model card, `README.md`.

    Arguments:
        folder: where to write.
        path: the model.
        half: whether to store the weights in half precision.
        name: the name of its repository on the hub, for the card.
        force: whether the folder may hold files, of which those with the same names are replaced.

    Raises: VqtkError if the folder is not empty, unless `force` is given, or cannot be written.
    """
    weights = weights_of(path)
    model, recipe = load_weights(weights)
    facts = read_weights(weights)[1]["facts"]
    _check_new(folder, force=force)
    card = model_card(model, recipe, facts, _summary(path), name=name, results=_results(path))
    try:
        with new_folder(folder.absolute().parent) as temporary:
            kept = keep(recipe.plugins, temporary)
            # Their paths on this machine are nobody else's business.
            nameless = [replace(one, path=Path(place.name)) for one, place in zip(recipe.plugins, kept, strict=True)]
            recipe = replace(recipe, plugins=tuple(nameless))
            save_weights(temporary / BUNDLED, model.half() if half else model, recipe, **facts)
            write_text(temporary / RECIPE, as_yaml(Node.of(recipe.plain(), ""), kept))
            write_text(temporary / CARD, card)
            return _put(temporary, folder)
    except OSError as error:
        raise _unwritable(folder, error) from None


def _check_new(folder: Path, *, force: bool) -> None:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not force):
        raise VqtkError(f"{folder}: there are files. Give --out a new folder.")


def _put(temporary: Path, folder: Path) -> list[Path]:
    """Move a complete bundle to its place, where files may be replaced; return its files."""
    names = sorted(file.relative_to(temporary) for file in temporary.rglob("*") if file.is_file())
    if folder.is_dir() and any(folder.iterdir()):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).replace(folder / name)
    else:
        if folder.is_dir():
            folder.rmdir()
        temporary.rename(folder)
    return [folder / name for name in names]


def _unwritable(folder: Path, error: OSError) -> VqtkError:
    return VqtkError(f"{folder}: the bundle cannot be written ({error.strerror or error}). Choose another with --out.")


def _results(path: Path) -> str:
    """Return what the card of a model that ships with vqtk says of its training and results; empty for others."""
    card = PRETRAINED / f"{path}.md"
    if str(path) not in shipped() or path.exists() or not card.is_file():
        return ""
    parts = card.read_text(encoding="utf-8").split("\n\n**")
    return "\n" + "\n\n".join(f"**{part.strip()}" for part in parts[1:]) + "\n"


def _summary(path: Path) -> dict[str, Any]:
    """Return the summary of the run that a model belongs to; empty without one."""
    run = run_of(path)
    file = None if run is None else run / "summary.json"
    return read_file(file, SummaryFile) if file and file.is_file() else {}


def model_card(
    model: Model, recipe: Recipe, facts: dict[str, Any], summary: dict[str, Any], *, name: str | None, results: str = ""
) -> str:
    """Return the model card of a bundle: what the model is, what was measured, and how to use it."""
    source = f"hf://{name}" if name else "FOLDER"
    shape = "×".join(map(str, model.data.shape))
    size = sum(parameter.numel() for parameter in model.parameters())
    rows = {
        "kind of data": f"{model.data.kind}, {shape}",
        "data set": recipe.data.entry.name,
        "code": f"{model.stages} stages × {model.options} options = {model.bits:g} bits",
        "loss": recipe.loss or type(model.loss).__name__,
        "parameters": f"{size:,}",
        **({"updates": f"{facts['update']:,}"} if isinstance(facts.get("update"), int) else {}),
    }
    tested = {word: summary["test"].get(key) for key, word in _METRICS.items()} if summary else {}
    rows |= {f"{word}, of test examples": f"{value:.5g}" for word, value in tested.items() if value is not None}
    names = [plugin.path.name for plugin in recipe.plugins]
    plugins = "".join(f" --plugin {FOLDER}/{one}" for one in names)
    loads = f', plugins=["{FOLDER}/{names[0]}"]' if names else ""
    warning = (
        f"\nIts components are in `{FOLDER}/`. They are code: vqtk imports them only if you name them. Read them "
        f"before: `vqtk pull {source} --out FOLDER`, then `vqtk sample FOLDER{plugins}`.\n"
        if names
        else ""
    )
    table = "".join(f"| {key} | {value} |\n" for key, value in rows.items())
    return (
        "---\nlibrary_name: vqtk\ntags: [vqtk, vq-draw, discrete-representation-learning]\n---\n\n"
        f"# {recipe.name}\n\nA discrete auto-encoder trained with vqtk. Any prefix of a code decodes to a coarser "
        f"reconstruction.\n\n| | |\n| --- | --- |\n{table}{warning}{results}\n"
        f'```python\nimport vqtk\n\nmodel = vqtk.load("{source}"{loads})\n'
        "codes = model.random_codes(16)\nreconstructions = model.loss.show(model.decode(codes))\n```\n\n"
        f"`{RECIPE}` is the whole recipe; `vqtk run {RECIPE}` trains such a model.\n"
    )


def pull(text: str, folder: Path, *, force: bool = False) -> list[Path]:
    """Download the bundle of a model on the hub into a folder; return its files. No code in it is imported.

    Raises: CheckpointError as `fetched_weights`; VqtkError if the folder is not empty, unless `force` is given, or
        cannot be written.
    """
    name = hub_name(text)
    _check_new(folder, force=force)
    hub, wanted = hub_package(), [BUNDLED, RECIPE, CARD, f"{FOLDER}/*"]
    found = Path(
        asked(
            name,
            lambda: hub.snapshot_download(
                name.repository, revision=name.revision, allow_patterns=wanted, library_name="vqtk"
            ),
        )
    )
    if not (found / BUNDLED).is_file():
        raise CheckpointError(f"{name}: no model of vqtk: it has no {BUNDLED}.")
    try:
        with new_folder(folder.absolute().parent) as temporary:
            shutil.copytree(found, temporary, dirs_exist_ok=True)  # The cache holds links; a bundle holds files.
            return _put(temporary, folder)
    except OSError as error:
        raise _unwritable(folder, error) from None


def push(path: Path, text: str, *, private: bool = False, half: bool = False) -> str:
    """Upload the bundle of a model to the hub, creating the repository if there is none; return its address.

    The user's token is the hub's own: that of `hf auth login`, or of the variable HF_TOKEN.

    Raises: CheckpointError if the hub refuses it or cannot be reached.
    """
    name = hub_name(text)
    hub = hub_package()
    if name.revision:
        raise CheckpointError(f"{name}: a push goes to the newest revision. Leave out @{name.revision}.")
    with tempfile.TemporaryDirectory() as temporary:
        bundle = Path(temporary) / "bundle"
        write_bundle(bundle, path, half=half, name=name.repository)
        api = hub.HfApi(library_name="vqtk")
        asked(name, lambda: api.create_repo(name.repository, private=private, exist_ok=True))
        asked(
            name,
            lambda: api.upload_folder(
                folder_path=bundle, repo_id=name.repository, commit_message=f"Add {path.name} by vqtk"
            ),
        )
        return f"{api.endpoint}/{name.repository}"
