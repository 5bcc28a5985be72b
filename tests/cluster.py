"""What only a cluster can show: a study of 4 variants × 3 seeds loses a node, and ends as the local executor's does.

    python -m tests.cluster slurm ray local --out FOLDER

`slurm` needs Debian's packages slurm-wlm and munge, root, and submitit; it starts a cluster of two nodes on this
machine, each in its own process and host name space. `ray` needs Ray, and starts two nodes. Nothing is installed. The
studies stay in FOLDER; one that is done there is not run again. The exit code is the number of parts that failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.test_ablate import figures

STUDY = """\
name: lost
base: {recipes}/toy2d.yaml
plugins: [slow.py]
overrides: [data.items=500, data.test=50, data.batch=16, train.evaluate_items=20, train.picture_items=8,
            train.evaluate_every=100, train.checkpoint_minutes=0.07, "train.callbacks=[slow]"]
axes:
  condition: {{scale: [], film: ["model.condition=film"]}}
  model.stages: [2, 4]
seeds: [0, 1, 2]
metrics: [final]
equal: {{updates: 150}}
executors:
  slurm: {{time: 20m, per_job: 2}}
"""
SLOW = """\
import time

from vqtk.callbacks import Callback, Progress
from vqtk.registry import callbacks


@callbacks.register("slow")
class Slow(Callback):
    \"\"\"Sleeps after each update: a run takes long, but no CPU.\"\"\"

    def on_update(self, progress: Progress) -> None:
        time.sleep(0.1)
"""
CONF = """\
ClusterName=vqtk
SlurmctldHost=localhost
SlurmctldPort=16817
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool-%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd-%n.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdTimeout=20
KillWait=30
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=n1 NodeAddr=127.0.0.1 Port=16821 CPUs=4
NodeName=n2 NodeHostname=n2 NodeAddr=127.0.0.1 Port=16822 CPUs=4
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
LONGEST_S = 3000.0


def main() -> int:
    """Run the parts that the command line names; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=["slurm", "ray", "local"])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    out, failed = given.out.resolve(), 0
    out.mkdir(parents=True, exist_ok=True)
    recipes = Path(__file__).resolve().parent.parent / "recipes"
    (out / "study.yaml").write_text(STUDY.format(recipes=recipes))
    (out / "slow.py").write_text(SLOW)
    run(out, "local", "--workers", "2")
    parts: dict[str, Callable[[Path], Any]] = {"slurm": with_slurm, "ray": with_ray, "local": lambda out: None}
    for part in given.parts:
        started = time.monotonic()
        try:
            parts[part](out)
            print(f"{part} ({time.monotonic() - started:.0f} s): {compared(out, part)}", flush=True)
        except Exception:
            failed += 1
            traceback.print_exc()
    return failed


def started(out: Path, name: str, *options: str) -> subprocess.Popen[bytes]:
    """Start the study in `out/NAME`."""
    command = [sys.executable, "-m", "vqtk", "ablate", str(out / "study.yaml"), "--device", "cpu", "--threads", "1"]
    return subprocess.Popen([*command, "--executor", name, "--out", str(out / name), *options], start_new_session=True)


def run(out: Path, name: str, *options: str) -> None:
    """Run the study in `out/NAME` to its end."""
    if started(out, name, *options).wait(timeout=LONGEST_S):
        raise RuntimeError(f"the study failed with the executor {name}")


def cells(out: Path, name: str) -> dict[Path, dict[str, Any]]:
    """The states of the runs that were started."""
    return {path.parent: json.loads(path.read_text()) for path in (out / name / "lost").glob("*/seed*/cell.json")}


def until(happened: Callable[[], Any], what: str) -> Any:
    """Wait until something is true, and return it."""
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        if found := happened():
            print(f"{time.strftime('%X')} {what}: {found}", flush=True)
            return found
        time.sleep(0.5)
    raise TimeoutError(what)


def saved(out: Path, name: str, host: str | None = None) -> list[str]:
    """The runs in progress, on a host, that have a checkpoint."""
    going = [
        run for run, cell in cells(out, name).items() if cell["state"] == "running" and host in (None, cell["host"])
    ]
    return [f"{run.parent.name}/{run.name}" for run in going if list(run.glob("checkpoints/*.safetensors"))]


def compared(out: Path, name: str) -> str:
    """Compare the weights and metrics of a study's runs with those of the local executor's, bit for bit."""
    study = out / "local" / "lost"
    runs = [study / cell["path"] for cell in json.loads((study / "study.json").read_text())["cells"]]
    tries, hosts = 0, set()
    assert len(runs) == 12
    for run in runs:
        other = out / name / run.relative_to(out / "local")
        assert figures(run) == figures(other), other
        weights, others = (load_file(sorted(one.glob("checkpoints/*.safetensors"))[-1]) for one in (run, other))
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[key], others[key]) for key in weights), other
        cell = json.loads((other / "cell.json").read_text())
        tries += cell["attempts"]
        hosts.add(cell["host"])
    return f"12 runs in {tries} attempts, ended on {', '.join(sorted(hosts))}; weights and metrics are equal."


# ── Slurm ────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def slurm_cluster(home: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Two nodes of Slurm on this machine, by name; a node that is killed takes all its processes with it."""
    (home / "state").mkdir(parents=True)
    (home / "slurm.conf").write_text(CONF.format(home=home))
    (home / "munge.key").write_bytes(os.urandom(1024))
    (home / "munge.key").chmod(0o600)
    os.environ["SLURM_CONF"] = str(home / "slurm.conf")
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    munged = ["munged", "--foreground", "--force", *(f"--{key}={home}/munge.{end}" for key, end in files.items())]
    apart = ["unshare", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child", "sh", "-c"]
    with (home / "output").open("wb") as log:
        own = [subprocess.Popen(munged, stdout=log, stderr=log)]
        until((home / "munge.socket").exists, "munged runs")
        own.append(subprocess.Popen(["slurmctld", "-D"], stdout=log, stderr=log))
        nodes = {
            name: subprocess.Popen([*apart, f"hostname {name}; exec slurmd -D -N {name}"], stdout=log, stderr=log)
            for name in ("n1", "n2")
        }
        try:
            until(lambda: output("sinfo", "--noheader", "--format=%D %t").strip() == "2 idle", "two nodes are idle")
            yield nodes
        finally:
            for process in [*nodes.values(), *reversed(own)]:
                process.kill()
                process.wait()


def output(*command: str) -> str:
    """What a command prints; empty if it fails."""
    return subprocess.run(command, capture_output=True, text=True).stdout


def with_slurm(out: Path) -> None:
    """Kill a node, kill the study itself and start it again, and warn a job of its end."""
    with slurm_cluster(out / f"slurm-home-{os.getpid()}") as nodes:
        study = started(out, "slurm")
        until(lambda: saved(out, "slurm", "n1"), "runs on n1 have checkpoints")
        nodes["n1"].kill()
        print(output("squeue", "--array"), flush=True)
        os.killpg(study.pid, signal.SIGKILL)
        study.wait()
        study = started(out, "slurm")
        until(lambda: "n1" not in output("squeue", "--noheader", "--format=%N"), "the node's jobs are requeued")
        until(lambda: saved(out, "slurm", "n2"), "runs on n2 have checkpoints")
        jobs = output("squeue", "--array", "--noheader", "--states=RUNNING", "--format=%i").split()
        subprocess.Popen(["scancel", "--signal=USR1", jobs[0]])  # It repeats it, and fails once the job is requeued.
        until(lambda: "is requeued" in "".join(text.read_text() for text in (out / "slurm/lost/slurm").glob("*.out")),
              "a job that was warned is requeued")  # fmt: skip
        print(output("squeue", "--array", "--format=%i %T %r %S"), flush=True)
        if study.wait(timeout=LONGEST_S):
            raise RuntimeError("the study failed on Slurm")


# ── Ray ──────────────────────────────────────────────────────────────────────────────────────────


def with_ray(out: Path) -> None:
    """Remove a node of a cluster of two."""
    from ray.cluster_utils import Cluster

    each = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**each, "include_dashboard": False})
    node = cluster.add_node(**each)
    try:
        study = started(out, "ray", "--set", f"address={cluster.address}")
        until(lambda: len(saved(out, "ray")) == 4, "runs on both nodes have checkpoints")
        cluster.remove_node(node, allow_graceful=False)
        print(f"{socket.gethostname()}: a node is removed; running: {saved(out, 'ray')}", flush=True)
        if study.wait(timeout=LONGEST_S):
            raise RuntimeError("the study failed on Ray")
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    raise SystemExit(main())
