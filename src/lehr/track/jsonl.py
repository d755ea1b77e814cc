"""metrics.jsonl: one object a line, each step once, also after a crash and a resume."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lehr.base.errors import CheckpointError
from lehr.base.protocols import Record

__all__ = ["JsonlTracker", "read_records"]


class JsonlTracker:
    """Appends records to a file. Its state is the length of the file, to which a resumed run cuts it back.

    >>> import tempfile
    >>> tracker = JsonlTracker(Path(tempfile.mkdtemp()) / "metrics.jsonl")
    >>> tracker.log({"step": 1, "loss": 0.5}); tracker.close()
    >>> read_records(tracker.path)
    [{'step': 1, 'loss': 0.5}]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8", newline="\n")

    def log(self, record: Record) -> None:
        """Append one record; what JSON has no number for is written as the text "nan", "inf" or "-inf"."""
        strict = {k: repr(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._file.write(json.dumps(strict, allow_nan=False) + "\n")

    def state_dict(self) -> dict[str, Any]:
        """Return the length in bytes, once that much is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"bytes": self._file.tell()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Cut the file back to the length it had."""
        length = int(state["bytes"])
        if self.path.stat().st_size < length:
            raise CheckpointError(
                f"{self.path} has {self.path.stat().st_size} bytes, but the checkpoint was written when it had "
                f"{length}; its end is lost. Put the file back, or start a new run from the checkpoint's weights"
            )
        self._file.truncate(length)
        self._file.seek(length)

    def close(self) -> None:
        """Write out and close the file."""
        self._file.close()


def read_records(path: Path) -> list[Record]:
    """Return the records of a file; a last line that a crash cut short is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
