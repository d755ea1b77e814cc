"""TensorBoard, as an extra."""

from __future__ import annotations

from pathlib import Path

from lehr.base.optional import need
from lehr.base.protocols import Record

__all__ = ["TensorBoardTracker"]

_PLACES = {"step", "split", "epoch"}


class TensorBoardTracker:
    """Writes the numbers of each record as scalars ``split/name`` into a folder for `tensorboard --logdir`."""

    def __init__(self, folder: Path, *, purge_step: int | None = None) -> None:
        need("tensorboard", extra="track", why="tracking with TensorBoard")
        from torch.utils.tensorboard.writer import SummaryWriter

        # events of a crashed process at or after the step that is resumed are hidden, so that no step shows twice
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def log(self, record: Record) -> None:
        """Write the numbers of one record."""
        for name, value in record.items():
            if name not in _PLACES and isinstance(value, int | float):
                self._writer.add_scalar(f"{record['split']}/{name}", value, record["step"])

    def close(self) -> None:
        """Write out and close the event file."""
        self._writer.close()
