"""Validation data: read in its own order, each sample once, each process its own batches."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from lehr.base.batches import to_device
from lehr.base.errors import DataError, SettingError
from lehr.base.protocols import Batch
from lehr.data.data import Data
from lehr.data.mapped import MappedLoader
from lehr.data.opening import as_data, is_map_style, refuse_whole_batches
from lehr.data.order import Order, SampledOrder, ShuffledOrder
from lehr.data.shard import Shard
from lehr.data.sources import Source
from lehr.data.stream import StreamReader
from lehr.data.workers import worker_options

__all__ = ["training_batches", "validation_batches"]

Pass = Callable[[int | None], Iterator[Batch]]
"""limit -> batches: all of them, or ``limit`` spread evenly over the data."""


def validation_batches(
    given: Any,
    settings: Data,
    *,
    seed: int,
    shard: Shard = Shard(),
    device: torch.device | None = None,
) -> Pass:
    """Return a function that starts a pass over ``given``; the same batches each time.

    >>> batches = validation_batches(torch.arange(5), Data(batch_size=2), seed=0)
    >>> [batch.tolist() for batch in batches(None)], [batch.tolist() for batch in batches(2)]
    ([[0, 1], [2, 3], [4]], [[0, 1], [4]])
    """
    return _passes(given, settings, seed=seed, shard=shard, device=device, fault=_validation_fault)


def _passes(
    given: Any, settings: Data, *, seed: int, shard: Shard, device: torch.device | None, fault: Callable[[str], str]
) -> Pass:
    data = as_data(given)
    size = settings.val_batch_size or settings.batch_size
    if isinstance(data, DataLoader) and settings.val_batch_size is not None:
        raise SettingError(
            "data.val_batch_size has no effect, since the validation data is a DataLoader with its own; set it there"
        )
    if isinstance(data, DataLoader):
        refuse_whole_batches(data)
    if isinstance(data, DataLoader) and is_map_style(data.dataset):
        return _mapped_pass(
            data.dataset,
            SampledOrder(data, seed=seed),
            data.collate_fn,
            worker_options(data.num_workers, given=data),
            seed=seed,
            shard=shard,
            device=device,
        )
    if isinstance(data, Source) or is_map_style(data):
        if len(data) == 0:
            raise DataError("the validation data is empty; give at least one sample, or val=None for no validation")
        order = ShuffledOrder(len(data), batch_size=min(size, len(data)), seed=seed, shuffle=False)
        if isinstance(data, Source):
            return _source_pass(data, order, seed=seed, shard=shard, device=device)
        options = worker_options(settings.workers)
        return _mapped_pass(data, order, settings.collate, options, seed=seed, shard=shard, device=device)
    if shard.count > 1:
        raise SettingError(fault("several processes"))
    stream = data.dataset if isinstance(data, DataLoader) else data
    if iter(stream) is stream:
        raise SettingError(f"{type(stream).__name__} {fault('once')}")
    return _stream_pass(data, settings, size, seed=seed, device=device)


def _validation_fault(of: str) -> str:
    if of == "once":
        return "can be read only once, but validation reads it several times"
    return (
        "an iterable cannot be validated on by several processes without counting samples twice; give a map-style data "
        "set (__len__ and __getitem__)"
    )


def _training_fault(of: str) -> str:
    why = "batch norm under averaged weights needs batches of the training data beside the training"
    if of == "once":
        return f"can be read only once, but {why}; make each iter() begin anew"
    return (
        f"{why}, which several processes cannot share out of an iterable; give a map-style data set (__len__ and "
        "__getitem__), or leave swa out"
    )


def training_batches(
    given: Any,
    settings: Data,
    *,
    seed: int,
    shard: Shard = Shard(),
    device: torch.device | None = None,
) -> Pass:
    """Return the same for training data: passes in its own order and its own batch size, apart from the training.

    >>> batches = training_batches(torch.arange(3), Data(batch_size=2, val_batch_size=9), seed=0)
    >>> [batch.tolist() for batch in batches(None)]
    [[0, 1], [2]]
    """
    own = settings.model_copy(update={"val_batch_size": None})

    def batches(limit: int | None) -> Iterator[Batch]:
        return _passes(_apart(given), own, seed=seed, shard=shard, device=device, fault=_training_fault)(limit)

    return batches


def _apart(given: Any) -> Any:
    """Return a copy of a stream that knows where it is: reading it would move the one that is trained on."""
    stream = given.dataset if isinstance(given, DataLoader) else given
    if is_map_style(stream) or not hasattr(stream, "state_dict"):
        return given
    try:
        return copy.deepcopy(given)
    except Exception as error:
        raise SettingError(
            f"{type(stream).__name__} has a state, and cannot be copied ({error}), so it cannot be read beside the "
            "training, as batch norm under averaged weights needs it; let copy.deepcopy work on it"
        ) from None


def _chosen(count: int, limit: int | None, shard: Shard) -> list[int]:
    """Return the batches that this process evaluates: evenly spread, then dealt out in turn."""
    if limit is None or limit >= count:
        places = list(range(count))
    else:
        places = [round(i * (count - 1) / max(1, limit - 1)) for i in range(limit)]
    return places[shard.index :: shard.count]


def _on(batch: Batch, device: torch.device | None) -> Batch:
    return batch if device is None or device.type == "cpu" else to_device(batch, device)


def _source_pass(source: Source, order: ShuffledOrder, *, seed: int, shard: Shard, device: torch.device | None) -> Pass:
    def batches(limit: int | None) -> Iterator[Batch]:
        for place in _chosen(order.batches_per_epoch, limit, shard):
            yield _on(source.take_batch(order.batch(0, place), epoch=0, seed=seed), device)

    return batches


class _Chosen:
    """An order of its own from some batches of another one."""

    def __init__(self, order: Order, places: list[int]) -> None:
        self._order, self._places = order, places
        self.batches_per_epoch, self.batch_size, self.num_samples = len(places), order.batch_size, order.num_samples

    def batch(self, epoch: int, index: int) -> Any:
        return self._order.batch(0, self._places[index])


def _mapped_pass(
    samples: Any,
    order: Order,
    collate: Any,
    options: dict[str, Any],
    *,
    seed: int,
    shard: Shard,
    device: torch.device | None,
) -> Pass:
    def batches(limit: int | None) -> Iterator[Batch]:
        chosen = _Chosen(order, _chosen(order.batches_per_epoch, limit, shard))
        loader = MappedLoader(samples, chosen, seed=seed, collate=collate, device=device, options=options)
        try:
            yield from itertools.islice(loader, chosen.batches_per_epoch)
        finally:
            loader.close()

    return batches


def _stream_pass(data: Any, settings: Data, size: int, *, seed: int, device: torch.device | None) -> Pass:
    stream: Any = data.dataset if isinstance(data, DataLoader) else data
    collate = data.collate_fn if isinstance(data, DataLoader) else settings.collate
    size = (data.batch_size or 1) if isinstance(data, DataLoader) else size
    reader = StreamReader(stream, seed=seed, batch_size=size, collate=collate)

    def batches(limit: int | None) -> Iterator[Batch]:
        for batch, _ids, _behind in itertools.islice(reader.one_epoch(0), limit):
            yield _on(batch, device)

    return batches
