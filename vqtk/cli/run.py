"""vqtk run and bench: train a model; measure the speed of a recipe."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqtk.cli.options import DataDir, Device, Json, Overrides, Plugins, RecipePath

if TYPE_CHECKING:
    from vqtk.evaluate.bench import Benchmark
    from vqtk.evaluate.profile import Profile


def run_command(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="A recipe (.yaml).")] = None,
    overrides: Overrides = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="End after about this time, e.g. 90s, 5m or 1h30m, instead of the recipe's number of updates."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="WEIGHTS",
            help="Start a new run from trained weights: a run, weights file or bundle, hf://user/name, or a model "
            "that ships with vqtk.",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like",
            metavar="RUN",
            help="Start a new run with the recipe, plugins and data of a run, and any OVERRIDEs. Leave out RECIPE.",
        ),
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Resume a stopped run.")] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRACKER", help="Record the run in tensorboard, wandb or trackio (repeatable; see train.track)."
        ),
    ] = None,
    plugin: Plugins = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Parent folder of run directories.")] = Path("runs"),
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads per process.")] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Number of devices of this machine to train on, one process each.")
    ] = None,
    restarts: Annotated[
        int,
        typer.Option(
            "--max-restarts",
            min=0,
            help="If a process fails or is killed, restart all, up to this many times, from the newest checkpoint.",
        ),
    ] = 0,
) -> None:
    """Train the model that a recipe describes.

    Ctrl-C writes a checkpoint and stops the run. Resume it with --resume RUN.
    """
    began = time.monotonic()
    from vqtk.callbacks import duration
    from vqtk.errors import DivergenceError, LostError, RecipeError
    from vqtk.recipe.build import build_tracker
    from vqtk.runs.run import begun, carry_out, display_of, resumed
    from vqtk.training.distributed import follows, launch_id

    if recipe is None and resume is None and like is None:
        raise RecipeError(
            "vqtk run: expected a recipe, as recipes/mnist.yaml, or --resume or --like with a run directory."
        )
    if resume and (recipe or like or weights or budget is not None):
        given = {"--like": like, "--from": weights, "--budget": budget}
        extra = str(recipe or next(f"{option} {value}" for option, value in given.items() if value is not None))
        raise RecipeError(
            f"vqtk run --resume: the recipe of a run is fixed, so {extra!r} cannot be used. Give --resume alone, or "
            "start a new run."
        )
    changed = _overrides_like(str(recipe or ""), overrides or []) if like else overrides or []
    if ((devices or 1) > 1 or restarts) and not launch_id():
        raise typer.Exit(_launched(recipe, changed, devices or 1, restarts, device))
    if threads:
        import torch

        torch.set_num_threads(threads)
    display = display_of(shorter=f"vqtk run {recipe} --budget 30m" if recipe else None)
    if resume:
        callbacks = [display, *([] if follows() else map(build_tracker, track or []))]
        prepared = resumed(resume, callbacks=callbacks, device=device, data_dir=data_dir, keep_threads=threads is None)
    else:
        named = [f"train.track=[{', '.join(track)}]"] if track else []
        prepared = begun(
            like / "recipe.yaml" if like else recipe or Path(),
            [*changed, *named],
            callbacks=[display],
            budget=budget,
            since=began,
            weights=weights,
            like=like,
            device=device,
            data_dir=data_dir,
            out=out,
        )
    try:
        with prepared as (experiment, directory):
            finished, received = carry_out(experiment, directory, display)
    except (DivergenceError, LostError):
        if not follows():
            raise
        raise typer.Exit(2) from None  # The process that leads explains it.
    if finished and budget is not None:
        experiment.say(f"{budget}: ended after {duration(time.monotonic() - began)}.")
    if not finished:
        raise typer.Exit(128 + received[0] if received else 0)


def _launched(recipe: Path | None, overrides: list[str], devices: int, restarts: int, device: str) -> int:
    """Run this command in several processes; return its exit code. Raises: VqtkError, before any is started."""
    from vqtk.recipe.recipe import load_recipe
    from vqtk.training.distributed import Processes, launch
    from vqtk.training.execution import choose_device

    chosen = choose_device(device)
    if recipe:
        Processes(size=devices).check_divides(load_recipe(recipe, overrides).batch)
    return launch(devices, restarts=restarts, device=chosen)


def _overrides_like(first: str, others: list[str]) -> list[str]:
    """Return the overrides of --like, with which no recipe is given. Raises: RecipeError if the first is a recipe."""
    from vqtk.errors import RecipeError

    if first and "=" not in first:
        raise RecipeError(
            f"vqtk run --like: {first!r} is not an override, and the recipe is that of the run. Give overrides alone, "
            "as in train.optimizer.lr=3e-4."
        )
    return [*([first] if first else []), *others]


def bench_command(
    recipe: RecipePath,
    overrides: Overrides = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Number of measurements of each implementation, after a warm-up.")
    ] = 7,
    batch: Annotated[int | None, typer.Option(min=1, help="Batch size. Default: the recipe's.")] = None,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Instead, show how the time of an update divides among kinds of operations."),
    ] = False,
    device: Device = "auto",
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Compare the speed and memory of a recipe with a textbook implementation.

    Times an update, the training loop, encoding and decoding, and measures the memory of an update. The
    implementations alternate in one process. Prints medians. To time other settings, use overrides such as
    train.compile=inductor or train.precision=bfloat16.
    """
    from vqtk.cli.options import print_json
    from vqtk.evaluate.bench import bench as compare
    from vqtk.evaluate.profile import profile_update
    from vqtk.recipe.recipe import load_recipe
    from vqtk.training.execution import choose_device

    loaded, chosen = load_recipe(recipe, overrides or []), choose_device(device)
    if profile:
        profiled = profile_update(loaded, batch=batch or loaded.batch, device=chosen)
        print_json(profiled.to_json()) if json else _print_profile(profiled)
        return
    found = compare(loaded, rounds=rounds, batch=batch or loaded.batch, device=chosen)
    print_json(found.to_json()) if json else _print(found)


def _print(found: Benchmark) -> None:
    said = ", ".join(f"{key} {value}" for key, value in found.execution.items())
    print(f"{found.device}, {found.threads} threads, batches of {found.batch}; the recipe uses {said}.")
    computed = any(one.computed is not None for one in found.comparisons)
    print(f"{'':8}{'textbook':>14}{'plain':>14}{'':8}{'as the recipe' if computed else '':>14}")
    for one in found.comparisons:
        line = f"{one.what:8}{one.textbook:11.1f} {one.unit}"
        for value in (one.plain, one.computed):
            if value is not None:
                line += f"{value:11.1f} {one.unit}{one.textbook / value:7.2f}×"
        print(line)
    if found.compile_s is not None:
        earned = "never pays off" if found.earned_back is None else f"pays off after {found.earned_back:,} updates"
        print(f"Compiling and capturing took {found.compile_s:.1f} s and {earned}.")


def _print_profile(found: Profile) -> None:
    print(f"An update takes {found.update_ms:.1f} ms. Time by kind of operation:")
    for kind, share in found.shares.items():
        print(f"{share:7.1%}  {kind}")
    print("The slowest operations:")
    for name, milliseconds in found.slowest.items():
        print(f"{milliseconds:8.1f} ms  {name}")
    print(
        f"{found.flops / 1e9:,.1f} GFLOP of matrix products at {found.flops_per_s / 1e9:,.0f} GFLOP/s: "
        f"{found.share_of_peak:.0%} of the {found.peak_flops_per_s / 1e9:,.0f} that one large product reaches here. "
        f"A large copy reaches {found.peak_bytes_per_s / 1e9:,.1f} GB/s."
    )
