"""Files for codes and for data: vqtk compress and decompress, index and pack."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqtk.cli.options import DataDir, Device, Force, Json, Plugins, Searched

if TYPE_CHECKING:
    from vqtk.codec import Shares
    from vqtk.models import Model

ModelOption = Annotated[
    Path,
    typer.Option(
        "-m",
        "--model",
        metavar="MODEL",
        help="A run directory, weights file or bundle, hf://user/name, or a model that ships with vqtk, e.g. mnist.",
    ),
]


Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of images or voxel grids.")]


class CoderName(str, Enum):
    """How codes become bytes."""

    packed = "packed"
    uniform = "uniform"
    frequencies = "frequencies"
    markov = "markov"
    autoregressive = "autoregressive"


def compress_command(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES...", help="Images, folders of images, or .npy arrays of examples.")
    ],
    model: ModelOption = ...,  # type: ignore[assignment]
    output: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="File to write: .vqd.")] = ...,  # type: ignore[assignment]
    force: Force = False,
    prior: Annotated[
        CoderName,
        typer.Option(
            help="How codes become bytes: bit-packed (packed), or entropy-coded by a prior (all others; needs "
            "vqtk[codec]). frequencies and markov are fitted to codes of training examples; "
            "autoregressive is trained with the model."
        ),
    ] = CoderName.packed,
    prior_items: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --prior frequencies or markov: fit to N training examples. Default: 2,000.", metavar="N"
        ),
    ] = None,
    names: Annotated[bool, typer.Option("--names/--no-names", help="Store the names of the images.")] = True,
    search: Searched = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="KEY=VALUE",
            help="With --prior frequencies or markov: fit to other data. Override a data setting of the recipe, e.g. "
            "path=photos (repeatable). For a run, the prior is then stored in RUN/other_data.",
        ),
    ] = None,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Compress examples to a file of codes, which the same model decompresses.

    Only the codes are stored. Decompressing yields the model's reconstructions, in the shape of the examples that it
    was trained on.
    """
    from vqtk.cli.options import open_model, print_json, require_new, say_unkept, search_by, tracked
    from vqtk.cli.sampling import prior_for
    from vqtk.codec import compress
    from vqtk.coders import coder_of
    from vqtk.datasets import examples_in
    from vqtk.errors import VqtkError

    require_new(output, force=force)
    fits = prior in (CoderName.frequencies, CoderName.markov)
    if prior_items and not fits:
        raise VqtkError(
            "--prior-items sets how many examples a prior is fitted on. Give it with --prior frequencies or --prior "
            "markov."
        )
    opened, unkept = open_model(model, device, data_dir, data), list[str]()
    search_by(opened, search)
    found = examples_in(files, opened.model.data, crop=opened.recipe.data.settings.get("crop", "centre"))
    coder = coder_of(
        prior.value, opened.model, fitted=lambda: prior_for(opened, items=prior_items, unkept=unkept.append).prior
    )
    shares = compress(
        opened.model,
        (next(found.examples) for _ in tracked(range(found.count), "examples")),
        output,
        coder=coder,
        names=found.names if names else None,
        array=found.names is None,
        search=search,
    )
    facts = _sizes(shares, found.count, opened.model)
    if json:
        print_json({"file": str(output), "prior": prior.value, "search": search, **facts})
    else:
        print(f"{output}  {_in_words(facts)}")
    say_unkept(unkept)


def _sizes(shares: Shares, count: int, model: Model) -> dict[str, Any]:
    """Return the sizes of a file of codes as JSON values."""
    from math import prod

    bits = 8 * shares.total / count
    return {
        "examples": count,
        "bytes": shares.total,
        "header_bytes": shares.header,
        "prior_bytes": shares.tables,
        "names_bytes": shares.names,
        "payload_bytes": shares.payload,
        "stage_bytes": shares.stages,
        "bits_per_example": bits,
        "payload_bits_per_example": 8 * shares.payload / count,
        "bits_per_dim": bits / prod(model.data.shape),
    }


def _in_words(facts: dict[str, Any]) -> str:
    parts = {"codes": "payload_bytes", "header": "header_bytes", "prior": "prior_bytes", "names": "names_bytes"}
    shares = ", ".join(f"{name} {facts[key]:,}" for name, key in parts.items() if facts[key])
    return (
        f"{facts['examples']:,} examples in {facts['bytes']:,} bytes ({shares}): {facts['bits_per_example']:.2f} bits "
        f"per example, {facts['payload_bits_per_example']:.2f} of them codes; {facts['bits_per_dim']:.4f} bits/dim"
    )


def decompress_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file written by vqtk compress.")],
    model: ModelOption = ...,  # type: ignore[assignment]
    output: Annotated[
        Path, typer.Option("-o", "--out", metavar="FOLDER", help="A new folder, or an empty one, to write to.")
    ] = ...,  # type: ignore[assignment]
    force: Force = False,
    stages: Annotated[int | None, typer.Option(min=1, help="Decode only the first N stages.", metavar="N")] = None,
    device: Device = "auto",
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Decompress a file of codes to PNG images, or to decoded.npy if an array was compressed.

    A file that was cut is decoded as far as it holds whole stages.
    """
    from vqtk.cli.options import open_model, print_json, require_new, say_unkept
    from vqtk.codec import CodeFile, decompress
    from vqtk.datasets import write_examples

    require_new(output, force=force)
    loaded = open_model(model, device).model
    stored = CodeFile(file)
    facts = stored.facts
    decoded = decompress(loaded, file, stages=stages)
    count = stages or stored.whole
    write_examples(decoded, loaded.data, output, count=facts.count, array=facts.array, force=force)
    if json:
        print_json({"folder": str(output), "examples": facts.count, "stages": count, "of": facts.stages})
    else:
        print(f"{output}  {facts.count:,} examples, {count} of {facts.stages} stages")
    if stored.whole < facts.stages:
        say_unkept([f"{file}: the file was cut: {stored.whole} of its {facts.stages} stages are whole."])


def index_command(folder: Folder, json: Json = False) -> None:
    """List a folder of data again and store its index, e.g. after files in it were changed in place."""
    from vqtk.cli.options import print_json
    from vqtk.datasets import indexed_again

    counts = indexed_again(_existing(folder))
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

    packed = pack_images(_existing(folder), output, share=test, shard_bytes=shard_mb * 1_000_000)
    if json:
        print_json({"output": str(output), **vars(packed)})
        return
    for note in packed.notes:
        print(note)
    print(f"{output}: {packed.train:,} + {packed.test:,} images in {packed.shards:,} shards")


def _existing(folder: Path) -> Path:
    from vqtk.errors import DataError

    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder. Expected a folder of data.")
    return folder
