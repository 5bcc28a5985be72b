"""Registries: names are taken once, signatures are schemas, and nested specs arrive as factories."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from tests.bad_recipes import GOOD
from vqtk.errors import RegistryError
from vqtk.nn.types import Betas, Count, Fraction
from vqtk.nn.unit import Unit
from vqtk.plugin.loading import load_plugin, loaded_plugins
from vqtk.recipe.node import Node, Problems
from vqtk.recipe.recipe import load_recipe
from vqtk.recipe.schema import Scope, parse
from vqtk.recipe.signature import describe, parameters
from vqtk.registry import REGISTRIES, BlockFactory, ConditionFactory, HeadFactory, Inherited, Registry, blocks

SOURCE = """\
from vqtk.registry import blocks
@blocks.register("{name}")
class {kind}:
    "A block."
    def __init__(self, in_width, size, stages): ...
"""


@pytest.fixture
def registry() -> Registry:
    """A registry of its own, of components that are given one thing."""
    return Registry("part", package="vqtk.searches", supplied=("given",), default="first", common={"often": (int, 1)})


class First:
    """The first part."""

    def __init__(self, given: int, *, size: int = 3):
        self.given, self.size = given, size


class Second:
    """The second part."""

    def __init__(self, given: int, *, size: int = 4):
        self.given, self.size = given, size


def test_two_classes_of_one_name_are_refused_with_both_places(registry: Registry) -> None:
    registry.register("part")(First)
    with pytest.raises(RegistryError, match="part 'part' is registered twice") as raised:
        registry.register("part")(Second)
    lines = {name: _line_of(f"class {name}:") for name in ("First", "Second")}
    assert f"{__file__}:{lines['First']} and {__file__}:{lines['Second']}" in str(raised.value)
    assert registry.get("part").component is First


def _line_of(text: str) -> int:
    return Path(__file__).read_text().splitlines().index(text) + 1


def test_registering_the_same_class_again_replaces_it(registry: Registry) -> None:
    again = type("First", (First,), {"__doc__": "Again.", "__module__": __name__, "__qualname__": "First"})
    registry.register("part")(First)
    registry.register("part")(again)
    assert registry.get("part").component is again
    assert registry.get("part").purpose == "Again."


def test_a_reloaded_module_registers_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_entries", blocks.entries())
    path = tmp_path / "mine.py"
    path.write_text(SOURCE.format(name="reloaded", kind="Mine"))
    for _ in range(2):
        spec = importlib.util.spec_from_file_location("mine", path)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "mine", module)
        spec.loader.exec_module(module)
    assert blocks.get("reloaded").origin == f"{path}:2"


def test_a_plugin_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_entries", blocks.entries())
    before = set(blocks.entries())
    path = tmp_path / "mine.py"
    path.write_text(SOURCE.format(name="early", kind="Early") + "1 / 0\n")
    with pytest.raises(RegistryError, match=r"mine\.py:6: the import failed with ZeroDivisionError"):
        load_plugin(path)
    assert set(blocks.entries()) == before
    path.write_text(SOURCE.format(name="early", kind="Late"))
    with loaded_plugins([path]):
        assert set(blocks.entries()) == before | {"early"}


class Swallowing:
    """Takes anything."""

    def __init__(self, given: int, **settings: int): ...


class Untyped:
    """Takes something."""

    def __init__(self, given: int, *, size=3): ...  # type: ignore[no-untyped-def]


class Reserved:
    """Takes a word of the language."""

    def __init__(self, given: int, *, repeat: int = 3): ...


class Common:
    """Takes what every spec of the registry takes."""

    def __init__(self, given: int, *, often: int = 3): ...


class Unmarked:
    """Takes its setting by position."""

    def __init__(self, given: int, size: int = 3): ...


class Undocumented:
    def __init__(self, given: int): ...


class Extended:
    """Has settings."""

    def __init__(self, given: int, *, size: Count = 3, name_of: str):
        self.settings = {"size": size, "name_of": name_of}


class Extending(Extended):
    """Has one more, and another default of one."""

    def __init__(self, given: int, *, size: Count = 5, more: int = 0, **extended: Inherited):
        super().__init__(given, size=size, **extended)
        self.settings["more"] = more


class Unchanged(Extending):
    """Has those of what it extends."""


def function(given: int) -> None:
    """Is no class."""


@pytest.mark.parametrize("component", [Extending, Unchanged])
def test_settings_of_an_extended_class_are_inherited_typed_and_handed_on(component: type, registry: Registry) -> None:
    registry.register("extending")(component)
    own = parameters(component)
    assert {name: one.default for name, one in own.items()} == {
        "name_of": inspect.Parameter.empty, "size": 5, "more": 0
    }  # fmt: skip
    assert own["size"].hint == Count
    problems = Problems()
    spec = Annotated[Any, registry]
    chosen = parse(Node.of({"name": "extending", "name_of": "a", "more": 2}, "here"), spec, "it", Scope(problems))
    assert chosen(1).settings == {"size": 5, "name_of": "a", "more": 2}
    parse(Node.of({"name": "extending", "name_of": "a", "mere": 2}, "here"), spec, "it", Scope(problems))
    assert "unknown key. Did you mean 'more'?" in problems.found[0]


@pytest.mark.parametrize(
    ("component", "told"),
    [
        (Swallowing, r"`\*\*settings` would swallow misspelt keys"),
        (Untyped, "parameter 'size' has no type"),
        (Reserved, "'repeat' is a reserved key of recipes"),
        (Common, "'often' is a reserved key of recipes"),
        (Unmarked, r"positional parameters are \(given, size\); the toolkit supplies \(given\)"),
        (Undocumented, "a component needs a docstring"),
        (function, "expected a class, got a function"),
    ],
)
def test_a_signature_that_is_no_schema_is_refused_with_its_place(component: Any, told: str, registry: Registry) -> None:
    with pytest.raises(RegistryError, match=told) as raised:
        registry.register("part")(component)
    assert str(raised.value).startswith(f"part 'part' ({__file__}:")
    assert "part" not in registry.entries()


def test_an_unknown_name_is_refused_with_the_nearest(registry: Registry) -> None:
    registry.register("first")(First)
    with pytest.raises(RegistryError, match=r"no part is called 'frist'\. Did you mean 'first'\? Known: first\."):
        registry.get("frist")


@pytest.mark.parametrize("kind", REGISTRIES)
def test_the_default_of_a_registry_is_one_of_its_components(kind: str) -> None:
    registry = REGISTRIES[kind]
    assert registry.default is None or registry.default in registry.entries()


def test_a_spec_becomes_a_factory_that_is_called_with_what_the_toolkit_supplies(registry: Registry) -> None:
    registry.register("first")(First)
    problems = Problems()
    chosen = parse(Node.of({"size": 7, "often": 2}, "here"), Annotated[Any, registry], "part", Scope(problems))
    assert not problems.found
    made = chosen(5)
    assert (type(made), made.given, made.size) == (First, 5, 7)
    assert (chosen.settings, chosen.common) == ({"size": 7}, {"often": 2})


def conditions_in(chosen: Any) -> dict[str, str]:
    """The condition of the model, and those that its backbone, blocks and head are given."""
    refiner = chosen.settings["refiner"].settings
    parts = {"model": chosen, "backbone": refiner["backbone"], "head": refiner["head"]}
    parts |= {f"block {index}": block for index, block in enumerate(refiner["blocks"])}
    return {name: part.settings["condition"].entry.name for name, part in parts.items()}


def test_a_condition_that_is_left_out_is_the_models(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    everywhere = ("model", "backbone", "head", "block 0")
    assert conditions_in(load_recipe(path).model) == dict.fromkeys(everywhere, "scale")
    assert conditions_in(load_recipe(path, ["model.condition=film"]).model) == dict.fromkeys(everywhere, "film")
    own = load_recipe(path, ["model.condition=film", "model.refiner.blocks.0.condition=none"])
    assert conditions_in(own.model) == {**dict.fromkeys(everywhere, "film"), "block 0": "none"}


class Described:
    """Has a parameter of every kind."""

    def __init__(
        self,
        *,
        block: BlockFactory,
        heads: list[HeadFactory],
        condition: ConditionFactory,
        count: Count,
        share: Fraction | None = None,
        groups: list[Count] | Literal["layer", "none"] = "layer",
        betas: Betas = [0.9, 0.99],
        units: list[Unit] = [],
        on: bool = True,
        word: str = "",
    ): ...


def test_types_are_described_in_words() -> None:
    described = {name: describe(parameter.hint) for name, parameter in parameters(Described).items()}
    assert described == {
        "block": "a block",
        "heads": "a list, each a head",
        "condition": "a condition",
        "count": "a whole number ≥ 1",
        "share": "a number ≥ 0 and ≤ 1, or null",
        "groups": "'layer' or 'none', or a list, each a whole number ≥ 1",
        "betas": "a list of two numbers ≥ 0 and < 1",
        "units": "a list, each a mapping with width, kernel, stride, upsample, dilation, then",
        "on": "true or false",
        "word": "text",
    }


def test_a_factory_that_fails_says_where_it_was_chosen(registry: Registry) -> None:
    class Failing(First):
        """Fails."""

        def __init__(self, given: int, *, size: int = 3):
            raise ValueError("no\nluck")

    registry.register("failing")(Failing)
    chosen = parse(Node.of("failing", "r.yaml:3"), Annotated[Any, registry], "a.b", Scope(Problems()))
    with pytest.raises(Exception, match=r"r\.yaml:3: a\.b: part 'failing' .* could not be built: ValueError: no luck"):
        chosen(5)
