"""The executor that trains the runs of a study as jobs of Slurm, and what such a job does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import doc
from pydantic import StringConstraints

from vqtk.errors import VqtkError
from vqtk.files import RUN, is_locked, write_text
from vqtk.nn.types import Count, Positive, Whole
from vqtk.process import STOPPING
from vqtk.study.executors import Local
from vqtk.study.state import SETTLED, STOP, Event, Settings, read_state, record_failure

STATE_POLL_S, QUEUE_POLL_S = 1.0, 10.0
"""How often the states of runs are read, and how often Slurm is asked for its queue."""
JOBS = "slurm"
"""The folder of a study that holds the scripts and outputs of its jobs."""
_UNITS = {"m": 1, "h": 60, "d": 1440}
_ABSENT = 2
"""How often in turn a job must be missing from the queue: on a network file system, states arrive late."""

Minutes = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,3}[mhd]$"), doc("a duration such as 30m, 4h or 2d")]


@dataclass(frozen=True, kw_only=True)
class SlurmSettings:
    """How runs are trained as jobs of Slurm.

    Arguments:
        time: the limit of a job. A job that needs longer is requeued, and its runs resume.
        per_job: runs that a job trains side by side, on one node.
        gpus: GPUs of a job, which its runs share.
        mem: memory of a job in GB; None for the partition's default.
        partition, account, qos, constraint: as sbatch takes them.
        warn: seconds before the limit at which a job writes its checkpoints.
        setup: lines of shell that each job runs first, such as `module load cuda`.
        sbatch: further options of sbatch, by their long names.
    """

    time: Minutes = "4h"
    per_job: Count = 1
    gpus: Whole = 0
    mem: Positive | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    warn: Count = 120
    setup: list[str] | None = None
    sbatch: dict[str, str | int | bool] | None = None


class Slurm:
    """An executor that submits an array of jobs and follows the states of their runs.

    Jobs outlive this process. If it is started again, runs whose jobs are still in the queue are followed on.

    Raises: VqtkError if submitit or Slurm is missing.
    """

    def __init__(self, settings: Settings, cluster: SlurmSettings, folder: Path, *, workers: int | None = None):
        self.submitit = _submitit()
        data_dir = settings.data_dir and settings.data_dir.resolve()
        self.settings = replace(settings, data_dir=data_dir, threads=settings.threads or 1)
        self.cluster, self.folder, self.name = cluster, folder.resolve(), f"vqtk-{folder.name}"
        self.most, self.workers = workers, workers or 1
        self._waiting: list[Path] = []
        self._jobs: dict[Path, str] = {}
        self._begun: set[Path] = set()
        self._absent: dict[Path, int] = {}
        self._stopping = False

    def submit(self, run: Path) -> None:
        """Have a job train a run, unless one in the queue does."""
        self._waiting.append(run)

    def events(self) -> Iterator[Event | None]:
        """Yield the runs that start and end, and None every moment."""
        self._place()
        looked = time.monotonic()
        while self._jobs:
            for run in list(self._jobs):
                state = read_state(run).state
                if state == "running" and run not in self._begun:
                    self._begun.add(run)
                    yield Event(run, "begun", f"slurm {self._jobs[run]}")
                elif state in SETTLED:
                    yield self._ended(run)
            if time.monotonic() - looked >= QUEUE_POLL_S:
                yield from self._gone()
                looked = time.monotonic()
            yield None
            time.sleep(STATE_POLL_S)

    def stop(self) -> None:
        """Start no other run."""
        self._stopping = True
        self._cancel("--state=PENDING")

    def kill(self) -> None:
        """End the jobs at once."""
        self._cancel()

    def _place(self) -> None:
        """Find the jobs of the waiting runs in the queue, and submit jobs for the others."""
        record, queue, size = self.folder / JOBS / "jobs.json", _queue(self.name), self.cluster.per_job
        if queue is None:
            raise VqtkError("--executor slurm: squeue does not answer. Try again when `squeue --me` does.")
        known = _read_jobs(record)
        self._jobs.update({run: known[_key(run)] for run in self._waiting if known.get(_key(run)) in queue})
        alone = [run for run in self._waiting if run not in self._jobs]
        packs = [alone[at : at + size] for at in range(0, len(alone), size)]
        for pack, job in zip(packs, self._submitted(packs), strict=True):
            self._jobs.update(dict.fromkeys(pack, job))
        if packs:
            known.update({_key(run): job for run, job in self._jobs.items()})
            write_text(record, json.dumps(known, indent=2) + "\n")
        self._waiting.clear()

    def _submitted(self, packs: Sequence[Sequence[Path]]) -> list[str]:
        """Submit an array of jobs, one for each pack of runs, and return their ids."""
        if not packs:
            return []
        try:
            executor = self.submitit.SlurmExecutor(folder=self.folder / JOBS)
            executor.update_parameters(**self._parameters(len(packs)))
            with executor.batch():
                jobs = [executor.submit(Pack(tuple(run.resolve() for run in pack), self.settings)) for pack in packs]
        except (RuntimeError, self.submitit.core.utils.FailedJobError, OSError) as error:
            reason = " ".join(str(error).split())
            raise VqtkError(f"--executor slurm: the jobs cannot be submitted: {reason[-400:]}") from None
        return [job.job_id for job in jobs]

    def _parameters(self, jobs: int) -> dict[str, Any]:
        """Return the parameters of an array as submitit takes them."""
        cluster, at_once = self.cluster, -(-self.most // self.cluster.per_job) if self.most else jobs
        cpus = (self.settings.threads or 1) * cluster.per_job
        named = {"partition": cluster.partition, "account": cluster.account, "qos": cluster.qos}
        given = {**named, "constraint": cluster.constraint, "gpus_per_node": cluster.gpus or None}
        return {
            "job_name": self.name,
            "time": int(cluster.time[:-1]) * _UNITS[cluster.time[-1]],
            "nodes": 1,
            "ntasks_per_node": 1,
            "cpus_per_task": cpus,
            "srun_args": [f"--cpus-per-task={cpus}"],  # Since version 22.05, srun does not take it from sbatch.
            "array_parallelism": at_once,
            "stderr_to_stdout": True,
            "setup": cluster.setup,
            "additional_parameters": {"requeue": True, "signal": f"USR1@{cluster.warn}", **(cluster.sbatch or {})},
            **({"mem": f"{round(cluster.mem * 1024)}M"} if cluster.mem else {}),
            **{key: value for key, value in given.items() if value is not None},
        }

    def _ended(self, run: Path, error: str | None = None) -> Event:
        self._begun.discard(run)
        return Event(run, "ended", f"slurm {self._jobs.pop(run)}", error)

    def _gone(self) -> Iterator[Event]:
        """Yield the end of the runs whose jobs have left the queue without recording how they ended."""
        queue = _queue(self.name)
        if queue is None:  # Slurm does not answer.
            return
        for run, job in list(self._jobs.items()):
            goes_on = job in queue or is_locked(run / RUN)
            self._absent[run] = 0 if goes_on else self._absent.get(run, 0) + 1
            if self._absent[run] >= _ABSENT:
                lost = (
                    f"its Slurm job {job} ended. See {self.folder / JOBS}. With --retry it resumes from its checkpoint."
                )
                yield self._ended(run, None if self._stopping else lost)

    def _cancel(self, *options: str) -> None:
        jobs = sorted(set(self._jobs.values()))
        if jobs:
            subprocess.run(["scancel", *options, *jobs], check=False)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise VqtkError("--executor slurm needs submitit, which is not installed: pip install 'vqtk[slurm]'.") from None
    if not shutil.which("sbatch") or not shutil.which("squeue"):
        raise VqtkError(
            "--executor slurm: there is no sbatch on this machine. Start the study on a node of the cluster."
        )
    return submitit


def _read_jobs(record: Path) -> dict[str, str]:
    """Return the jobs that runs were submitted in before, by `_key`; {} if there is no such record."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _key(run: Path) -> str:
    return f"{run.parent.name}/{run.name}"


def _queue(name: str) -> dict[str, str] | None:
    """Return the states of this user's jobs of a name that have not ended, by id; None if Slurm does not answer."""
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i %T %j"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    rows = (line.split(maxsplit=2) for line in listed.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 3 and row[2] == name}


# ── within a job ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Pack:
    """What a job does: it trains runs side by side.

    When Slurm warns of the job's end, by SIGUSR1 before its time limit or by SIGTERM as it is preempted, the runs write
    checkpoints and the job is requeued. After the loss of a node, Slurm requeues it.
    """

    runs: tuple[Path, ...]
    settings: Settings

    def __call__(self) -> None:
        """Train the runs that have not ended before."""
        warned: list[int] = []
        for number in {*STOPPING} - {signal.SIGINT}:
            signal.signal(number, lambda number, frame: warned.append(number))
        job, left = _job(), self._left()
        devices = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
        local = Local(self.settings, workers=len(left) or 1, devices=devices, name=f"slurm {job}")
        for run in left:
            local.submit(run)
        interrupted = False
        for event in local.events():
            if warned and not interrupted:
                interrupted = True
                local.stop()
                local.interrupt()
            if event and not warned:
                record_failure(event)
        if warned and self._left() and not (self.runs[0].parent.parent / STOP).exists():
            _requeue(job)

    def _left(self) -> list[Path]:
        return [run for run in self.runs if read_state(run).state not in SETTLED]


def _job() -> str:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _requeue(job: str) -> None:
    """Requeue this job if it is still to run: Slurm itself requeues a preempted one, and a cancelled one has ended."""
    shown = subprocess.run(["squeue", "--noheader", "--format=%T", f"--jobs={job}"], capture_output=True, text=True)
    if shown.stdout.strip() == "RUNNING":
        print(f"The job {job} is requeued.", flush=True)
        subprocess.run(["scontrol", "requeue", job], check=False)
