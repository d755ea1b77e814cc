"""TensorBoard, as an extra."""

from __future__ import annotations

from pathlib import Path

from lehr.base.optional import need
from lehr.base.protocols import Record

__all__ = ["TensorBoardTracker"]

_PLACES = {"step", "split", "epoch"}
_FLUSH_SECONDS = 10
"""What a killed run may lose of its events."""


class TensorBoardTracker:
    """Writes the numbers of each record as scalars ``split/name`` into a folder for `tensorboard --logdir`."""

    def __init__(self, folder: Path, *, purge_step: int | None = None) -> None:
        need("tensorboard", extra="track", why="tracking with TensorBoard")
        from torch.utils.tensorboard.writer import SummaryWriter

        # events of a crashed process at or after the step that is resumed are hidden, so that no step shows twice
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=_FLUSH_SECONDS)

    def log(self, record: Record) -> None:
        """Write the numbers of one record; the loss of a withheld update is none of the curve's."""
        if "withheld" in record:
            return
        for name, value in record.items():
            if name not in _PLACES and isinstance(value, int | float):
                self._writer.add_scalar(f"{record['split']}/{name}", value, record["step"])

    def close(self) -> None:
        """Write out and close the event file."""
        self._writer.close()
