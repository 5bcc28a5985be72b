"""`vqtk complete`: lead a trained model by a guide, such as a part of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqtk.cli.options import (
    DataDir,
    Device,
    Json,
    ModelPath,
    Opened,
    OtherData,
    Output,
    Plugins,
    Show,
    open_model,
    test_items,
    write_sheet,
)

if TYPE_CHECKING:
    from torch import Tensor

    from vqtk.render.sheets import Sheet
    from vqtk.sampling.guided import Answers


def complete_command(
    model: ModelPath,
    guide: Annotated[str | None, typer.Argument(metavar="GUIDE", help="A guide, as `vqtk list guide` shows.")] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings of the guide, as in hide=left.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many test items.")] = 8,
    item: Annotated[list[int] | None, typer.Option(help="A test item by its index; may be repeated.")] = None,
    answers: Annotated[int, typer.Option(min=1, help="Answers an item; the first is the best, the others drawn.")] = 4,
    beam: Annotated[int, typer.Option(min=1, help="Paths kept for each answer; takes as many times as long.")] = 1,
    stages: Annotated[int | None, typer.Option(min=1, help="Stop after so many stages.")] = None,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="How far drawn answers stray; 1 as far as the mean option is from the best.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Which answers are drawn.")] = 0,
    output: Output = None,
    show: Show = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    data: OtherData = None,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Choose codes by a guide in place of a whole target: inpainting, super-resolution, or a guide of one's own.

    A row an item: the item, what is seen of it, the answers, and the mean of them.
    """
    from vqtk.cli.options import tracked
    from vqtk.errors import VqtkError
    from vqtk.registry import REGISTRIES
    from vqtk.sampling import guided

    if guide is None:
        raise VqtkError(
            f"vqtk complete {model}: by which guide? Give one of: {', '.join(REGISTRIES['guide'].entries())}; as in "
            f"vqtk complete {model} mask hide=right."
        )
    opened = open_model(model, device, data_dir, data)
    loaded = opened.model
    made = guided.guide_of(loaded, guide, settings or [])
    targets, indices = _observable(opened, made, item, count)
    made.prepare(lambda: opened.splits, seed=opened.recipe.seed)
    asked = guided.GuidedRequest(answers=answers, beam=beam, stages=stages, temperature=temperature, seed=seed)
    observed = made.observed(targets) if made.observes else targets
    found = guided.sample_guided(loaded, made, observed, asked=asked, items=indices, track=tracked)
    facts = _facts(made, targets, found, indices)
    sheet = _sheet(made, targets, observed, found)
    write_sheet(sheet, opened, name=f"complete_{guide}", output=output, show=show, json=json, facts=facts)
    if not json:
        for line in _lines(facts):
            print(line)


def _observable(opened: Opened, guide: Any, items: list[int] | None, count: int) -> tuple[Tensor, list[int]]:
    """Return test items and their indices; empty ones, counted from 0, for a guide that looks at none."""
    import torch

    from vqtk.errors import VqtkError

    if guide.observes:
        return test_items(opened, items, count)
    if items:
        raise VqtkError("--item: this guide looks at no test items. Leave it out, and say how many answers with -n.")
    return torch.empty(count, 0, device=opened.model.device), list(range(count))


def _facts(guide: Any, targets: Tensor, found: Answers, indices: list[int]) -> dict[str, Any]:
    """Return codes and losses, and errors of the answers (n, answers) and of their mean (n,) where they are known."""
    from vqtk.sampling.guided import errors

    facts = {"items": indices, "codes": found.codes.tolist(), "losses": found.losses.tolist()}
    if not guide.observes or not found.shown.is_floating_point():
        return facts
    for name, values in errors(guide, targets, found.shown).items():
        facts[f"hidden_{name}"] = values.tolist()
    for name, values in errors(guide, targets, found.shown.mean(1, keepdim=True)).items():
        facts[f"hidden_{name}_of_mean"] = values[:, 0].tolist()
    return facts


def _sheet(guide: Any, targets: Tensor, observed: Tensor, found: Answers) -> Sheet:
    import torch

    from vqtk.render import points, text
    from vqtk.render.pictures import form, pictures, require_drawn, texts
    from vqtk.render.sheets import ImageSheet, grid

    require_drawn(guide.data)
    n, answers = found.shown.shape[:2]
    if form(guide.data) == "text":
        return text.sample_lines(texts(guide.data, found.shown.flatten(0, 1)))
    if form(guide.data) == "points":
        return points.sample_plots(found.shown.flatten(0, 1).cpu(), over=targets.cpu() if guide.observes else None)
    every = [found.shown.flatten(0, 1), *([targets] if guide.observes else [])]
    columns = [pictures(guide.data, found.shown[:, answer], alike=every) for answer in range(answers)]
    told = f"{n} rows of {answers} answers"
    if guide.observes:
        seen = [guide.seen(observed).float().cpu()] if guide.data.kind == "image" else []
        mean = [pictures(guide.data, found.shown.mean(1), alike=every)] if answers > 1 else []
        columns = [pictures(guide.data, targets, alike=every), *seen, *columns, *mean]
        told = f"{n} items, each with what is seen of it and {answers} answers"
        told += ", and their mean last" if mean else ""
    cells = [column.expand(-1, 3, -1, -1) for column in columns]
    return ImageSheet(grid(torch.stack(cells, 1).flatten(0, 1), len(cells)), told)


def _lines(facts: dict[str, Any]) -> list[str]:
    """Return what there is to say of the errors."""
    if "hidden_mse_pixels" not in facts:
        return []
    units, pixels = ([row[0] for row in facts[name]] for name in ("hidden_mse", "hidden_mse_pixels"))
    line = f"Mean squared error of what is hidden, {len(units)} items: first answer {_averages(units, pixels)}"
    if len(facts["hidden_mse"][0]) > 1:
        mean = _averages(facts["hidden_mse_of_mean"], facts["hidden_mse_pixels_of_mean"])
        line += f"; mean of the answers {mean}"
    return [f"{line}."]


def _averages(units: list[float], pixels: list[float]) -> str:
    return f"{sum(units) / len(units):.4f} in training units, {sum(pixels) / len(pixels):.4f} in pixels"
