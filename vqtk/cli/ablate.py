"""vqtk ablate: train a study, and compare its runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqtk.cli.options import DataDir, Device, Plugins

if TYPE_CHECKING:
    import torch

    from vqtk.recipe.recipe import Recipe
    from vqtk.study.plan import CostMeasure, Plan
    from vqtk.study.state import Executor, State


def ablate_command(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY", help="A study (.yaml), or with --watch the study's folder.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the variants and their cost, without training.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Resume failed runs from their newest checkpoints.")] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Only show the progress of the study until it ends, wherever its runs are trained."
        ),
    ] = False,
    executor: Annotated[
        str,
        typer.Option(
            help="Where runs are trained: local (processes on this machine), slurm (Slurm jobs) or ray (a Ray cluster)."
        ),
    ] = "local",
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Override a setting of the executor, e.g. time=8h (repeatable)."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of runs to train in parallel. Default: on a cluster, as many as fit; on this machine, one per "
            "GPU, or one per two cores if there is no GPU.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="CPU threads per run. Default: an equal share of this machine's cores, 1 on a cluster."
        ),
    ] = None,
    plugin: Plugins = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Parent folder of studies.")] = Path("studies"),
) -> None:
    """Train every variant of a study with every seed, and compare the results.

    To resume a study, run the same command again.
    """
    from vqtk.errors import VqtkError
    from vqtk.files import locked, sweep
    from vqtk.runs.budget import step_s
    from vqtk.study.plan import plan as planned
    from vqtk.study.runner import check_executor, make_executor
    from vqtk.study.state import Settings
    from vqtk.study.study import load_study
    from vqtk.training.execution import choose_device

    if watch:
        if dry_run or retry:
            raise VqtkError("--watch only shows a study. Remove --dry-run and --retry, or remove --watch.")
        _watch(study, out)
        return
    check_executor(executor, given or ())
    checked = load_study(study, executors=[f"{executor}.{one}" for one in given or ()])
    on = choose_device(device if executor == "local" else "auto")  # A cluster's own devices are its workers' matter.
    folder = out / checked.name

    def measure(recipe: Recipe) -> float:
        return step_s(recipe, on)

    settings = Settings(device, data_dir, threads)
    made = make_executor("local" if dry_run else executor, settings, checked, folder, workers=workers)
    _share_cores(made)
    if dry_run:
        _print_costs(planned(checked, folder, measure), folder, on, made.workers, data_dir)
        return
    with locked(folder / "lock", what=f"The study {folder}"):
        sweep(folder)
        _run(planned(checked, folder, measure), folder, made, data_dir, measure, retry=retry)


def _watch(study: Path, out: Path) -> None:
    """Show how a study goes until it ends; Ctrl-C ends the showing alone."""
    from vqtk.cli.progress import watch_study
    from vqtk.compare.collect import STUDY
    from vqtk.errors import VqtkError
    from vqtk.study.study import load_study

    folder = study if study.is_dir() else out / load_study(study).name
    if not (folder / STUDY).is_file():
        raise VqtkError(f"{folder}: no study has been started here. Expected a folder with a {STUDY}; see --out.")
    watch_study(folder)


def _share_cores(executor: Executor) -> None:
    """Let this process measure with as many threads as a worker trains with."""
    import torch

    torch.set_num_threads(executor.settings.threads or 1)


def _run(
    plan: Plan, folder: Path, executor: Executor, data_dir: Path | None, measure: CostMeasure, *, retry: bool
) -> None:
    """Train the runs of a plan, and then those that follow from their results, until there are no more."""
    from vqtk.study.adaptive import extended
    from vqtk.study.plan import to_run
    from vqtk.study.state import SETTLED

    while not to_run(plan, folder, retry=retry) and (more := extended(plan, folder, measure)):
        plan = more  # A study that is resumed.
    while True:
        states = _train(plan, folder, executor, data_dir, retry=retry)
        ended = all(state.state in SETTLED for state in states)
        more = extended(plan, folder, measure) if ended else None
        if more is None:
            break
        plan, retry = more, False
    _conclude(plan, folder, states, data_dir)


def _train(plan: Plan, folder: Path, executor: Executor, data_dir: Path | None, *, retry: bool) -> list[State]:
    from dataclasses import replace

    from vqtk.cli.progress import make_board, shown_of
    from vqtk.process import stopping_on_signals
    from vqtk.study.plan import to_run, write_plan
    from vqtk.study.runner import read_data, run_study, try_out

    runs, left = plan.runs(), to_run(plan, folder, retry=retry)
    board = make_board(shown_of(plan, folder))
    board.say(f"{folder}: {len(runs)} runs, {len(left)} of them to train. {plan.equal.sentence()}")
    if left:
        names = {run.variant.name for run in left}
        new = replace(plan, variants=[one for one in plan.variants if one.name in names]) if plan.newest else plan
        for variant, tried, warnings in try_out(new):
            board.say(f"ok     {variant.name}  {tried.parameters:,} parameters  {tried.bits:g} bits")
            for warning in warnings:
                board.say(f"       warning: {warning}")
        if not plan.newest:
            read_data(plan, data_dir, board.say)
    write_plan(plan, folder)
    with board, stopping_on_signals(board):
        return run_study(plan, folder, executor, board, retry=retry)


def _conclude(plan: Plan, folder: Path, states: list[State], data_dir: Path | None) -> None:
    """Compare the runs that are done once all have ended, and report those that failed."""
    from vqtk.cli.compare import print_comparison
    from vqtk.compare.comparison import write_comparison
    from vqtk.errors import VqtkError
    from vqtk.study.runner import compute_references
    from vqtk.study.state import SETTLED

    failed = [state for state in states if state.state == "failed"]
    done = [state for state in states if state.state == "done"]
    left = sum(state.state not in SETTLED for state in states)
    if left:
        print(f"Stopped: {left} of {len(states)} runs are not done. Run the same command again to resume them.")
        raise typer.Exit(130)
    problems = []
    if failed:
        problems = [
            f"{len(failed)} of {len(states)} runs failed; --retry resumes them. The first error: {failed[0].error}"
        ]
    try:
        if done:
            compute_references(plan, folder, data_dir, print)
            print_comparison(write_comparison(folder))
            print(f"The report: {folder / 'report.html'}")
    except VqtkError as error:
        problems.append(f"The runs are not compared: {error}")
    if problems:
        raise VqtkError(f"{folder}: {' '.join(problems)}")


def _print_costs(plan: Plan, folder: Path, device: torch.device, workers: int, data_dir: Path | None) -> None:
    from rich.table import Column, Table

    from vqtk.callbacks import duration
    from vqtk.cli.compare import wide_console
    from vqtk.compare.statistics import LEAST
    from vqtk.recipe.build import data_missing
    from vqtk.study.plan import to_run
    from vqtk.study.runner import try_out, variant_cost

    seeds, total, warned = len(plan.study.seeds), 0.0, []
    columns = ("seeds", "parameters", "bits", "FLOPs per\nexample", "updates", "examples", "time\nper run")
    table = Table(
        Column("variant", overflow="fold", min_width=8), *(Column(name, no_wrap=True) for name in columns), box=None
    )
    for variant, _, warnings in try_out(plan):
        one = variant_cost(variant, device)
        total += seeds * one.seconds
        warned += warnings
        table.add_row(
            variant.name, str(seeds), f"{one.parameters:,}", f"{one.bits:g}", f"{one.flops:.3g}", f"{one.updates:,}",
            f"{one.examples:,}", duration(one.seconds),
        )  # fmt: skip
    console = wide_console()
    console.print(table)
    missing = dict.fromkeys(line for variant in plan.variants if (line := data_missing(variant.recipe, data_dir)))
    for line in [*(f"warning: {warning}" for warning in warned), *(f"data: {line}" for line in missing)]:
        console.print(line, markup=False, soft_wrap=True)
    console.print(
        f"{plan.equal.sentence()} {len(plan.runs())} runs, {workers} at a time: about {duration(total / workers)} of "
        "training on this machine, estimated from a few updates of each variant on synthetic examples. Starting, "
        "evaluating and drawing take extra time: most of it, if runs are short.",
        markup=False,
        soft_wrap=True,
    )
    done = len(plan.runs()) - len(to_run(plan, folder, retry=True))
    if done:
        console.print(f"{done} of them are done and will not run again.")
    study = plan.study
    if study.seeding:
        console.print(f"Then up to {study.seeding.most} seeds a variant, by the deviation over the first {seeds}.")
    if study.drawn and study.drawn.by == "optuna":
        console.print(f"Then {study.drawn.count} variants that optuna proposes, by the results before them.")
    if seeds < LEAST:
        console.print(f"With fewer than {LEAST} seeds, differences cannot be tested for significance.")
