"""`python -m tests.fuzz recipes --count 200000 --seed 0`, and so overrides and studies; `files --minutes 30`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Run a campaign; return 1 if an example ended as none may."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kind", choices=["recipes", "overrides", "studies", "files"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000, help="of recipes, overrides, studies: examples to try")
    parser.add_argument("--start", type=int, default=0, help="the first of them, to try one again")
    parser.add_argument("--minutes", type=float, default=1, help="of files: how long, all readers together")
    parser.add_argument("--readers", nargs="*", help="of files: which; all by default")
    parser.add_argument("--keep", type=Path, default=Path("fuzzed"), help="of files: where to keep what went wrong")
    given = parser.parse_args()
    if given.kind == "files":  # It instruments vqtk while it is imported, so nothing here may import it before.
        from tests.fuzz.files import READERS, fuzz_all

        names = given.readers or [*READERS]
        return 0 if fuzz_all(names, minutes=given.minutes, keep=given.keep, seed=given.seed) else 1
    from tests.fuzz.campaign import campaign
    from tests.fuzz.recipes import TRIES

    tally = campaign(given.kind, TRIES[given.kind], seed=given.seed, start=given.start, count=given.count)
    print(tally.shown())
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
