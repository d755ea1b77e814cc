"""metrics.jsonl: one object a line, each step once, also after a crash and a resume."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lehr.base.errors import CheckpointError, LehrWarning
from lehr.base.protocols import Record

__all__ = ["JsonlTracker", "read_records"]

_STRICT = json.JSONEncoder(allow_nan=False)


class JsonlTracker:
    """Appends records to a file. Its state is the length of the file, to which a resumed run cuts it back.

    Each record is written as it comes, so that the file can be followed. What cannot be written, on a full disk, is
    kept and written later; only a checkpoint, which vouches for the file's length, fails with it.

    >>> import tempfile
    >>> tracker = JsonlTracker(Path(tempfile.mkdtemp()) / "metrics.jsonl")
    >>> tracker.log({"step": 1, "split": "train", "loss": 0.5}); tracker.close()
    >>> read_records(tracker.path)
    [{'step': 1, 'split': 'train', 'loss': 0.5}]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._pending = b""
        self._warned = False

    def log(self, record: Record) -> None:
        """Append one record; what JSON has no number for is written as the text "nan", "inf" or "-inf"."""
        strict = {k: str(float(v)) if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._pending += _STRICT.encode(strict).encode() + b"\n"
        try:
            self._write()
        except OSError as error:
            if not self._warned:
                self._warn(error, "its records are kept, and written as soon as that works")
            self._warned = True

    def state_dict(self) -> dict[str, Any]:
        """Return the length in bytes, once that much is on the disk."""
        try:
            self._write()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be written: {error.strerror}") from error
        return {"bytes": self._file.tell()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Cut the file back to the length it had. One that has lost its end keeps what is left: a log is no state."""
        length, left = int(state["bytes"]), self.path.stat().st_size
        if left < length:
            self._file.truncate(self.path.read_bytes().rfind(b"\n") + 1)
            warnings.warn(
                f"{self.path} has {left} bytes, but had {length} when the checkpoint was written: the records in "
                "between are lost, and the run goes on without them",
                LehrWarning,
                stacklevel=2,
            )
        else:
            self._file.truncate(length)
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Write out and close the file."""
        try:
            self._write()
        except OSError as error:
            self._warn(error, "its last records are lost")
            self._pending = b""
        self._file.close()

    def _warn(self, error: OSError, consequence: str) -> None:
        warnings.warn(f"{self.path} cannot be written: {error.strerror}; {consequence}", LehrWarning, stacklevel=4)

    def _write(self) -> None:
        while self._pending:
            self._pending = self._pending[self._file.write(self._pending) :]


def read_records(path: Path) -> list[Record]:
    """Return the records of a file. A last line that a crash cut short is left out; so are damaged lines, with a
    warning.
    """
    *whole, last = path.read_bytes().split(b"\n")
    records, damaged = [], []
    for number, line in enumerate([*whole, last], start=1):
        try:
            record = json.loads(line or b"{}")
        except ValueError:
            record = None
        if isinstance(record, dict) and {"step", "split"} <= record.keys():
            records.append(record)
        elif line and number <= len(whole):
            damaged.append(number)
    if damaged:
        warnings.warn(f"{path}: left out damaged lines, {len(damaged)}, first {damaged[0]}", LehrWarning, stacklevel=2)
    return records
