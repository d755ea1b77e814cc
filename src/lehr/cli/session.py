"""What `train` and `resume` share: the progress display, and what is said at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lehr.base.errors import PREEMPTED
from lehr.run.result import RunResult
from lehr.track.guard import Guarded
from lehr.track.progress import Progress

__all__ = ["finished", "progress"]


def progress(total_steps: int) -> Guarded:
    """Return the display of a run's progress; if it fails, the run goes on."""
    return Guarded(Progress(total_steps=total_steps))


def finished(result: RunResult) -> tuple[dict[str, Any], int]:
    """Return what result.json holds beyond the result itself, and the exit code."""
    written = Path(result.run or "") / "result.json"
    content = json.loads(written.read_bytes()) if written.is_file() else {}
    extra = {key: content[key] for key in ("sample", "compressors") if key in content}
    return extra, PREEMPTED if result.stopped == "preempted" else 0
