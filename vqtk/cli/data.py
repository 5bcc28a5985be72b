"""vqtk index and pack: folders of very many files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqtk.cli.options import Json

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of images or voxel grids.")]


def index_command(folder: Folder, json: Json = False) -> None:
    """List a folder of data again and store its index, e.g. after files in it were changed in place."""
    from vqtk.cli.options import print_json
    from vqtk.datasets import indexed_again

    counts = indexed_again(_checked(folder))
    if json:
        print_json({"folder": str(folder), **counts})
        return
    found = " and ".join(f"{count:,} {kind}" for kind, count in counts.items())
    print(f"{folder}: {found or 'no images or grids'}")


def pack_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of images.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="SHARDS", help="Folder to write, a new one.")] = ...,  # type: ignore[assignment]
    test: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Fraction to hold out, if no folders are splits.", metavar="SHARE")
    ] = 0.1,
    shard_mb: Annotated[int, typer.Option(min=1, help="Size of a shard, in MB.", metavar="MB")] = 256,
    json: Json = False,
) -> None:
    """Pack a folder of images into tar files for the data set `shards`, which reads them in long sequences."""
    from vqtk.cli.options import print_json
    from vqtk.datasets import pack_images

    packed = pack_images(_checked(folder), output, share=test, shard_bytes=shard_mb * 1_000_000)
    if json:
        print_json({"output": str(output), **vars(packed)})
        return
    for note in packed.notes:
        print(note)
    print(f"{output}: {packed.train:,} + {packed.test:,} images in {packed.shards:,} shards")


def _checked(folder: Path) -> Path:
    from vqtk.errors import DataError

    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder. Expected a folder of data.")
    return folder
