"""`vqtk sample`: decode random codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqtk.cli.options import Device, Json, ModelPath, Output, Show, load_model, write_sheet

if TYPE_CHECKING:
    from torch import Tensor


def sample(
    model: ModelPath,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many samples.")] = 64,
    columns: Annotated[int, typer.Option(min=1, help="How many pictures in a row.")] = 8,
    stages: Annotated[int | None, typer.Option(min=1, help="Decode only the first so many stages.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Which codes are drawn.")] = 0,
    stl: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write samples of voxels as meshes, too, into this folder.")
    ] = None,
    output: Output = None,
    show: Show = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Decode uniformly drawn codes into a grid of samples, or into lines of text."""
    from vqtk.errors import VqtkError
    from vqtk.report import pictures
    from vqtk.report.stl import check_meshes

    loaded, _ = load_model(model, device)
    if stages and stages > loaded.stages:
        raise VqtkError(f"--stages {stages}: this model has {loaded.stages} stages.")
    if stl:
        check_meshes(loaded.data.kind)
    sheet = pictures.samples(loaded, count=count, seed=seed, stages=stages, columns=columns)
    codes = pictures.random_codes(loaded, count=count, seed=seed, stages=stages)
    facts = {"count": count, "seed": seed, "stages": stages or loaded.stages, "codes": codes.tolist()}
    meshes = _write_meshes(loaded, codes, stl) if stl else {}
    name = f"samples_{stages}_stages" if stages else "samples"
    write_sheet(sheet, model, name=name, output=output, show=show, json=json, facts={**facts, **meshes})
    if stl and not json:
        print(
            f"{stl}: {len(meshes['meshes'])} mesh{'' if len(meshes['meshes']) == 1 else 'es'}{_told(meshes['empty'])}"
        )


def _write_meshes(model: Any, codes: Tensor, folder: Path) -> dict[str, list[Any]]:
    from vqtk.report.pictures import shown_as
    from vqtk.report.stl import write_meshes

    written, empty = write_meshes(shown_as(model, codes), folder)
    return {"meshes": [str(path) for path in written], "empty": empty}


def _told(empty: list[int]) -> str:
    return f"; skipped as empty: sample {', '.join(map(str, empty))}" if empty else ""
