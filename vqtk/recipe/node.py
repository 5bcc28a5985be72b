"""A recipe as a tree that records where each value was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from vqtk.errors import RecipeError, nearest, printable, shortened

MOST_BYTES, MOST_DEPTH, MOST_NODES = 1 << 20, 60, 10_000
"""Limits of a recipe: the bytes of its text, its nesting, and its values with aliases expanded."""
_MOST_PROBLEMS, _LONGEST_PATH = 20, 200
"""The most problems that are listed (the rest are counted), and the most characters of each one's path."""


@dataclass
class Node:
    """A scalar, a list of nodes or a dict of nodes, and where it was written.

    A `kept` setting belonged to a replaced component; it is dropped if the new component does not take it.
    """

    value: Any
    origin: str
    kept: bool = False

    def plain(self) -> Any:
        """Return the tree without origins."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def copy(self) -> Node:
        """Return a deep copy."""
        if isinstance(self.value, dict):
            return replace(self, value={key: child.copy() for key, child in self.value.items()})
        if isinstance(self.value, list):
            return replace(self, value=[child.copy() for child in self.value])
        return replace(self)

    @staticmethod
    def of(value: Any, origin: str) -> Node:
        """Return the tree of a plain value, with one origin throughout. Raises: RecipeError if it is too large."""
        return _of(value, origin, 0, [MOST_NODES])


def _of(value: Any, origin: str, depth: int, left: list[int]) -> Node:
    """Return the tree of a value at `depth`; `left` counts down the nodes that may still be made."""
    left[0] -= 1
    if left[0] < 0:
        raise RecipeError(too_many(origin))
    if depth > MOST_DEPTH:
        raise RecipeError(_too_deep(origin))
    if isinstance(value, dict):
        return Node({str(key): _of(child, origin, depth + 1, left) for key, child in value.items()}, origin)
    if isinstance(value, (list, tuple)):
        return Node([_of(child, origin, depth + 1, left) for child in value], origin)
    return Node(value, origin)


@dataclass
class Problems:
    """The problems of a recipe, or of what `what` names, gathered so that one error reports them all."""

    found: list[str] = field(default_factory=list)
    what: str = "recipe"

    def add(self, node: Node, path: str, message: str) -> None:
        """Record a problem at a node."""
        place = f"{shortened(path, most=_LONGEST_PATH)}: " if path else ""
        self.found.append(f"{node.origin}: {place}{message}")

    def raise_any(self) -> None:
        """Raise a RecipeError that lists the problems, if any were recorded."""
        count = len(self.found)
        if count == 1:
            raise RecipeError(self.found[0])
        if count:
            more = [f"and {count - _MOST_PROBLEMS:,} more."] if count > _MOST_PROBLEMS else []
            listed = [*self.found[:_MOST_PROBLEMS], *more]
            raise RecipeError("\n".join([f"{count:,} problems in the {self.what}:", *listed]))


def below(path: str, key: str) -> str:
    """Return the dotted path of a key of the mapping at `path`."""
    return f"{path}.{key}" if path else key


def shown_path(path: Path) -> str:
    """Return a path relative to the working directory if it is below it, printable on one line."""
    try:
        shown = str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        shown = str(path)
    return printable(shown)


def is_file(path: Path) -> bool:
    """Return whether there is a file; False for text that cannot be a path, such as one that is too long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def beside(path: Path, pattern: str) -> list[str]:
    """Return the names of the files beside a path that match a pattern, as candidates for `nearest`."""
    try:
        return sorted(one.name for one in path.parent.glob(pattern)) if path.parent.is_dir() else []
    except (OSError, ValueError):
        return []


def read(path: Path) -> Node:
    """Read a YAML 1.2 file. Raises: RecipeError, with the line, if it cannot be read as a mapping."""
    shown = shown_path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RecipeError(_unreadable(path, shown, error)) from None
    root = parse_text(text, shown)
    if not isinstance(root.value, dict):
        raise RecipeError(f"{shown}:1: a recipe is a mapping of keys to values; this file holds {_kind(root.value)}.")
    return root


def is_study(path: Path) -> bool:
    """Return whether a file is a study, which has axes; False if it is none or cannot be read."""
    try:
        return "axes" in read(path).value
    except RecipeError:
        return False


def parse_text(text: str, shown: str, *, lines: bool = True) -> Node:
    """Parse YAML 1.2 text; origins are `shown:line`, or `shown` without `lines`. Raises: RecipeError with the line."""
    return _parsed(text, shown, lines).copy()  # Callers change it.


@lru_cache(maxsize=64)  # A study reads its base recipe once for every variant.
def _parsed(text: str, shown: str, lines: bool) -> Node:
    if len(text) > MOST_BYTES:
        raise RecipeError(
            f"{shown}: {len(text):,} characters are too many for a recipe; expected at most {MOST_BYTES:,}."
        )
    try:
        yaml = YAML(typ="safe", pure=True)
        yaml.Composer = partial(_BoundedComposer, shown=shown, lines=lines)  # type: ignore[assignment]
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        raise RecipeError(_broken(error, shown, lines)) from None
    except YAMLError as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(f"{shown}: not valid YAML: {reason}. Expected plain text, as an editor writes it.") from None
    if root is None:
        return Node(None, f"{shown}:1" if lines else shown)
    return _convert(root, None, shown, lines, (), [MOST_NODES])


class _BoundedComposer(Composer):
    """Composes YAML, and refuses text that is nested too deeply or has too many values.

    It checks while it composes: deeper recursion would overflow the stack.
    """

    def __init__(self, loader: YAML, *, shown: str, lines: bool):
        super().__init__(loader=loader)
        self.shown, self.lines = shown, lines
        self.depth = self.count = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node and those below it. Raises: RecipeError."""
        event = self.parser.peek_event()
        at = f"{self.shown}:{event.start_mark.line + 1}" if self.lines else self.shown
        nests = isinstance(event, CollectionStartEvent)
        self.depth += nests
        self.count += 1
        if self.depth > MOST_DEPTH:
            raise RecipeError(_too_deep(at))
        if self.count > 2 * MOST_NODES:
            raise RecipeError(too_many(at))
        node = super().compose_node(parent, index)
        self.depth -= nests
        return node


def _too_deep(origin: str) -> str:
    return f"{origin}: nested more than {MOST_DEPTH} levels deep. A recipe has about ten: check the brackets."


def too_many(origin: str) -> str:
    """Return the message for a recipe with too many values."""
    expanded = "with aliases and repetitions expanded"
    return f"{origin}: more than {MOST_NODES:,} values {expanded}. A recipe has hundreds: check the aliases."


def _broken(error: MarkedYAMLError, shown: str, lines: bool) -> str:
    mark, began = error.problem_mark or error.context_mark, error.context_mark
    where = f"{shown}:{mark.line + 1}" if mark and lines else shown
    problem = str(error.problem or error.context).removeprefix("but ")
    begun = f", within what begins on line {began.line + 1}" if lines and began and began.line != mark.line else ""
    advice = {
        "\\t": " Indent with spaces, not tabs.",
        "mapping values": " Check the indentation, and quote text that contains a colon.",
    }
    advised = next((text for sign, text in advice.items() if sign in problem), "")
    return f"{where}: not valid YAML: {problem}{begun}.{advised}"


def _convert(yaml: Any, line: int | None, shown: str, lines: bool, above: tuple[int, ...], left: list[int]) -> Node:
    """Return the node of a YAML node; `above` are the ids of its ancestors, `left` counts down the nodes allowed."""
    at = yaml.start_mark.line if line is None else line
    origin = f"{shown}:{at + 1}" if lines else shown
    left[0] -= 1
    if left[0] < 0:
        raise RecipeError(too_many(origin))
    if len(above) > MOST_DEPTH:
        raise RecipeError(_too_deep(origin))
    if id(yaml) in above:
        raise RecipeError(f"{origin}: this anchor contains itself. Write the values out instead.")
    above = (*above, id(yaml))
    if isinstance(yaml, MappingNode):
        children: dict[str, Node] = {}
        for key, child in yaml.value:
            place = f"{shown}:{key.start_mark.line + 1}" if lines else shown
            if not isinstance(key, ScalarNode) or not key.value:
                raise RecipeError(f"{place}: expected a word as a key, got {_kind(key.value or None)}.")
            if key.value == "<<":
                raise RecipeError(f"{place}: `<<` is not supported. To build on another recipe: `extends: other.yaml`.")
            if key.value in children:
                raise RecipeError(
                    f"{place}: the key {shortened(repr(key.value))} occurs twice in one mapping. Remove one."
                )
            children[key.value] = _convert(child, key.start_mark.line, shown, lines, above, left)
        return Node(children, origin)
    if isinstance(yaml, SequenceNode):
        return Node([_convert(child, None, shown, lines, above, left) for child in yaml.value], origin)
    return Node(_scalar(yaml, origin), origin)


def _scalar(yaml: ScalarNode, origin: str) -> Any:
    if str(yaml.tag).endswith(":timestamp"):  # YAML 1.2 has no dates, and a name may look like one.
        return yaml.value
    try:
        value = _constructed(str(yaml.tag), yaml.value)
    except (YAMLError, ValueError):
        value = yaml
    if not isinstance(value, (str, int, float, bool, type(None))):
        given = shortened(repr(yaml.value))
        raise RecipeError(
            f"{origin}: {given} cannot be read as {yaml.tag}. Expected text, a number, true, false or null, without "
            "a tag."
        )
    return value


@lru_cache(maxsize=4096)
def _constructed(tag: str, text: str) -> Any:
    return YAML(typ="safe", pure=True).constructor.construct_object(ScalarNode(tag=tag, value=text))


def _unreadable(path: Path, shown: str, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"{shown}: not a UTF-8 text file; expected a recipe, a .yaml file."
    if isinstance(error, IsADirectoryError):
        return f"{shown} is a folder; expected a recipe, a .yaml file."
    if isinstance(error, FileNotFoundError):
        if "=" in path.name:
            return f"{shown}: no such recipe. Overrides such as this come after the recipe: RECIPE {shown}."
        named = Path("recipes") / f"{path.name}.yaml"
        advice = f"Did you mean {named}? " if is_file(named) else nearest(path.name, beside(path, "*.yaml"))
        advice = advice or _own_recipe(path)
        return f"{shown}: no such recipe. {advice}Expected the path of a .yaml file."
    return f"{shown}: cannot be read: {error}."


def _own_recipe(path: Path) -> str:
    """Say where a recipe of vqtk is, or where they all are, if vqtk is installed from a clone of its repository."""
    own = Path(__file__).parents[2] / "recipes"
    named = own / f"{path.name.removesuffix('.yaml')}.yaml"
    if is_file(named):
        return f"vqtk's own recipe is {named}. "
    held = f"in {own}" if is_file(own / "mnist.yaml") else "in the folder recipes/ of its repository"
    return f"The recipes of vqtk are {held}. "


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return "a list" if isinstance(value, list) else shortened(repr(value))


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Yield every node below this one with its dotted path, in order."""
    children: list[tuple[str, Node]] = []
    if isinstance(node.value, dict):
        children = list(node.value.items())
    elif isinstance(node.value, list):
        children = [(str(index), child) for index, child in enumerate(node.value)]
    for key, child in children:
        yield below(path, key), child
        yield from walk(child, below(path, key))
