"""`vqtk sample`: decode random codes."""

from __future__ import annotations

from typing import Annotated

import typer

from vqtk.cli.options import Device, Json, ModelPath, Output, Show, load_model, write_picture


def sample(
    model: ModelPath,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many samples.")] = 64,
    columns: Annotated[int, typer.Option(min=1, help="How many in a row.")] = 8,
    stages: Annotated[int | None, typer.Option(min=1, help="Decode only the first so many stages.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Which codes are drawn.")] = 0,
    output: Output = None,
    show: Show = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Decode uniformly drawn codes into a grid of samples."""
    from vqtk.errors import VqtkError
    from vqtk.report import pictures

    loaded, _ = load_model(model, device)
    if stages and stages > loaded.stages:
        raise VqtkError(f"--stages {stages}: this model has {loaded.stages} stages.")
    sheet = pictures.samples(loaded, count=count, seed=seed, stages=stages, columns=columns)
    kind = f"samples_{stages}_stages" if stages else "samples"
    write_picture(sheet, model, kind, output, show, json, count=count, seed=seed, stages=stages or loaded.stages)
