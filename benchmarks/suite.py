"""How long the project's own checks take.

python benchmarks/suite.py
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import common

ROOT = Path(__file__).parents[1]


def main() -> None:
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    targets = {"quick": 180.0} if options.quick else {"quick": 180.0, "test": 720.0}
    rows = []
    for name, target in targets.items():
        command = ["make", "--silent", name]
        seconds = common.timed(lambda command=command: subprocess.run(command, cwd=ROOT, check=True))
        rows.append(common.Row(what=f"make {name}, s", measured=seconds, target=target, met=seconds <= target))
    common.finish(rows, options)


if __name__ == "__main__":
    main()
