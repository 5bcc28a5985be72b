"""Several processes against one: equal weights, killed workers, another number of processes, two hosts.

python -m tests.soaking.together [equal] [kills] [fewer] [hosts]

It takes some minutes of CPU time. `hosts` needs root on Linux: two network namespaces stand for two machines.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.images import write_images
from tests.ranks import ROOT, result, train_all, without_download
from tests.test_distributed import write_recipes
from vqtk.io.run_files import checkpoints
from vqtk.training.distributed import Processes

UPDATES = 50
CIFAR10 = """extends: {root}/recipes/cifar10.yaml
data: {{name: image_folder, path: images, size: 32, batch: 8}}
model:
  stages: 4
  options: 8
  segment: 2
  refiner:
    backbone:
      layers:
        - {{width: 16, kernel: 5, stride: 2, then: [relu, {{group: 2}}]}}
        - {{width: 16, kernel: 5, stride: 2, then: [relu, {{group: 2}}]}}
        - {{width: 32, kernel: 3, then: [condition]}}
    blocks: [{{name: bottleneck, groups: [2, 2, 4], repeat: 2}}]
    head:
      layers:
        - {{width: 16, upsample: 2, then: [condition, relu, {{group: 2}}]}}
        - {{width: 16, upsample: 2, then: [condition, relu, {{group: 2}}]}}
        - {{width: 16, kernel: 3}}
train:
  accumulate: 2
  optimizer: {optimizer}
"""
ADAM = "{name: adam, lr: 1e-3, betas: [0.9, 0.99], eps: 1e-5}"
RUN = ["train.evaluate_every=200", "train.evaluate_items=10", "train.final_items=20", "train.picture_items=2"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def environment() -> dict[str, str]:
    """One thread a process, and no data set but the digits that ship with the package."""
    found = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "VQTK_DATA": tempfile.gettempdir()}
    return {name: value for name, value in found.items() if name not in ("RANK", "WORLD_SIZE")}


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest difference of two sets of weights, absolute below 1 and relative above."""
    pairs = [(found[name].double(), value.double()) for name, value in expected.items()]
    return max(((one - other).abs() / other.abs().clamp_min(1)).max().item() for one, other in pairs if one.numel())


def weights(out: Path) -> dict[str, Tensor]:
    """Return the newest weights of the one run below a folder."""
    (run,) = [path.parent for path in out.glob("*/*/summary.json")]
    return load_file(checkpoints(run)[-1])


def vqtk(folder: Path, out: str, *arguments: str) -> list[str]:
    """Return a command that trains the recipe `mnist.yaml` of a folder."""
    return [sys.executable, "-m", "vqtk", "run", *arguments, *RUN, "--device", "cpu", "--out", str(folder / out)]


def done(command: Sequence[str], folder: Path) -> None:
    """Run a command to its end."""
    subprocess.run(command, cwd=folder, env=environment(), check=True, stdout=subprocess.DEVNULL)


def equal(folder: Path) -> None:
    """Train every kind by 1, 2 and 4 processes of torchrun, and print the largest differences of the weights."""
    # With Adam, rounding changes choices within three updates in float32, also by `micro_batch` in one process: weights
    # whose gradient is almost zero move as fast as the others, in a direction that rounding decides.
    (folder / "cifar10_float64.yaml").write_text(CIFAR10.format(root=ROOT, optimizer=ADAM))
    (folder / "cifar10_sgd.yaml").write_text(CIFAR10.format(root=ROOT, optimizer="{name: sgd, lr: 1e-3}"))
    write_images(folder / "images", *(f"{index:02}.png" for index in range(60)), size=(32, 32))
    train_all(folder, Processes(), UPDATES)
    for size in (2, 4):
        command = ["--standalone", "--nproc-per-node", str(size), "-m", "tests.ranks", str(folder), str(UPDATES)]
        done([*TORCHRUN, *command], folder)
    print(f"largest difference of weights after {UPDATES} updates\n{'kind':<16}{'2 processes':>14}{'4 processes':>14}")
    for recipe in sorted(folder.glob("*.yaml")):
        one = torch.load(result(recipe, 1, 0))["weights"]
        found = [difference(torch.load(result(recipe, size, size - 1))["weights"], one) for size in (2, 4)]
        print(f"{recipe.stem:<16}{found[0]:>14.1e}{found[1]:>14.1e}", flush=True)


def kills(folder: Path, *, updates: int = 1000, minutes: float = 0.05) -> None:
    """Kill workers three times under --max-restarts 3, and compare the end with that of an undisturbed run."""
    settings = ["mnist.yaml", f"train.updates={updates}", "--devices", "2"]
    done(vqtk(folder, "undisturbed", *settings), folder)
    often = [f"train.checkpoint_minutes={minutes}", "--max-restarts", "3"]
    command = vqtk(folder, "killed", *settings, *often)
    launcher = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
    killed: set[int] = set()
    for rank in (0, 1, 0):
        at = newer(folder / "killed", newest(folder / "killed") if killed else 0, launcher)
        ranks = workers(launcher.pid)
        os.kill(ranks[rank], signal.SIGKILL)
        print(f"killed process {rank} after update {at}", flush=True)
        killed |= set(ranks.values())
        while len(set(workers(launcher.pid).values()) - killed) < 2 and launcher.poll() is None:
            time.sleep(0.02)
    code = launcher.wait()
    same = difference(weights(folder / "killed"), weights(folder / "undisturbed"))
    print(f"killed 3 times: exit code {code}, largest difference from the undisturbed run {same:.1e}", flush=True)


def workers(launcher: int) -> dict[int, int]:
    """Return the process IDs of the ranks that a launcher has started."""
    found = {}
    for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        with suppress(OSError):
            given = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found |= {int(one.removeprefix(b"RANK=")): int(pid) for one in given if one.startswith(b"RANK=")}
    return found


def newest(out: Path) -> int:
    """Return the update of the newest checkpoint of the runs below a folder."""
    saved = out.glob("*/*/checkpoints/update_*.safetensors")
    return max((int(path.stem[-8:]) for path in saved), default=0)


def newer(out: Path, update: int, launcher: subprocess.Popen[bytes]) -> int:
    """Wait for a checkpoint after an update, and return its update."""
    while launcher.poll() is None:
        if newest(out) > update:
            return newest(out)
        time.sleep(0.02)
    raise RuntimeError(f"the run ended with {launcher.returncode} before it was killed")


def fewer(folder: Path) -> None:
    """Stop a run of 4 processes, go on with 2, and compare the end with that of one process."""
    settings = ["mnist.yaml", "train.updates=200"]
    done(vqtk(folder, "alone", *settings), folder)
    command = vqtk(folder, "four", *settings, "train.checkpoint_minutes=0.02", "--devices", "4")
    launcher = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
    newer(folder / "four", 0, launcher)
    launcher.terminate()
    code = launcher.wait()
    (run,) = (folder / "four" / "tiny").iterdir()
    at = checkpoints(run)[-1].stem
    resumed = [sys.executable, "-m", "vqtk", "run", "--resume", str(run), "--devices", "2", "--device", "cpu"]
    said = subprocess.run(resumed, cwd=folder, env=environment(), check=True, capture_output=True, text=True).stdout
    print(*[line for line in said.splitlines() if "goes on with" in line], sep="\n")
    found = difference(weights(folder / "four"), weights(folder / "alone"))
    print(f"4, stopped ({code}) at {at}, then 2: largest difference from one process {found:.1e}", flush=True)


def hosts(folder: Path) -> None:
    """Train by torchrun in two network namespaces, and compare with one process."""
    settings = ["mnist.yaml", "train.updates=50"]
    done(vqtk(folder, "host", *settings), folder)
    names, setup = ("vqtk-a", "vqtk-b"), "ip link add vqtk-a0 type veth peer name vqtk-b0"
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(setup.split(), check=True)
        for index, name in enumerate(names, 1):
            subprocess.run(["ip", "link", "set", f"{name}0", "netns", name], check=True)
            within = ["ip", "-n", name]
            subprocess.run([*within, "addr", "add", f"10.77.0.{index}/24", "dev", f"{name}0"], check=True)
            for device in (f"{name}0", "lo"):
                subprocess.run([*within, "link", "set", device, "up"], check=True)
        machines = [subprocess.Popen(**_on_host(index, name, folder, settings)) for index, name in enumerate(names)]
        codes = [machine.wait() for machine in machines]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)
    found = difference(weights(folder / "hosts"), weights(folder / "host"))
    print(f"two hosts: exit codes {codes}, largest difference from one process {found:.1e}", flush=True)


def _on_host(index: int, name: str, folder: Path, settings: Sequence[str]) -> dict[str, Any]:
    meeting = ["--nnodes", "2", "--node-rank", str(index), "--master-addr", "10.77.0.1", "--master-port", "29555"]
    command = [*TORCHRUN, *meeting, "--nproc-per-node", "1", *vqtk(folder, "hosts", *settings)[1:]]
    own = {**environment(), "GLOO_SOCKET_IFNAME": f"{name}0"}
    return {"args": ["ip", "netns", "exec", name, *command], "cwd": folder, "env": own}


def main(wanted: Sequence[str]) -> None:
    """Do what the command line names, by default all."""
    torch.set_num_threads(1)
    without_download()
    every: dict[str, Callable[[Path], None]] = {"equal": equal, "kills": kills, "fewer": fewer, "hosts": hosts}
    for name in wanted or every:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            write_recipes(folder)
            os.chdir(folder)
            every[name](folder)


if __name__ == "__main__":
    main(sys.argv[1:])
