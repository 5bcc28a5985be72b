"""`python -m tests.fuzz recipes --count 200000 --seed 0`, and so overrides and studies; `files --minutes 30`."""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.campaign import campaign
from tests.fuzz.recipes import TRIES


def main() -> int:
    """Run a campaign; return 1 if an example ended as none may."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kind", choices=[*TRIES])
    parser.add_argument("--count", type=int, default=1000, help="examples to try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="the first of them, to try one again")
    given = parser.parse_args()
    tally = campaign(given.kind, TRIES[given.kind], seed=given.seed, start=given.start, count=given.count)
    print(tally.shown())
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
