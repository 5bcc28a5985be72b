"""A recipe as a tree that remembers where each value came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from vqtk.errors import RecipeError, nearest, printable, shortened

MOST_BYTES, MOST_DEPTH, MOST_NODES = 1 << 20, 60, 10_000
"""How large a recipe may be: its text, its nesting, and its values once aliases are written out."""
_MOST_PROBLEMS, _LONGEST_PATH = 20, 200
"""Problems that are listed, the others being counted; and characters of the place that each is at."""


@dataclass
class Node:
    """A scalar, a list of nodes or a dict of nodes, and where it was written.

    A `kept` setting was another component's: one that does not take it goes without.
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
        """Return a tree for a plain value, all of one origin. Raises: RecipeError if it is too deep or too large."""
        return _of(value, origin, 0, [MOST_NODES])


def _of(value: Any, origin: str, depth: int, left: list[int]) -> Node:
    """Return the tree of a value within `depth` others; `left` is how many nodes there may still be."""
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
    """What is wrong with a recipe, or with `what` it is, gathered so that all of it is reported at once."""

    found: list[str] = field(default_factory=list)
    what: str = "recipe"

    def add(self, node: Node, path: str, message: str) -> None:
        """Note a problem at a node."""
        place = f"{shortened(path, most=_LONGEST_PATH)}: " if path else ""
        self.found.append(f"{node.origin}: {place}{message}")

    def raise_any(self) -> None:
        """Raise a RecipeError that lists the problems, if there are any."""
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
    """Return a path as a person at this folder would write it, on one line whatever it holds."""
    try:
        shown = str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        shown = str(path)
    return printable(shown)


def is_file(path: Path) -> bool:
    """Say whether there is a file, also for a text that can be no path: too long, or with a character that none has."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def beside(path: Path, pattern: str) -> list[str]:
    """Return the names of files beside a path, to find the one that was meant."""
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


def parse_text(text: str, shown: str, *, lines: bool = True) -> Node:
    """Parse YAML 1.2 text; origins are `shown:line`, or `shown` alone. Raises: RecipeError, with the line."""
    if len(text) > MOST_BYTES:
        raise RecipeError(f"{shown}: {len(text):,} characters are no recipe; expected at most {MOST_BYTES:,}.")
    try:
        _check_size(text, shown, lines)
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        raise RecipeError(_broken(error, shown, lines)) from None
    except YAMLError as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(f"{shown}: not valid YAML: {reason}. Expected plain text, as an editor writes it.") from None
    if root is None:
        return Node(None, f"{shown}:1" if lines else shown)
    return _convert(root, None, shown, lines, (), [MOST_NODES])


def _check_size(text: str, shown: str, lines: bool) -> None:
    """Raise RecipeError where a text is nested too deeply or has too many values; the parser's events need no stack."""
    depth = 0
    for count, event in enumerate(YAML(typ="safe", pure=True).parse(text)):
        at = f"{shown}:{event.start_mark.line + 1}" if lines else shown
        if isinstance(event, CollectionStartEvent):
            depth += 1
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
        if depth > MOST_DEPTH:
            raise RecipeError(_too_deep(at))
        if count > 2 * MOST_NODES:
            raise RecipeError(too_many(at))


def _too_deep(origin: str) -> str:
    return f"{origin}: nested more than {MOST_DEPTH} levels deep. A recipe has about ten: check the brackets."


def too_many(origin: str) -> str:
    """Return what is wrong with a recipe of too many values."""
    written = "aliases and repetitions written out"
    return f"{origin}: more than {MOST_NODES:,} values, {written}. A recipe has hundreds: check the aliases."


def _broken(error: MarkedYAMLError, shown: str, lines: bool) -> str:
    mark, began = error.problem_mark or error.context_mark, error.context_mark
    where = f"{shown}:{mark.line + 1}" if mark and lines else shown
    problem = str(error.problem or error.context).removeprefix("but ")
    begun = f", in what begins on line {began.line + 1}" if lines and began and began.line != mark.line else ""
    advice = {
        "\\t": " Indent with spaces, not tabs.",
        "mapping values": " Check the indentation, and put quotes around text that has a colon in it.",
    }
    advised = next((text for sign, text in advice.items() if sign in problem), "")
    return f"{where}: not valid YAML: {problem}{begun}.{advised}"


def _convert(yaml: Any, line: int | None, shown: str, lines: bool, above: tuple[int, ...], left: list[int]) -> Node:
    """Return the node of a YAML node; `above` are those that it is within, `left` how many there may still be."""
    at = yaml.start_mark.line if line is None else line
    origin = f"{shown}:{at + 1}" if lines else shown
    left[0] -= 1
    if left[0] < 0:
        raise RecipeError(too_many(origin))
    if len(above) > MOST_DEPTH:
        raise RecipeError(_too_deep(origin))
    if id(yaml) in above:
        raise RecipeError(f"{origin}: this anchor contains itself. Write the values out.")
    above = (*above, id(yaml))
    if isinstance(yaml, MappingNode):
        children: dict[str, Node] = {}
        for key, child in yaml.value:
            place = f"{shown}:{key.start_mark.line + 1}" if lines else shown
            if not isinstance(key, ScalarNode) or not key.value:
                raise RecipeError(f"{place}: a key is a word; this is {_kind(key.value or None)}.")
            if key.value == "<<":
                raise RecipeError(f"{place}: recipes do not merge with `<<`. Use `extends: other.yaml`.")
            if key.value in children:
                stands = f"the key {shortened(repr(key.value))} stands twice in one mapping"
                raise RecipeError(f"{place}: {stands}. Remove one.")
            children[key.value] = _convert(child, key.start_mark.line, shown, lines, above, left)
        return Node(children, origin)
    if isinstance(yaml, SequenceNode):
        return Node([_convert(child, None, shown, lines, above, left) for child in yaml.value], origin)
    return Node(_scalar(yaml, origin), origin)


def _scalar(yaml: ScalarNode, origin: str) -> Any:
    if str(yaml.tag).endswith(":timestamp"):  # YAML 1.2 knows no dates; a name may look like one.
        return yaml.value
    try:
        value = YAML(typ="safe", pure=True).constructor.construct_object(yaml)
    except (YAMLError, ValueError):
        value = yaml
    if not isinstance(value, (str, int, float, bool, type(None))):
        given = shortened(repr(yaml.value))
        raise RecipeError(
            f"{origin}: {given} cannot be read as {yaml.tag}. Recipes hold text, numbers, true, false and null; "
            "write it as one of these, without a tag."
        )
    return value


def _unreadable(path: Path, shown: str, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"{shown}: not a text file in UTF-8; expected a recipe, a .yaml file."
    if isinstance(error, IsADirectoryError):
        return f"{shown} is a folder; expected a recipe, a .yaml file."
    if isinstance(error, FileNotFoundError):
        named = Path("recipes") / f"{path.name}.yaml"
        advice = f"Did you mean {named}? " if is_file(named) else nearest(path.name, beside(path, "*.yaml"))
        return f"{shown}: no such recipe. {advice}Expected the path of a .yaml file."
    return f"{shown}: cannot be read: {error}."


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return "a list" if isinstance(value, list) else shortened(repr(value))


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Yield every node below with its dotted path, in order."""
    items: list[tuple[str, Node]] = []
    if isinstance(node.value, dict):
        items = list(node.value.items())
    elif isinstance(node.value, list):
        items = [(str(index), child) for index, child in enumerate(node.value)]
    for key, child in items:
        yield below(path, key), child
        yield from walk(child, below(path, key))
