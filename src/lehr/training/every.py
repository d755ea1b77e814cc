"""How often the things beside the updates happen."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Every"]


@dataclass(frozen=True, kw_only=True)
class Every:
    """After how many steps each of these happens again; the last step has all of them.

    >>> Every(record=10, evaluate=50, save=100).due(50, last=False)
    (True, True, False)
    """

    record: int
    evaluate: int
    save: int

    def due(self, step: int, *, last: bool) -> tuple[bool, bool, bool]:
        """Return whether a record, an evaluation and a checkpoint are due after ``step`` updates."""
        return last or step % self.record == 0, last or step % self.evaluate == 0, last or step % self.save == 0
