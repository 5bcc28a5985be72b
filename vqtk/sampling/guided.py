"""Guided sampling: the answers of a trained model to a guide, and their errors where the example was hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
from torch import Tensor

from vqtk.errors import RecipeError, VqtkError
from vqtk.evaluate.evaluation import Track, suited_batch, untracked
from vqtk.models import Guided, Model, guided_walk
from vqtk.models.vqdraw import VQDraw
from vqtk.process import generator
from vqtk.recipe.merge import merge
from vqtk.recipe.node import Node, Problems, parse_text
from vqtk.recipe.schema import Scope, parse
from vqtk.registry import guides

TEMPERATURE = 0.1


@dataclass(frozen=True)
class GuidedRequest:
    """How to search for answers.

    Arguments:
        answers: the number of answers for each example; the first is the best one found, the others are drawn.
        beam: the number of paths to keep for each answer.
        stages: the number of stages to choose; by default all.
        temperature: of the draws, in units of the distance between the mean and the best option.
        seed: of the draws.
    """

    answers: int = 1
    beam: int = 1
    stages: int | None = None
    temperature: float = TEMPERATURE
    seed: int = 0


@dataclass(frozen=True)
class Answers:
    """The answers, on the CPU: `codes` (n, answers, s), and the guide's final `losses` (n, answers).

    `shown` (n, answers, *data shape) are the reconstructions as data, in training units.
    """

    codes: Tensor
    losses: Tensor
    shown: Tensor


def guide_of(model: Model, name: str, settings: Sequence[str] = ()) -> Any:
    """Return a guide for a model, by its name and settings such as `hide=left`.

    Raises: RecipeError if there is no such guide or setting, or it does not fit the model; VqtkError if the model does
    not work stage by stage.
    """
    if not model.stepwise:
        raise VqtkError(
            f"this model ({type(model).__name__}) predicts whole codes at once, so a guide has no options to choose "
            "among. Use a model that works stage by stage, such as the one that it was distilled from."
        )
    node = Node({"name": Node(name, "vqtk complete")}, "vqtk complete")
    for setting in settings:
        node = merge(node, _setting(setting))
    problems = Problems()
    chosen = parse(node, Annotated[Any, guides], "guide", Scope(problems))
    problems.raise_any()
    return chosen(model)


def _setting(text: str) -> Node:
    """Return `dotted.key=value` as a tree. Raises: RecipeError if it is not of that form."""
    key, equals, value = text.partition("=")
    keys, origin = key.strip().split("."), f"setting {text!r}"
    if not equals or not all(keys) or keys == ["name"]:
        raise RecipeError(f"{origin}: expected a setting of the guide as key=value, as in fraction=0.25.")
    node = parse_text(value, origin, lines=False)
    for part in reversed(keys):
        node = Node({part: node}, origin)
    return node


def sample_guided(
    model: Model, guide: Any, observed: Tensor, *, asked: GuidedRequest, items: Sequence[int], track: Track = untracked
) -> Answers:
    """Return a model's answers to what is observed (n, …) of examples; `items` are their indices.

    The draws for an example depend only on the seed, its index and the answer's, not on the other examples.

    Raises: VqtkError if there are fewer stages than asked for.
    """
    if asked.stages and asked.stages > model.stages:
        raise VqtkError(f"--stages {asked.stages}: this model has {model.stages} stages. Give at most that many.")
    at_once = max(1, suited_batch(model) // (asked.answers * asked.beam))
    starts = range(0, len(items), at_once)
    parts = [
        _piece(model, guide, observed[start : start + at_once], asked, items[start : start + at_once])
        for start in track(starts, "guided sampling")
    ]
    shown = [model.loss.show(part.reconstruction.flatten(0, 1)).unflatten(0, part.codes.shape[:2]) for part in parts]
    return Answers(
        torch.cat([part.codes for part in parts]).cpu(),
        torch.cat([part.scores[..., -1] for part in parts]).cpu(),
        torch.cat(shown).cpu(),
    )


def _piece(model: Model, guide: Any, observed: Tensor, asked: GuidedRequest, items: Sequence[int]) -> Guided:
    def score(proposals: Tensor, index: Tensor) -> Tensor:
        shown = model.loss.show(proposals.flatten(0, 1)).unflatten(0, proposals.shape[:2])
        return guide(shown, observed[index])

    def noise(stage: int, choices: int) -> Tensor:
        return torch.stack([_drawn(asked, item, stage, choices) for item in items])

    return guided_walk(
        cast(VQDraw, model),
        score,
        len(items),
        answers=asked.answers,
        beam=asked.beam,
        stages=asked.stages or model.stages,
        temperature=asked.temperature,
        noise=noise,
    )


def _drawn(asked: GuidedRequest, item: int, stage: int, choices: int) -> Tensor:
    """Return Gumbel noise (answers, choices), none for the first answer."""
    rows = [torch.zeros(choices)]
    for answer in range(1, asked.answers):
        drawn = torch.empty(choices).exponential_(generator=generator(asked.seed, "complete", item, answer, stage))
        rows.append(-drawn.log())
    return torch.stack(rows)


def errors(guide: Any, targets: Tensor, shown: Tensor) -> dict[str, Tensor]:
    """Return the mean squared errors over hidden values: `mse` in training units, `mse_pixels` of pixels in [0, 1].

    Empty if nothing is hidden.

    Shapes: targets (n, *data shape), shown (n, answers, *data shape) → (n, answers) each.
    """
    hidden, targets = guide.hidden.cpu(), targets.cpu()[:, None]
    if not hidden.any():
        return {}
    found = {"mse": (shown - targets)[..., hidden].square().mean(2)}
    if guide.data.kind == "image":
        found["mse_pixels"] = (guide.data.pixels(shown) - guide.data.pixels(targets))[..., hidden].square().mean(2)
    return found
