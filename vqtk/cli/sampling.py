"""vqtk sample and complete: samples from a prior, and guided sampling."""

from __future__ import annotations

from enum import Enum
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqtk.cli.options import Look, Opened, looking, require_new, say_unkept, test_items

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vqtk.models import Model
    from vqtk.render.sheets import Sheet
    from vqtk.sampling.guided import Answers
    from vqtk.sampling.prior import Fitted


class PriorName(str, Enum):
    """The prior over codes."""

    uniform = "uniform"
    markov = "markov"


@looking
def sample_command(
    look: Look,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Number of samples.")] = 64,
    columns: Annotated[int, typer.Option(min=1, help="Images per row.")] = 8,
    stages: Annotated[int | None, typer.Option(min=1, help="Decode only the first N stages.", metavar="N")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Random seed for the codes.")] = 0,
    prior: Annotated[
        PriorName,
        typer.Option(
            help="Distribution to draw codes from: uniform, or a Markov model fitted to codes of training examples."
        ),
    ] = PriorName.uniform,
    prior_items: Annotated[
        int | None,
        typer.Option(min=1, help="With --prior markov: fit to N training examples. Default: 2,000.", metavar="N"),
    ] = None,
    stl: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write voxel samples as meshes into this folder.")
    ] = None,
) -> None:
    """Draw samples by decoding random codes."""
    from vqtk.errors import VqtkError
    from vqtk.render.pictures import random_codes, require_stepwise
    from vqtk.render.voxels import check_meshes

    if prior_items and prior is PriorName.uniform:
        raise VqtkError("--prior-items sets how many examples a prior is fitted on. Give it with --prior markov.")
    opened = look.open()
    loaded = opened.model
    if stages and stages > loaded.stages:
        raise VqtkError(f"--stages {stages}: this model has {loaded.stages} stages.")
    if stages:
        require_stepwise(loaded)
    if stl:
        require_new(stl, force=look.force)
        check_meshes(loaded.data.kind)
    unkept: list[str] = []
    facts: dict[str, Any] = {"count": count, "seed": seed, "stages": stages or loaded.stages}
    name = f"samples_{stages}_stages" if stages else "samples"
    codes = random_codes(loaded, count=count, seed=seed, stages=stages)
    if prior is PriorName.markov:
        fitted = prior_for(opened, items=prior_items, unkept=unkept.append)
        codes = _drawn(fitted, count=count, seed=seed).to(codes)[:, :stages]
        facts, name = {**facts, "prior": {"name": "markov", **fitted.facts()}}, f"{name}_markov"
    facts["codes"] = codes.tolist()
    if stl:
        facts |= _write_meshes(loaded, codes, stl)
    sheet = _sheet(opened, codes, columns=columns)
    look.write(sheet, opened, title=_sample_title(loaded, facts), name=name, facts=facts)
    if not look.json:
        for line in _lines(facts, stl):
            print(line)
    say_unkept(unkept)


def _sample_title(model: Model, facts: dict[str, Any]) -> str:
    from vqtk.render.labelled import bits_label

    count, stages, seed = facts["count"], facts["stages"], facts["seed"]
    part = "" if stages == model.stages else f", the first {stages} of {model.stages} stages"
    drawn = "from a Markov prior" if "prior" in facts else "uniformly"
    samples = f"{count:,} sample{'' if count == 1 else 's'}"
    return f"{samples} of {bits_label(stages, model.options)}{part}; codes drawn {drawn}, seed {seed}"


def _sheet(opened: Opened, codes: Tensor, *, columns: int) -> Sheet:
    """Return the samples; points are drawn over as many test examples."""
    from vqtk.render.pictures import decoded, form

    over = test_items(opened, None, len(codes))[0] if form(opened.model.data) == "points" else None
    return decoded(opened.model, codes, columns=columns, over=over)


def prior_for(opened: Opened, *, items: int | None, unkept: Callable[[str], object]) -> Fitted:
    """Return the stored prior of a model, or fit it and report the encoding pass on stderr."""
    import sys

    from vqtk.cli.options import tracked
    from vqtk.io.weights import weights_of
    from vqtk.sampling.prior import ITEMS, TEST_ITEMS, fitted_prior, place_of

    weights, asked = weights_of(opened.path), items or ITEMS
    place = place_of(opened.folder, weights)
    # A run's prior is of its own data; a weights file has none of its own, so the cache is by what was found.
    data = "" if opened.folder else opened.splits.fingerprint()["sha256"]

    def splits() -> Any:
        loaded = opened.splits
        train, test = min(asked, len(loaded.train)), min(TEST_ITEMS, len(loaded.test))
        print(
            f"Encoding {train:,} training and {test:,} test examples once; the prior is stored in {place}.",
            file=sys.stderr,
        )
        return loaded

    return fitted_prior(
        opened.model,
        weights=weights,
        path=place,
        splits=splits,
        items=asked,
        seed=opened.recipe.seed,
        data=data,
        track=tracked,
        unkept=unkept,
    )


def _drawn(fitted: Fitted, *, count: int, seed: int) -> Tensor:
    from vqtk.process import generator

    return fitted.prior.sample(count, generator(seed, "sample", "markov"))


def _write_meshes(model: Model, codes: Tensor, folder: Path) -> dict[str, list[Any]]:
    from vqtk.render.pictures import shown_as
    from vqtk.render.voxels import write_meshes

    written, empty = write_meshes(shown_as(model, codes), folder)
    return {"meshes": [str(path) for path in written], "empty": empty}


def _lines(facts: dict[str, Any], stl: Path | None) -> list[str]:
    """Return the lines about the prior and the meshes."""
    lines = []
    if "prior" in facts:
        prior = facts["prior"]
        bits = prior["nats"] / log(2)
        lines.append(
            f"Prior: {prior['nats']:.2f} nats ({bits:.2f} bits) per code, the mean of {prior['test_items']:,} test "
            f"examples. Fitted on {prior['items']:,} training examples from {prior['source']}. "
            f"Uniform: {prior['uniform_nats']:.2f} nats."
        )
    if stl:
        count, empty = len(facts["meshes"]), ", ".join(map(str, facts["empty"]))
        skipped = f"; skipped as empty: sample {empty}" if empty else ""
        lines.append(f"{stl}: {count} mesh{'' if count == 1 else 'es'}{skipped}")
    return lines


@looking
def complete_command(
    look: Look,
    guide: Annotated[
        str | None, typer.Argument(metavar="GUIDE", help="A guide, e.g. mask. `vqtk list guide` shows all.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="A setting of the guide, e.g. hide=left.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Number of test examples.")] = 8,
    item: Annotated[list[int] | None, typer.Option(help="Index of a test example (repeatable).")] = None,
    answers: Annotated[
        int, typer.Option(min=1, help="Number of completions per example. The first is greedy, the others are sampled.")
    ] = 4,
    beam: Annotated[int, typer.Option(min=1, help="Beam width. The run time is proportional to the width.")] = 1,
    stages: Annotated[int | None, typer.Option(min=1, help="Stop after N stages.", metavar="N")] = None,
    temperature: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Temperature for sampling options, in units of the difference between the mean and the lowest loss of "
            "a stage's options.",
        ),
    ] = 0.1,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Random seed for the sampled completions.")] = 0,
) -> None:
    """Complete images, e.g. by inpainting or super-resolution, or sample images of a class.

    A guide scores the options at each stage with its own loss. Each row of the image shows an example, its visible
    part, its completions, and the mean of the completions.
    """
    from vqtk.cli.options import tracked
    from vqtk.errors import VqtkError
    from vqtk.registry import REGISTRIES
    from vqtk.render.labelled import examples_label
    from vqtk.sampling import guided

    if guide is None:
        raise VqtkError(
            f"vqtk complete {look.model}: which guide? Give one of {', '.join(REGISTRIES['guide'].entries())}, as in "
            f"vqtk complete {look.model} mask hide=right."
        )
    opened = look.open()
    loaded = opened.model
    made = guided.guide_of(loaded, guide, settings or [])
    targets, indices = _observable(opened, made, item, count)
    made.prepare(lambda: opened.splits, seed=opened.recipe.seed)
    asked = guided.GuidedRequest(answers=answers, beam=beam, stages=stages, temperature=temperature, seed=seed)
    observed = made.observed(targets) if made.observes else targets
    found = guided.sample_guided(loaded, made, observed, asked=asked, items=indices, track=tracked)
    facts = _facts(made, targets, found, indices)
    sheet = _guided_sheet(made, targets, observed, found, indices=indices)
    chosen = f"{guide} ({', '.join(settings)})" if settings else guide
    title = f"{examples_label(len(targets))}, completed by {chosen}" if made.observes else f"samples guided by {chosen}"
    look.write(sheet, opened, title=title, name=f"complete_{guide}", facts=facts)
    if not look.json:
        for line in _guided_lines(facts):
            print(line)


def _observable(opened: Opened, guide: Any, items: list[int] | None, count: int) -> tuple[Tensor, list[int]]:
    """Return test examples and their indices; empty tensors for a guide that observes nothing."""
    import torch

    from vqtk.errors import VqtkError

    if guide.observes:
        return test_items(opened, items, count)
    if items:
        raise VqtkError(
            "--item: this guide observes no test examples. Leave it out, and set the number of rows with -n."
        )
    return torch.empty(count, 0, device=opened.model.device), list(range(count))


def _facts(guide: Any, targets: Tensor, found: Answers, indices: list[int]) -> dict[str, Any]:
    """Return codes and losses; where known, errors of the answers (n, answers) and of their mean (n,)."""
    from vqtk.sampling.guided import errors

    facts = {"items": indices, "codes": found.codes.tolist(), "losses": found.losses.tolist()}
    if not guide.observes or not found.shown.is_floating_point():
        return facts
    for name, values in errors(guide, targets, found.shown).items():
        facts[f"hidden_{name}"] = values.tolist()
    for name, values in errors(guide, targets, found.shown.mean(1, keepdim=True)).items():
        facts[f"hidden_{name}_of_mean"] = values[:, 0].tolist()
    return facts


def _guided_sheet(guide: Any, targets: Tensor, observed: Tensor, found: Answers, *, indices: list[int]) -> Sheet:
    import torch

    from vqtk.render import points, text
    from vqtk.render.labelled import EXAMPLE, Labels
    from vqtk.render.pictures import form, pictures, require_drawn, texts
    from vqtk.render.sheets import ImageSheet, grid

    require_drawn(guide.data)
    n, answers = found.shown.shape[:2]
    if form(guide.data) == "text":
        return text.sample_lines(texts(guide.data, found.shown.flatten(0, 1)))
    if form(guide.data) == "points":
        return points.sample_plots(found.shown.flatten(0, 1).cpu(), over=targets.cpu() if guide.observes else None)
    every = [found.shown.flatten(0, 1), *([targets] if guide.observes else [])]
    columns = {f"answer {answer + 1}": pictures(guide.data, found.shown[:, answer], alike=every)
               for answer in range(answers)}  # fmt: skip
    alt = f"{n} rows of {answers} answers"
    if guide.observes:
        seen = {"seen": guide.seen(observed).float().cpu()} if guide.data.kind == "image" else {}
        mean = {"mean": pictures(guide.data, found.shown.mean(1), alike=every)} if answers > 1 else {}
        columns = {"input": pictures(guide.data, targets, alike=every), **seen, **columns, **mean}
        alt = f"{n} examples, each with its visible part and {answers} answers"
        alt += ", the mean last" if mean else ""
    cells = torch.stack([column.expand(-1, 3, -1, -1) for column in columns.values()], 1).flatten(0, 1)
    size, corner = (cells.shape[2], cells.shape[3]), EXAMPLE if guide.observes else ""
    labels = Labels(size, [str(index) for index in indices], columns=list(columns), corner=corner)
    return ImageSheet(grid(cells, len(columns)), alt, labels=labels)


def _guided_lines(facts: dict[str, Any]) -> list[str]:
    """Return the line about the errors."""
    if "hidden_mse_pixels" not in facts:
        return []
    units, pixels = ([row[0] for row in facts[name]] for name in ("hidden_mse", "hidden_mse_pixels"))
    line = f"Mean squared error of the hidden part, {len(units)} examples: first answer {_averages(units, pixels)}"
    if len(facts["hidden_mse"][0]) > 1:
        mean = _averages(facts["hidden_mse_of_mean"], facts["hidden_mse_pixels_of_mean"])
        line += f"; mean of the answers {mean}"
    return [f"{line}."]


def _averages(units: list[float], pixels: list[float]) -> str:
    return f"{sum(units) / len(units):.4f} in training units, {sum(pixels) / len(pixels):.4f} in pixels"
