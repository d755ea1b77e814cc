"""The loader for data that can only be read in its own order (iterables)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate

from lehr.base import seeds
from lehr.base.batches import to_device
from lehr.base.errors import DataError, SettingError
from lehr.base.protocols import Batch
from lehr.data.shard import Shard
from lehr.data.workers import started

__all__ = ["StreamLoader", "StreamReader"]


class StreamReader(IterableDataset[Any]):
    """Reads a stream into batches, each with the ids of its samples and the position behind it.

    The stream's draws at item ``i`` of epoch ``e`` follow from (seed, e, i), whoever reads it and from where on.
    """

    def __init__(
        self, stream: Any, *, seed: int, batch_size: int, drop_last: bool = False, shard: Shard = Shard(), collate: Any
    ) -> None:
        self.stream, self.batch_size, self.drop_last = stream, batch_size, drop_last
        self.shard, self.collate = shard, collate or default_collate
        self.order = seeds.address(seed, "sample")
        self.start: dict[str, Any] = self._position(0, 0, 0)

    def __iter__(self) -> Iterator[tuple[Batch, list[int], dict[str, Any]]]:
        epoch, batch, item = self.start["epoch"], self.start["batch"], self.start["items"]
        to_skip = item
        if self.start["stream"] is not None:
            self.stream.load_state_dict(self.start["stream"])
            to_skip = 0
        while True:
            found = batch > 0
            for place in self.one_epoch(epoch, batch=batch, item=item, to_skip=to_skip):
                found = True
                yield place
            if not found:
                raise DataError(
                    f"the stream gave no batch of batch_size={self.batch_size} in epoch {epoch}; an iterable must "
                    "give its items each time iter() is called on it"
                )
            epoch, batch, item, to_skip = epoch + 1, 0, 0, 0

    def one_epoch(
        self, epoch: int, *, batch: int = 0, item: int = 0, to_skip: int = 0
    ) -> Iterator[tuple[Batch, list[int], dict[str, Any]]]:
        """Read to the end of the stream, from item ``item`` on, of which ``to_skip`` are still to be passed over."""
        items = iter(self.stream)
        for place in range(to_skip):
            if self._next(items, epoch, place) is self:
                raise DataError(f"the stream ended after {place} items, but this run has already read {to_skip} of it")
        ended = False
        while not ended:
            chunk: list[Any] = []
            while len(chunk) < self.batch_size:
                sample = self._next(items, epoch, item + len(chunk))
                if sample is self:
                    ended = True
                    break
                chunk.append(sample)
            if not chunk or (ended and self.drop_last):
                return
            mine = self.shard.of(range(len(chunk)))
            if len(mine) == 0:
                raise DataError(
                    f"the last batch of the stream has {len(chunk)} samples for {self.shard.count} processes; use "
                    "drop_last=true"
                )
            first, batch, item = item, batch + 1, item + len(chunk)
            # a stream that has ended has begun anew, and so has its state
            behind = self._position(epoch + 1, 0, 0) if ended else self._position(epoch, batch, item)
            yield self.collate([chunk[i] for i in mine]), [first + i for i in mine], behind

    def _next(self, items: Iterator[Any], epoch: int, place: int) -> Any:
        """Return the next item, drawn at its address, or ``self`` at the end."""
        seeds.seed_sample(self.order, epoch, place)
        return next(items, self)

    def _position(self, epoch: int, batch: int, items: int) -> dict[str, Any]:
        state = self.stream.state_dict() if hasattr(self.stream, "state_dict") else None
        return {"epoch": epoch, "batch": batch, "items": items, "stream": state}


class StreamLoader:
    """Batches of an iterable. Its position can be saved if the iterable has a state, or replayed if that was allowed.

    >>> loader = StreamLoader([1, 2, 3], seed=0, batch_size=2)
    >>> [next(loader).tolist() for _ in range(3)]
    [[1, 2], [3], [1, 2]]
    """

    seekable = False
    steps_per_epoch: int | None = None

    def __init__(
        self,
        stream: Iterable[Any],
        *,
        seed: int,
        batch_size: int,
        drop_last: bool = False,
        replay: bool = False,
        collate: Callable[[list[Any]], Batch] | None = None,
        shard: Shard = Shard(),
        device: torch.device | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._device = device if device is not None and device.type != "cpu" else None
        own = {"num_workers": 0, "pin_memory": self._device is not None}
        self._options: dict[str, Any] = own | dict(options or {})
        workers = self._options["num_workers"]
        if iter(stream) is stream:
            raise SettingError(
                f"{type(stream).__name__} can be read only once; give an iterable that starts again each time iter() "
                "is called on it, such as a class with __iter__"
            )
        if workers > 1:
            raise SettingError(
                f"workers={workers} for a stream: it has one order and so one reader; use workers=1 to read ahead in a "
                "process of its own, or a map-style data set (__len__ and __getitem__) for more"
            )
        self._reader = StreamReader(
            stream, seed=seed, batch_size=batch_size, drop_last=drop_last, shard=shard, collate=collate
        )
        self.resumable = replay or hasattr(stream, "state_dict")
        self.batch_size = batch_size
        self.ids: list[int] = []
        self._batches: Iterator[Any] | None = None
        self._place = dict(self._reader.start)

    @property
    def epoch(self) -> int:
        """The epoch of the next batch, as far as is known: a stream's end is seen only when it has been reached."""
        return int(self._place["epoch"])

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = started(self._loader()) if self._options["num_workers"] else iter(self._reader)
        batch, self.ids, self._place = next(self._batches)
        return batch if self._device is None else to_device(batch, self._device)

    def _loader(self) -> DataLoader[Any]:
        return DataLoader(
            self._reader,
            batch_size=None,
            generator=torch.Generator(),
            **self._options,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the position behind the last batch that was handed out."""
        return dict(self._place)

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go to a position: by the stream's own state, or by reading up to it where ``replay`` allows that."""
        if state["items"] and not self.resumable:
            raise SettingError(
                f"this run has read {state['items']} items of a stream that has no state_dict, so it cannot go on "
                "where it stopped; give the stream state_dict and load_state_dict, or allow reading those items "
                "again with --set data.replay=true"
            )
        self.close()
        self._place = dict(state)
        self._reader.start = dict(state)

    def close(self) -> None:
        """Stop the worker process."""
        self._batches = None
