"""`vqtk sample`: decode random codes."""

from __future__ import annotations

from enum import Enum
from math import log
from pathlib import Path
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
    say_unkept,
    test_items,
    write_sheet,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vqtk.models import Model
    from vqtk.render.sheets import Sheet
    from vqtk.sampling.prior import Fitted


class PriorName(str, Enum):
    """How codes are drawn."""

    uniform = "uniform"
    markov = "markov"


def sample_command(
    model: ModelPath,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many samples.")] = 64,
    columns: Annotated[int, typer.Option(min=1, help="How many pictures in a row.")] = 8,
    stages: Annotated[int | None, typer.Option(min=1, help="Decode only the first so many stages.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Which codes are drawn.")] = 0,
    prior: Annotated[
        PriorName,
        typer.Option(help="Draw codes uniformly, or each given the last one, as they follow in training items."),
    ] = PriorName.uniform,
    prior_items: Annotated[
        int | None, typer.Option(min=1, help="Fit the prior on so many training items; 2,000 by default.")
    ] = None,
    stl: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write samples of voxels as meshes, too, into this folder.")
    ] = None,
    output: Output = None,
    show: Show = False,
    device: Device = "auto",
    data_dir: DataDir = None,
    data: OtherData = None,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Decode random codes into a grid of samples, or into lines of text."""
    from vqtk.errors import VqtkError
    from vqtk.render.pictures import random_codes, require_stepwise
    from vqtk.render.voxels import check_meshes

    if prior_items and prior is PriorName.uniform:
        raise VqtkError("--prior-items says on how many items a prior is fitted. Give --prior markov, too.")
    opened = open_model(model, device, data_dir, data)
    loaded = opened.model
    if stages and stages > loaded.stages:
        raise VqtkError(f"--stages {stages}: this model has {loaded.stages} stages.")
    if stages:
        require_stepwise(loaded)
    if stl:
        check_meshes(loaded.data.kind)
    unkept: list[str] = []
    facts: dict[str, Any] = {"count": count, "seed": seed, "stages": stages or loaded.stages}
    name = f"samples_{stages}_stages" if stages else "samples"
    codes = random_codes(loaded, count=count, seed=seed, stages=stages)
    if prior is PriorName.markov:
        fitted = _fitted(opened, items=prior_items, unkept=unkept.append)
        codes = _drawn(fitted, count=count, seed=seed).to(codes)[:, :stages]
        facts, name = {**facts, "prior": {"name": "markov", **fitted.facts()}}, f"{name}_markov"
    facts["codes"] = codes.tolist()
    if stl:
        facts |= _write_meshes(loaded, codes, stl)
    sheet = _sheet(opened, codes, columns=columns)
    write_sheet(sheet, opened, name=name, output=output, show=show, json=json, facts=facts)
    if not json:
        for line in _lines(facts, stl):
            print(line)
    say_unkept(unkept)


def _sheet(opened: Opened, codes: Tensor, *, columns: int) -> Sheet:
    """Return the samples; those of points over as many test items."""
    from vqtk.render.pictures import decoded, form

    over = test_items(opened, None, len(codes))[0] if form(opened.model.data) == "points" else None
    return decoded(opened.model, codes, columns=columns, over=over)


def _fitted(opened: Opened, *, items: int | None, unkept: Callable[[str], object]) -> Fitted:
    """Return the prior that is kept for a model, or fit it, telling the user that it takes a while."""
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
        print(f"Encoding {train:,} training and {test:,} test items, once; kept in {place}.", file=sys.stderr)
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
    from vqtk.train.execution import generator

    return fitted.prior.sample(count, generator(seed, "sample", "markov"))


def _write_meshes(model: Model, codes: Tensor, folder: Path) -> dict[str, list[Any]]:
    from vqtk.render.pictures import shown_as
    from vqtk.render.voxels import write_meshes

    written, empty = write_meshes(shown_as(model, codes), folder)
    return {"meshes": [str(path) for path in written], "empty": empty}


def _lines(facts: dict[str, Any], stl: Path | None) -> list[str]:
    """Return what there is to say of the prior and of the meshes."""
    lines = []
    if "prior" in facts:
        prior = facts["prior"]
        bits = prior["nats"] / log(2)
        lines.append(
            f"Prior: {prior['nats']:.2f} nats ({bits:.2f} bits) a code, mean of {prior['test_items']:,} test items. "
            f"Fitted on {prior['items']:,} training items from {prior['source']}. "
            f"Uniform: {prior['uniform_nats']:.2f} nats."
        )
    if stl:
        count, empty = len(facts["meshes"]), ", ".join(map(str, facts["empty"]))
        skipped = f"; skipped as empty: sample {empty}" if empty else ""
        lines.append(f"{stl}: {count} mesh{'' if count == 1 else 'es'}{skipped}")
    return lines
