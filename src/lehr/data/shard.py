"""The part of each batch that one of several processes trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Shard"]


@dataclass(frozen=True)
class Shard:
    """Process ``index`` of ``count``; a batch is cut into ``count`` neighbouring parts of nearly equal size.

    The batch, and so the update, is the same for any number of processes.

    >>> [list(Shard(index, 3).of(range(8))) for index in range(3)]
    [[0, 1, 2], [3, 4, 5], [6, 7]]
    """

    index: int = 0
    count: int = 1

    def of(self, batch: Any) -> Any:
        """Return this process's part of ``batch``, a tensor or a sequence."""
        size, larger = divmod(_length(batch), self.count)
        start = self.index * size + min(self.index, larger)
        return batch[start : start + size + (self.index < larger)]


def _length(batch: Tensor | Sequence[Any]) -> int:
    return len(batch)
