"""Many examples in processes of their own, with their memory limited, and the time of each taken."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from random import Random
from types import FrameType
from typing import Any

import torch

from vqtk.errors import VqtkError

SLOWEST_S, HANGING_S = 5, 60
MOST_BYTES = 1 << 30
"""What one example may take, beside what the process has after its imports."""
EACH, WARM_UP = 500, 20
"""Examples that one process tries: memory that they do not give back is seen; and those that are tried first."""

Try = Callable[[Random], str]


@dataclass
class Tally:
    """How examples ended, those that must not end so by where, the slowest, and the largest growth of a process."""

    ended: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    slowest: list[tuple[float, str]] = field(default_factory=list)
    largest: tuple[int, str] = (0, "")

    def add(self, example: str, outcome: str, seconds: float) -> None:
        """Count one example."""
        kind, _, told = outcome.partition("\n")
        self.ended[kind] += 1
        if told:
            place = next((line for line in reversed(told.splitlines()) if line.startswith("  File")), kind)
            count, first, said = self.wrong.get(f"{kind} {place}", (0, example, told))
            self.wrong[f"{kind} {place}"] = count + 1, first, said
        self.slowest = sorted([*self.slowest, (seconds, example)], reverse=True)[:5]

    def shown(self) -> str:
        """Return it as lines."""
        total = sum(self.ended.values())
        lines = [f"{total:,} examples", *(f"{count:9,}  {kind}" for kind, count in self.ended.most_common())]
        lines += ["slowest", *(f"{seconds:8.2f}s  {example}" for seconds, example in self.slowest)]
        lines += [f"largest process: +{self.largest[0] / 2**20:.0f} MiB in {self.largest[1]}"]
        for kind, (count, example, told) in self.wrong.items():
            lines += ["", f"WRONG, {count} times, first {example}: {kind}", told[-1500:]]
        return "\n".join(lines)


def campaign(kind: str, tried: Try, *, seed: int, start: int, count: int) -> Tally:
    """Try examples start … start + count of a seed, and return how they ended."""
    torch.set_num_threads(1)  # A process that has threads cannot be forked and go on with them.
    for index in range(WARM_UP):  # What is imported and cached once is shared by all processes.
        one(tried, Random(f"{kind} {seed} {index}"))
    tally, began = Tally(), time.monotonic()
    try:
        for first in range(start, start + count, EACH):
            last = min(first + EACH, start + count)
            while first < last:
                first = _in_process(tally, kind, tried, seed, first, last)
            done = last - start
            print(f"{done:,} of {count:,}, {done / (time.monotonic() - began):.0f} a second", flush=True)
    except KeyboardInterrupt:
        print("interrupted")
    return tally


def _in_process(tally: Tally, kind: str, tried: Try, seed: int, first: int, last: int) -> int:
    """Try examples in a process of their own; return the one to go on with."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_try_all, args=(theirs, kind, tried, seed, first, last))
    child.start()
    theirs.close()
    try:
        return _gather(ours, tally, kind, seed, first)
    finally:
        child.kill()
        child.join()


def _gather(ours: Connection, tally: Tally, kind: str, seed: int, first: int) -> int:
    """Count what a process sends; return the example to go on with."""
    example = f"{kind} --seed {seed} --start"
    while True:
        try:
            sent: Any = ours.recv() if ours.poll(HANGING_S) else ("hung\nand was killed", HANGING_S)
        except EOFError:
            sent = ("died\nthe process ended without a word", 0.0)
        if isinstance(sent, int):
            tally.largest = max(tally.largest, (sent, f"{example} {first - EACH}"))
            return first
        tally.add(f"{example} {first}", *sent)
        first += 1
        if sent[0].startswith(("hung", "died")):
            return first


def _try_all(theirs: Connection, kind: str, tried: Try, seed: int, first: int, last: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    limit_memory()
    for index in range(first, last):
        theirs.send(one(tried, Random(f"{kind} {seed} {index}")))
    theirs.send(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def limit_memory() -> None:
    """Let this process have so much more memory than it has, and no more."""
    with open("/proc/self/statm") as file:
        has = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + MOST_BYTES, resource.RLIM_INFINITY))


class TooSlowError(BaseException):
    """An example took too long; no handler of exceptions takes it for one of its own."""


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlowError


def one(tried: Try, random: Random) -> tuple[str, float]:
    """Try one example; return how it ended, on one line if that is right, with a traceback below if not; and when."""
    began = time.perf_counter()
    signal.signal(signal.SIGALRM, _too_slow)
    signal.setitimer(signal.ITIMER_REAL, 4 * SLOWEST_S)  # Shared cores are slow; the processor's time is what counts.
    cpu = time.process_time()
    try:
        outcome = tried(random)
    except VqtkError as error:
        outcome = _refused(error)
    except BaseException as error:
        outcome = f"{type(error).__name__}\n{traceback.format_exc()[-3000:]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if time.process_time() - cpu > SLOWEST_S:
        outcome = f"slow\n{outcome} after {time.process_time() - cpu:.1f} s"
    return outcome, time.perf_counter() - began


def _refused(error: VqtkError) -> str:
    """Return how a refusal ended: by its class, if the message is one that a terminal can show."""
    message = str(error)
    if isinstance(error.__cause__ or error.__context__, MemoryError):
        return f"MemoryError, refused\n{message}"
    if not message or any(not c.isprintable() and c != "\n" for c in message) or message.count("\n") > 41:
        return f"message\n{ascii(message)[:3000]}"
    return type(error).__name__
