"""The loader for data in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from lehr.base.batches import to_device
from lehr.base.protocols import Batch
from lehr.data.order import ShuffledOrder, position, position_of
from lehr.data.shard import Shard
from lehr.data.sources import Source

__all__ = ["IndexedLoader"]


class IndexedLoader:
    """Batches of a `Source`, one indexing operation each; its whole state is how many it has handed out.

    >>> from lehr.data.sources import TensorSource
    >>> loader = IndexedLoader(TensorSource((torch.arange(5),)), ShuffledOrder(5, batch_size=2, seed=0), seed=0)
    >>> [len(next(loader)[0]) for _ in range(4)], loader.epoch
    ([2, 2, 1, 2], 1)
    """

    seekable = True

    def __init__(
        self,
        source: Source,
        order: ShuffledOrder,
        *,
        seed: int,
        shard: Shard = Shard(),
        device: torch.device | None = None,
        resident: bool = False,
    ) -> None:
        self.source, self.order, self.seed, self.shard = source, order, seed, shard
        self.steps_per_epoch: int | None = order.batches_per_epoch
        self.batch_size = order.batch_size
        self._device = device if device is not None and device.type != "cpu" else None
        self._resident = resident
        """Whether the source lies on the device, where the indices then have to be."""
        self._handed_out = 0
        self._indices = torch.empty(0, dtype=torch.long)

    @property
    def ids(self) -> list[int]:
        """The samples of the batch that was returned last."""
        return self._indices.tolist()

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to."""
        return self._handed_out // self.order.batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        epoch, place = divmod(self._handed_out, self.order.batches_per_epoch)
        indices = self.order.batch(epoch, place)
        if self.shard.count > 1:
            indices = self.shard.of(indices)
        self._handed_out += 1
        self._indices = indices
        if self._device is None:
            return self.source.take_batch(indices, epoch=epoch, seed=self.seed)
        if self._resident:
            return self.source.take_batch(indices.to(self._device, non_blocking=True), epoch=epoch, seed=self.seed)
        return to_device(self.source.take_batch(indices, epoch=epoch, seed=self.seed), self._device)

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""
        return position(self.order, self._handed_out)

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go to a position; nothing is read on the way."""
        self._handed_out = position_of(self.order, state)

    def close(self) -> None:
        """Nothing to stop."""
