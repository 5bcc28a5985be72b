"""vqtk run and bench: train a model; measure the speed of a recipe."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from vqtk.cli.options import DataDir, Device, Json, Overrides, Plugins, RecipePath

if TYPE_CHECKING:
    from vqtk.cli.progress import PlainDisplay
    from vqtk.evaluate.bench import Benchmark
    from vqtk.evaluate.profile import Profile
    from vqtk.runs.directory import RunDirectory
    from vqtk.runs.experiment import Experiment


def run_command(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="A recipe (.yaml).")] = None,
    overrides: Overrides = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Train for about this time, e.g. 90s, 5m or 1h30m, instead of the recipe's number of updates."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--from", metavar="WEIGHTS", help="Start a new run from the weights of a run or a weights file."),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like",
            metavar="RUN",
            help="Repeat a run: its recipe, plugins and data, with these overrides. Give no RECIPE.",
        ),
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Resume a stopped run.")] = None,
    plugin: Plugins = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    out: Annotated[Path, typer.Option(help="Parent folder of run directories.")] = Path("runs"),
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Train the model that a recipe describes.

    Ctrl-C writes a checkpoint and stops the run. Resume it with --resume RUN.
    """
    from vqtk.cli.progress import make_display
    from vqtk.errors import RecipeError
    from vqtk.files import RUN, locked

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
    if threads:
        import torch

        torch.set_num_threads(threads)
    watcher = make_display(shorter=f"vqtk run {recipe} --budget 30m" if recipe else None)
    with ExitStack() as held:
        if resume:
            experiment, directory = _resumed(resume, device, data_dir, watcher, held, keep_threads=threads is None)
        else:
            source = like / "recipe.yaml" if like else recipe or Path()
            experiment, directory = _started(
                source, changed, budget, device, data_dir, out, watcher, weights, like=like
            )
            held.enter_context(locked(directory.path / RUN, what=f"The run {directory.path}"))
        _train(experiment, directory, watcher)


def _overrides_like(first: str, others: list[str]) -> list[str]:
    """Return the overrides of --like, with which no recipe is given. Raises: RecipeError if the first is a recipe."""
    from vqtk.errors import RecipeError

    if first and "=" not in first:
        raise RecipeError(
            f"vqtk run --like: {first!r} is not an override, and the recipe is that of the run. Give overrides alone, "
            "as in train.optimizer.lr=3e-4."
        )
    return [*([first] if first else []), *others]


def _started(
    path: Path,
    overrides: list[str],
    budget: str | None,
    device: str,
    data_dir: Path | None,
    out: Path,
    watcher: PlainDisplay,
    weights: Path | None,
    *,
    like: Path | None,
) -> tuple[Experiment, RunDirectory]:
    from vqtk.datasets import data_root
    from vqtk.io.weights import weights_of
    from vqtk.recipe.build import build_dataset, unchanged
    from vqtk.recipe.recipe import load_recipe
    from vqtk.runs.data import data_like
    from vqtk.runs.directory import RunDirectory
    from vqtk.runs.experiment import Experiment
    from vqtk.runs.start import begin_with, seconds, updates_within
    from vqtk.train.execution import choose_device

    begun = weights_of(weights) if weights else None
    model = RunDirectory.to_repeat(like) if like else None
    recipe = load_recipe(path, overrides)
    expected_s = None if budget is None else seconds(budget)
    root = data_root(data_dir, of=build_dataset(recipe))
    splits, place = data_like(recipe, model, data_dir=data_dir, say=watcher.on_message) if model else (None, None)
    where = {"data_root": root, "place": place, "device": choose_device(device), "callbacks": [watcher]}
    experiment = Experiment.of(recipe, splits=splits, expected_s=expected_s, **where)  # type: ignore[arg-type]
    facts: dict[str, object] = {}
    for told in unchanged(recipe):
        watcher.on_message(f"warning: {told}")
    if budget is not None:
        updates = updates_within(experiment, budget)
        recipe = load_recipe(path, [*overrides, f"train.updates={updates}"])
        experiment = Experiment.of(recipe, splits=experiment.splits, **where)  # type: ignore[arg-type]
        facts = {"budget": budget, "updates_within_budget": updates}
    if model:
        facts["like"] = {**model.identity(), "overrides": overrides}
    if begun:
        facts["from"] = begin_with(experiment, begun)
    return experiment, RunDirectory.create(out, recipe, {**experiment.manifest(), **facts})


def _resumed(
    path: Path, device: str, data_dir: Path | None, watcher: PlainDisplay, held: ExitStack, *, keep_threads: bool
) -> tuple[Experiment, RunDirectory]:
    import torch

    from vqtk.files import RUN, locked
    from vqtk.runs.data import own_splits
    from vqtk.runs.directory import RunDirectory
    from vqtk.runs.experiment import Experiment, go_on
    from vqtk.train.execution import choose_device

    directory, recipe = RunDirectory.open(path)
    held.enter_context(locked(path / RUN, what=f"The run {path}"))
    recorded = directory.manifest().get("threads")
    if keep_threads and isinstance(recorded, int) and recorded > 0:
        torch.set_num_threads(recorded)
    chosen = choose_device(device)
    splits = own_splits(recipe, directory, data_dir=data_dir, say=watcher.on_message)
    experiment = Experiment.of(
        recipe,
        data_root=path,
        device=chosen,
        callbacks=[watcher],
        splits=splits,
        recorded=directory.manifest(),
    )
    go_on(experiment, directory)
    return experiment, directory


def _train(experiment: Experiment, directory: RunDirectory, watcher: PlainDisplay) -> None:
    from vqtk.runs.experiment import run_experiment as run_experiment

    experiment.say(f"Run directory: {directory.path}")
    with watcher, stopping_on_signals(watcher) as received:
        finished = run_experiment(experiment, directory)
    if finished:
        experiment.say(f"Done: {directory.path}\nLook at it: {directory.path / 'report.html'}")
    else:
        done = experiment.trainer.done
        experiment.say(f"Stopped after update {done}, with a checkpoint. Resume: vqtk run --resume {directory.path}")
        raise typer.Exit(128 + received[0] if received else 0)


class Stoppable(Protocol):
    """A task that ends once `stop` is set."""

    stop: bool


STOPPING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
]
"""Signals that stop a run with a checkpoint: Ctrl-C, and what schedulers and closing terminals send."""


@contextmanager
def stopping_on_signals(target: Stoppable) -> Iterator[list[int]]:
    """Set `stop` at the first signal and interrupt at the second; yield the signal numbers received."""
    received: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        target.stop = True

    before = {number: signal.signal(number, ask) for number in STOPPING}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
