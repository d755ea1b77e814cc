"""How often the things beside the updates happen."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Every"]


@dataclass(frozen=True, kw_only=True)
class Every:
    """After how many steps each of these happens again; the last step has all of them.

    >>> Every(record=10, evaluate=50, save=100).due(50, last=False)
    (True, True, False)
    >>> [step for step in range(1, 100) if Every(record=10, evaluate=50, save=100, keep=40).keeps(step)]
    [40, 80]
    """

    record: int
    evaluate: int
    save: int
    keep: int | None = None
    """After how many steps there is a checkpoint that is kept; None for never."""

    def due(self, step: int, *, last: bool) -> tuple[bool, bool, bool]:
        """Return whether a record, an evaluation and a checkpoint are due after ``step`` updates."""
        save = last or step % self.save == 0 or self.keeps(step)
        return last or step % self.record == 0, last or step % self.evaluate == 0, save

    def keeps(self, step: int) -> bool:
        """Return whether the checkpoint of ``step`` is one that is never removed."""
        return self.keep is not None and step % self.keep == 0
