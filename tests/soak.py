"""Kills runs at random moments, resumes them to their end, and compares that with runs that nothing interrupted.

python -m tests.soak [--kills N] [--seed S] [--kinds a,b] [--lanes L] [--keep FOLDER]
python -m tests.soak --flips N --truncations N

Commands run in forks of this process, which has imported everything once; one in twenty of those that are killed runs
as a user's does, from nothing. A run is killed after a random time, before a random change of a file, or before a
random piece of an update. It exits with 1 if anything differed, was lost, doubled or left behind.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # Threads do not outlive a fork.

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import torch

from tests.soaking.comparing import Found, compare, leftovers
from tests.soaking.damage import damage
from tests.soaking.kinds import KINDS, write_kind
from tests.soaking.processes import LIMIT_S, Moment, end_of, kill, start
from vqtk.io.run_files import checkpoints
from vqtk.recipe.recipe import load_recipe
from vqtk.training.execution import _no_compiler

KILLS_A_JOB = 6
REMARKS_AT_MOST = 20
"""With so many the runs of a job are given up."""
EXEC_SHARE = 0.05
COLUMNS = ("runs", "kills", "resumes", "failures", "differences", "lost", "doubled", "leftovers")


class Run:
    """One run or study of a kind, in a folder of its own."""

    def __init__(self, kind: str, source: Path, folder: Path):
        self.kind, self.source, self.folder = kind, source, folder
        self.out, self.log = folder / "out", folder / "log"
        folder.mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        """Return what starts it, or goes on with it."""
        fixed = ["--device", "cpu"]
        if self.kind == "study":
            return ["ablate", str(self.source), "--retry", "--workers", "2", *fixed, "--out", str(self.out)]
        runs = self.runs()
        if runs and checkpoints(runs[-1]):
            return ["run", "--resume", str(runs[-1]), *fixed]
        return ["run", str(self.source), "--threads", "1", *fixed, "--out", str(self.out)]

    def runs(self) -> list[Path]:
        """Return the directories of its runs, oldest first; those of a study by name."""
        return sorted(path.parent for path in self.out.glob("*/**/manifest.json"))

    def ends(self) -> list[Path]:
        """Return the directories of what is compared: the newest run, or all of a study."""
        return self.runs() if self.kind == "study" else self.runs()[-1:]


def soak(
    kind: str,
    source: Path,
    folder: Path,
    *,
    whole: Path,
    took: float,
    kills: int,
    seed: str,
    execs: float = EXEC_SHARE,
) -> Found:
    """Kill so many runs, one after the other, and resume each to its end; compare it with the `whole` one.

    The uninterrupted run took `took` seconds; `execs` is the share of processes that are no forks.
    """
    drawn, found = random.Random(seed), Found(kind)
    it = Run(kind, source, folder / "0")
    while found.counts["kills"] < kills and len(found.remarks) < REMARKS_AT_MOST:
        moment, forked = _moment(drawn, kind, took, execs)
        found.counts["resumes"] += "--resume" in it.command() or (kind == "study" and it.out.exists())
        pid = start(it.command(), it.log, moment, forked=forked)
        code = end_of(pid, within=moment.seconds)
        if code is None:
            kill(pid, drawn.choice(["process", "group", "worker"]) if kind == "study" else "process")
            code = end_of(pid)
            found.counts["kills"] += kind == "study"
        found.counts["kills"] += code == -signal.SIGKILL and kind != "study"
        expected = (0, 2, -signal.SIGKILL) if kind == "study" else (0, -signal.SIGKILL)
        found.add("failures", code not in expected, f"exit code {code} before the end: {it.log}")
        if code == 0 and drawn.random() < 0.8:  # Now and then one that has ended is resumed, and killed at that.
            conclude(it, whole, found)
            it = Run(kind, source, folder / str(found.counts["runs"]))
    conclude(it, whole, found)
    return found


def conclude(it: Run, whole: Path, found: Found) -> None:
    """Let a run end, and compare it with the uninterrupted one."""
    code = end_of(start(it.command(), it.log))
    found.counts["runs"] += 1
    found.add("failures", code != 0, f"exit code {code} at the end: {it.log}")
    if code == 0:
        compare(it.ends(), Run(it.kind, it.source, whole).ends(), found)
        given_up = [run for run in it.runs() if run not in it.ends()]  # Killed before their first checkpoint.
        left = [path for path in leftovers(it.out) if not any(run in path.parents for run in given_up)]
        found.add("leftovers", len(left), f"left behind: {', '.join(map(str, left))}")


def _moment(drawn: random.Random, kind: str, took: float, execs: float) -> tuple[Moment, bool]:
    """Return when to kill, and whether the process is a fork."""
    if kind != "study":
        if drawn.random() < execs:
            return Moment(seconds=drawn.uniform(2, 6 + took)), False
        which = drawn.choice(["seconds", "writes", "writes", "pieces"])
        if which == "writes":
            return Moment(seconds=LIMIT_S, writes=drawn.randrange(120)), True
        if which == "pieces":
            return Moment(seconds=LIMIT_S, pieces=drawn.randrange(64 if kind == "accumulated" else 10)), True
    return Moment(seconds=drawn.uniform(0, took)), True


# ── all of it ────────────────────────────────────────────────────────────────────────────────────


def soaked(kinds: list[str], folder: Path, *, kills: int, seed: int, lanes: int) -> Iterator[Found]:
    """Yield what was found of each run that was killed, as they end; kills are shared out evenly."""
    sources = [write_kind(kind, folder / kind) for kind in kinds]
    preload(sources)
    with ProcessPoolExecutor(lanes, mp_context=get_context("fork")) as pool:
        wholes = dict(zip(kinds, pool.map(_whole, kinds, sources, [folder] * len(kinds)), strict=True))
        shares = {kind: kills // len(kinds) + (index < kills % len(kinds)) for index, kind in enumerate(kinds)}
        jobs = []
        for number in range(0, max(shares.values(), default=0), KILLS_A_JOB):
            for kind in kinds:
                here = min(KILLS_A_JOB, shares[kind] - number)
                if here > 0:
                    place, source, took = folder / kind / f"{number:04}", sources[kinds.index(kind)], wholes[kind]
                    jobs.append(pool.submit(_soak, kind, source, place, took, here, f"{seed} {kind} {number}"))
        for job in as_completed(jobs):
            yield job.result()


def preload(sources: list[Path]) -> None:
    """Import and look up what the forks would, each for itself."""
    torch.set_num_threads(1)
    _no_compiler("cpu")
    for source in sources:
        base = source.parent / "study_base.yaml"
        load_recipe(base if base.exists() else source)


def _whole(kind: str, source: Path, folder: Path) -> float:
    """Run a kind to its end; return how long that takes, once what is compiled is kept."""
    for again in ("first", "whole") if kind == "compiled" else ("whole",):
        it, began = Run(kind, source, folder / kind / again), time.monotonic()
        code = end_of(start(it.command(), it.log))
        if code != 0:
            raise RuntimeError(f"{kind}: the uninterrupted run ended with {code}: {it.log.read_text()}")
    return time.monotonic() - began


def _soak(kind: str, source: Path, place: Path, took: float, kills: int, seed: str) -> Found:
    return soak(kind, source, place, whole=place.parent / "whole", took=took, kills=kills, seed=seed)


def table(found: list[Found]) -> str:
    """Return a line for each kind, and one for all."""
    kinds = list(dict.fromkeys(one.kind for one in found))
    lines = [f"{'kind':<14}" + "".join(f"{name:>13}" for name in COLUMNS)]
    for kind in [*kinds, "all"]:
        own = [one for one in found if kind in (one.kind, "all")]
        lines.append(f"{kind:<14}" + "".join(f"{sum(o.counts[n] for o in own):>13}" for n in COLUMNS))
    return "\n".join(lines)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep:
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Kill runs, and compare their ends.")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="of " + ", ".join(KINDS))
    parser.add_argument("--lanes", type=int, default=2, help="runs at a time")
    parser.add_argument("--keep", type=Path, help="a folder to leave the runs in")
    parser.add_argument("--flips", type=int, default=0)
    parser.add_argument("--truncations", type=int, default=0)
    given = parser.parse_args(arguments)
    began, remarks = time.monotonic(), []
    with _folder(given.keep) as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled_code")
        if given.flips or given.truncations:
            remarks += damage(folder / "damage", flips=given.flips, truncations=given.truncations, seed=given.seed)
        if given.kills:
            found = []
            for one in soaked(given.kinds.split(","), folder, kills=given.kills, seed=given.seed, lanes=given.lanes):
                found.append(one)
                remarks += one.remarks
                print(*one.remarks, sep="\n", end="\n" if one.remarks else "", flush=True)
            print(table(found))
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if remarks else 0


if __name__ == "__main__":
    sys.exit(main())
