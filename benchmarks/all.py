"""All benchmarks, one after another.

python benchmarks/all.py --record NAME
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import common

SCRIPTS = (
    *("overhead", "watched", "start", "recipes", "combined", "lowrank", "kills", "suite"),
    *("vision", "base_case", "time_to_loss", "levers", "same_recipe"),
)
"""All but gpu.py, which needs a device. Together they take hours."""


def main() -> None:
    options = common.parser(__doc__.splitlines()[0]).parse_args()
    for script in SCRIPTS:
        print(f"\n{script}", flush=True)
        command = [sys.executable, str(Path(__file__).with_name(f"{script}.py"))]
        command += ["--quick"] if options.quick else []
        command += ["--json"] if options.json else []
        command += ["--record", f"{script}-{options.record}"] if options.record else []
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
