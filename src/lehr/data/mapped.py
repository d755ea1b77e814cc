"""The loader for data that is read sample by sample (``__getitem__``), with or without worker processes."""

from __future__ import annotations

import itertools
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from lehr.base import seeds
from lehr.base.batches import to_device
from lehr.base.errors import DataError
from lehr.base.protocols import Batch
from lehr.data.order import Order, position, position_of
from lehr.data.shard import Shard
from lehr.data.workers import started

__all__ = ["MappedLoader"]

Address = tuple[int, Any]
"""(epoch, index): all that a sample's own draws depend on."""


@dataclass(frozen=True)
class _Unread:
    """What a worker process hands over in place of a batch: an exception, without the traceback of the processes."""

    message: str
    place: str


def _unread(what: str, error: Exception) -> _Unread:
    """Raise `DataError` for what the user's code raised; in a worker process, return what the main process raises."""
    message = f"{what}: {type(error).__name__}: {error}"
    if get_worker_info() is None:
        raise DataError(message) from error
    last = traceback.extract_tb(error.__traceback__)[-1]
    return _Unread(message, f'raised in "{last.filename}", line {last.lineno}: {last.line}')


class _Collate:
    """The function that makes a batch of samples, unless one of them could not be read."""

    def __init__(self, collate: Callable[[list[Any]], Batch]) -> None:
        self._collate = collate

    def __call__(self, samples: list[Any]) -> Batch | _Unread:
        unread = [sample for sample in samples if isinstance(sample, _Unread)]
        if unread:
            return unread[0]
        try:
            return self._collate(samples)
        except Exception as error:
            return _unread(f"{len(samples)} samples could not be made a batch", error)


class _AddressedSamples(Dataset[Any]):
    """A data set whose ``__getitem__`` draws from `random`, NumPy and torch as (seed, epoch, index) say."""

    def __init__(self, samples: Any, seed: int) -> None:
        self.samples, self._order = samples, seeds.address(seed, "sample")

    def __getitem__(self, place: Address) -> Any:
        epoch, index = place
        seeds.seed_sample(self._order, epoch, int(index))
        try:
            return self.samples[index]
        except Exception as error:
            return _unread(f"sample {index} could not be read", error)


class MappedLoader:
    """Batches of a map-style data set in an addressed order; resuming reads nothing of what was passed.

    The torch DataLoader inside has a generator of its own, since making an iterator would else draw from the global
    one. Workers read ahead; the position counts what was handed out.

    >>> from lehr.data.order import ShuffledOrder
    >>> loader = MappedLoader([1.0, 2.0, 3.0], ShuffledOrder(3, batch_size=2, seed=0), seed=0)
    >>> sorted(next(loader).tolist() + next(loader).tolist())
    [1.0, 2.0, 3.0]
    """

    seekable = True

    def __init__(
        self,
        samples: Any,
        order: Order,
        *,
        seed: int,
        collate: Callable[[list[Any]], Batch] | None = None,
        shard: Shard = Shard(),
        device: torch.device | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.samples = _AddressedSamples(samples, seed)
        self.order, self.shard = order, shard
        self.steps_per_epoch: int | None = order.batches_per_epoch
        self.batch_size = order.batch_size
        self.ids: list[int] = []
        self._collate = _Collate(collate or default_collate)
        self._device = device if device is not None and device.type != "cpu" else None
        self._options: dict[str, Any] = {"pin_memory": self._device is not None} | dict(options or {})
        self._handed_out = 0
        self._ahead: deque[list[int]] = deque()
        """The ids of the batches that are being read, first the next one."""
        self._batches: Iterator[Batch] | None = None

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to."""
        return self._handed_out // self.order.batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._batches is None:
            self._ahead.clear()
            self._batches = started(self._loader(self._places()))
        batch = next(self._batches)
        self.ids = self._ahead.popleft()
        self._handed_out += 1
        if isinstance(batch, _Unread):
            error = DataError(batch.message)
            error.add_note(batch.place)
            raise error
        return batch if self._device is None else to_device(batch, self._device)

    def _places(self) -> Iterator[list[Address]]:
        """Yield the addresses of each batch from here on, across epochs, so that workers never pause between them."""
        for place in itertools.count(self._handed_out):
            epoch, batch = divmod(place, self.order.batches_per_epoch)
            ids = [int(index) for index in self.shard.of(self.order.batch(epoch, batch))]
            self._ahead.append(ids)
            yield [(epoch, index) for index in ids]

    def _loader(self, places: Iterator[list[Address]]) -> DataLoader[Any]:
        return DataLoader(
            self.samples,
            batch_sampler=places,
            collate_fn=self._collate,
            generator=torch.Generator(),
            **self._options,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the position: what was handed out, not what the workers have read ahead."""
        return position(self.order, self._handed_out)

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go to a position; nothing is read on the way."""
        self.close()
        self._handed_out = position_of(self.order, state)

    def close(self) -> None:
        """Stop worker processes."""
        self._batches = None
