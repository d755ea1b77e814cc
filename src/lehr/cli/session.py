"""What `train` and `resume` share: the progress display, and what is said at the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lehr.base.errors import PREEMPTED
from lehr.run.folder import RunFolder
from lehr.run.result import RunResult
from lehr.track.progress import Progress

__all__ = ["ended", "finished", "progress"]


def progress(total_steps: int) -> Progress:
    """Return the display of a run's progress."""
    return Progress(total_steps=total_steps)


def ended(run: Path) -> RunResult | None:
    """Return what a run came to that has nothing left to do, and say so."""
    folder = RunFolder(run)
    folder.read_recipe()
    content = folder.ended()
    if content is None:
        return None
    known = {name: content[name] for name in RunResult.__dataclass_fields__ if name in content}
    result = RunResult(**known | {"run": str(run)})
    more = {"target": "stop.val_loss=none", "early-stop": "stop.patience=none"}
    print(
        f"{run} has ended ({result.stopped} at step {result.step}), so nothing was done; to train on, ask for more, "
        f"for example --set {more.get(result.stopped, f'steps={2 * result.step}')}",
        file=sys.stderr,
    )
    return result


def finished(result: RunResult) -> tuple[dict[str, Any], int]:
    """Return what result.json holds beyond the result itself, and the exit code."""
    written = Path(result.run or "") / "result.json"
    content = json.loads(written.read_bytes()) if written.is_file() else {}
    extra = {key: content[key] for key in ("sample", "compressors") if key in content}
    return extra, PREEMPTED if result.stopped == "preempted" else 0
