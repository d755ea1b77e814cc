"""Runs that are killed and resumed: how many of them end bit for bit as their uninterrupted twins.

Runs the tests in tests/resume/ and counts; without --quick the long form, which `make soak` runs too.

    python benchmarks/kills.py
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import common

ROOT = Path(__file__).parents[1]


def main() -> None:
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    which = "not soak" if options.quick else "soak or not soak"
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "tests/resume", "-m", which]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    counted = re.search(r"kills=(\d+), exact=(\d+), inside_a_save=(\d+), before_the_first=(\d+)", done.stdout)
    if counted is None:
        sys.exit(done.stdout[-3000:])
    kills, exact, inside, before = map(int, counted.groups())
    wanted = 20 if options.quick else 200
    common.finish(
        [
            common.Row(what="kills", measured=kills, target=wanted, met=kills >= wanted),
            common.Row(what="ended as their twins", measured=exact, reference=kills, target=kills, met=exact == kills),
            common.Row(what="kills inside a save", measured=inside, target=5, met=inside >= 5),
            common.Row(what="kills before the first checkpoint", measured=before),
        ],
        options,
    )


if __name__ == "__main__":
    main()
