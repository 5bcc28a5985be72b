"""Start a plugin from a template: a working component of a registry, and its test."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from vqtk.errors import RegistryError, nearest
from vqtk.io.files import write_text
from vqtk.registry import REGISTRIES


def new_plugin(name: str, kind: str, folder: Path) -> tuple[Path, Path]:
    """Write `folder/NAME.py`, with a component of that name, and `folder/test_NAME.py`; return both paths.

    Raises: RegistryError if the name is invalid or taken, or one of the files exists.
    """
    if kind not in REGISTRIES:
        raise RegistryError(
            f"there is no registry {kind!r}. {nearest(kind, list(REGISTRIES))}Known: {', '.join(REGISTRIES)}."
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        suggested = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        better = f" Try {suggested!r}." if re.fullmatch(r"[a-z][a-z0-9_]*", suggested) else ""
        raise RegistryError(
            f"{name!r} cannot be a plugin's name, which is that of its file and component. Expected lower-case "
            f"letters, digits and `_`, beginning with a letter.{better}"
        )
    known = REGISTRIES[kind].entries()
    if name in known:
        raise RegistryError(f"there is already a {kind} called {name!r}: {known[name].origin}. Choose another name.")
    written = {folder / f"{name}.py": f"{kind}.py", folder / f"test_{name}.py": "test.py.txt"}
    for path in written:
        if path.exists():
            raise RegistryError(f"{path} exists already. Choose another name, or another folder with --out.")
    for path, template in written.items():
        write_text(path, _filled(template, name, kind))
    plugin, test = written
    return plugin, test


def _filled(template: str, name: str, kind: str) -> str:
    """Return a template with `example` replaced by the component's name, and `Example` by its class's name."""
    text = files("vqtk.plugin.templates").joinpath(template).read_text(encoding="utf-8")
    if template.endswith(".txt"):
        return text.replace("NAME", name).replace("REGISTRY", kind)
    text = text.replace("example.py", f"{name}.py").replace("complete mnist example", f"complete mnist {name}")
    text = text.replace('register("example"', f'register("{name}"')
    text = re.sub(r"\b(name: |condition: )example\b", rf"\g<1>{name}", text)
    class_name = "".join(word.capitalize() for word in name.split("_"))
    if re.search(rf"\b{class_name}\b", text):  # Such as `Tensor`, which the template imports.
        class_name += kind.capitalize()
    return re.sub(r"\bExample\b", class_name, text)
