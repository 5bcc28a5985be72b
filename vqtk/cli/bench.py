"""`vqtk bench`: the core's speed and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vqtk.cli.options import Device, Json, Overrides, Plugins, RecipePath

if TYPE_CHECKING:
    from vqtk.evaluate.bench import Benchmark
    from vqtk.evaluate.profile import Profile


def bench_command(
    recipe: RecipePath,
    overrides: Overrides = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each side is timed, after one warm-up.")] = 7,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples a batch; the recipe's by default.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Show where an update's time goes instead.")] = False,
    device: Device = "auto",
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Time an update, encoding and decoding against the plainest implementation: interleaved, medians.

    The recipe's own settings are measured: compare them by overrides such as train.compile=inductor or
    train.precision=bfloat16.
    """
    from vqtk.cli.options import print_json
    from vqtk.evaluate.bench import bench as compare
    from vqtk.evaluate.profile import profile_update
    from vqtk.recipe.recipe import load_recipe
    from vqtk.train.execution import choose_device

    loaded, chosen = load_recipe(recipe, overrides or []), choose_device(device)
    if profile:
        profiled = profile_update(loaded, batch=batch or loaded.batch, device=chosen)
        print_json(profiled.to_json()) if json else _print_profile(profiled)
        return
    found = compare(loaded, rounds=rounds, batch=batch or loaded.batch, device=chosen)
    print_json(found.to_json()) if json else _print(found)


def _print(found: Benchmark) -> None:
    said = ", ".join(f"{key} {value}" for key, value in found.execution.items())
    print(f"{found.device}, {found.threads} threads, batches of {found.batch}; the recipe computes with {said}.")
    computed = any(one.computed is not None for one in found.comparisons)
    print(f"{'':8}{'textbook':>14}{'plain':>14}{'':8}{'as the recipe' if computed else '':>14}")
    for one in found.comparisons:
        line = f"{one.what:8}{one.textbook:11.1f} {one.unit}"
        for value in (one.plain, one.computed):
            if value is not None:
                line += f"{value:11.1f} {one.unit}{one.textbook / value:7.2f}×"
        print(line)
    if found.compile_s is not None:
        earned = "never" if found.earned_back is None else f"after {found.earned_back:,} updates"
        print(f"Compiling and capturing took {found.compile_s:.1f} s, earned back {earned}.")


def _print_profile(found: Profile) -> None:
    print(f"An update takes {found.update_ms:.1f} ms. Its time by kind of work:")
    for kind, share in found.shares.items():
        print(f"{share:7.1%}  {kind}")
    print("The slowest operations:")
    for name, milliseconds in found.slowest.items():
        print(f"{milliseconds:8.1f} ms  {name}")
    print(
        f"{found.flops / 1e9:,.1f} GFLOP of products at {found.flops_per_s / 1e9:,.0f} GFLOP/s: "
        f"{found.share_of_peak:.0%} of the {found.peak_flops_per_s / 1e9:,.0f} that one large product reaches here. "
        f"A large copy moves {found.peak_bytes_per_s / 1e9:,.1f} GB/s."
    )
