"""From whatever the user gave to a loader: tensors, arrays, map-style data sets, iterables or DataLoaders."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lehr.base.errors import DataError, SettingError
from lehr.base.protocols import Loader
from lehr.data.copy_ahead import CopyAhead
from lehr.data.data import Data
from lehr.data.indexed import IndexedLoader
from lehr.data.mapped import MappedLoader
from lehr.data.order import SampledOrder, ShuffledOrder
from lehr.data.shard import Shard
from lehr.data.sources import Source, TensorSource, is_tensors
from lehr.data.stream import StreamLoader
from lehr.data.workers import worker_options

__all__ = ["as_data", "is_map_style", "refuse_whole_batches", "training_loader"]


def as_data(given: Any) -> Any:
    """Return arrays as tensors and tensors as a `Source`; everything else as it is.

    >>> type(as_data((np.zeros((3, 2)), np.zeros(3)))).__name__
    'TensorSource'
    """
    given = _arrays_to_tensors(given)
    if isinstance(given, TensorDataset):
        given = tuple(given.tensors)
    if is_tensors(given):
        if isinstance(given, list):
            raise DataError(
                "a list of tensors could be samples or columns; give a tuple of columns such as (inputs, targets), "
                "or a data set of samples"
            )
        return TensorSource(given)
    return given


def _arrays_to_tensors(given: Any) -> Any:
    """Return an array, or a tuple or dict with arrays as columns, with tensors in their place."""
    if isinstance(given, np.ndarray):
        return torch.from_numpy(given)
    if isinstance(given, tuple) and any(isinstance(v, np.ndarray) for v in given):
        return tuple(_arrays_to_tensors(v) for v in given)
    if isinstance(given, dict):
        return {name: _arrays_to_tensors(v) for name, v in given.items()}
    return given


def is_map_style(data: Any) -> bool:
    """Whether ``data`` has samples by index."""
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, IterableDataset)


def training_loader(
    given: Any,
    settings: Data,
    *,
    seed: int,
    shard: Shard = Shard(),
    device: torch.device | None = None,
) -> Loader:
    """Return the loader for ``given``, the training data of ``settings``.

    >>> loader = training_loader((torch.arange(6), torch.arange(6)), Data(batch_size=4), seed=0)
    >>> [t.shape[0] for t in next(loader)]
    [4, 4]
    """
    if settings.copy_ahead and device is not None:
        if settings.resident:
            _refuse(settings, "copy_ahead", "with data.resident=true nothing is copied")
        if device.type not in ("cuda", "meta"):
            _refuse(
                settings, "copy_ahead", f"copies overlap with steps on CUDA devices only, and this is a {device.type}"
            )
        return CopyAhead(_training_loader(given, settings, seed=seed, shard=shard, device=None), device)
    return _training_loader(given, settings, seed=seed, shard=shard, device=device)


def _training_loader(given: Any, settings: Data, *, seed: int, shard: Shard, device: torch.device | None) -> Loader:
    data = as_data(given)
    if isinstance(data, DataLoader):
        return _from_dataloader(data, settings, seed=seed, shard=shard, device=device)
    if isinstance(data, Source) or is_map_style(data):
        order = ShuffledOrder(
            _length(data),
            batch_size=settings.batch_size,
            seed=seed,
            shuffle=settings.shuffle,
            drop_last=settings.drop_last,
            lengths=_lengths(data, settings) if settings.bucket else None,
        )
        _check_shards(order.num_samples, settings, shard)
        if isinstance(data, Source):
            _refuse_for_tensors(settings)
            placed = _on_device(data, device) if settings.resident else data
            return IndexedLoader(placed, order, seed=seed, shard=shard, device=device, resident=settings.resident)
        _refuse(settings, "resident", "it concerns data in memory, and this is read sample by sample")
        return MappedLoader(
            data,
            order,
            seed=seed,
            collate=settings.collate,
            shard=shard,
            device=device,
            options=worker_options(settings.workers) | _pinned(settings),
        )
    if isinstance(data, Iterable):
        _refuse(settings, "resident", "it concerns data in memory, and this is a stream")
        _refuse(settings, "bucket", "the lengths of a stream's samples are not known before they are read")
        return StreamLoader(
            data,
            seed=seed,
            batch_size=settings.batch_size,
            drop_last=settings.drop_last,
            replay=settings.replay,
            options=worker_options(settings.workers) | _pinned(settings),
            collate=settings.collate,
            shard=shard,
            device=device,
        )
    raise SettingError(
        f"data of type {type(given).__name__} cannot be read; give tensors, a data set with __len__ and __getitem__, "
        "an iterable or a DataLoader"
    )


def _length(data: Any) -> int:
    return len(data)


def _lengths(data: Any, settings: Data) -> Tensor:
    """Return the length of each sample, from data that knows it."""
    lengths = getattr(data, "lengths", None)
    if lengths is None:
        raise SettingError(
            f"data.bucket=true needs to know how long samples are, and {type(data).__name__} does not say; give it an "
            "attribute `lengths` with a number for each sample, or leave bucket out"
        )
    if not settings.shuffle:
        raise SettingError("data.bucket=true orders shuffled batches, and data.shuffle is false; leave one of them out")
    try:
        found = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"`lengths` of {type(data).__name__} cannot be read as numbers: {error}") from None
    if found.shape != (len(data),):
        raise DataError(
            f"`lengths` has the shape {tuple(found.shape)}; it needs one number for each of {len(data)} samples"
        )
    return found


def _on_device(data: Source, device: torch.device | None) -> Source:
    if device is None or device.type == "cpu":
        raise SettingError(
            "data.resident=true has no effect on a CPU, which computes from the memory of the data; leave it out"
        )
    move = getattr(data, "on", None)
    if move is None:
        raise SettingError(f"data.resident=true is not possible for {type(data).__name__}; leave it out")
    placed: Source = move(device)
    return placed


def _pinned(settings: Data) -> dict[str, Any]:
    """Return the DataLoader argument for batches that are copied later, by another stream."""
    return {"pin_memory": True} if settings.copy_ahead else {}


def _refuse(settings: Data, name: str, why: str) -> None:
    """Refuse a setting that cannot have an effect."""
    if getattr(settings, name) != Data.model_fields[name].default:
        raise SettingError(f"data.{name} has no effect: {why}; leave it out")


def _refuse_for_tensors(settings: Data) -> None:
    """Settings that cannot have an effect on data in memory are refused, not ignored."""
    if settings.workers:
        raise SettingError(
            f"workers={settings.workers} has no effect on data in memory, which is indexed directly; leave it at 0"
        )
    if settings.collate is not None:
        raise SettingError("collate has no effect on data in memory, which is indexed directly; leave it out")


def _check_shards(num_samples: int, settings: Data, shard: Shard) -> None:
    if shard.count == 1:
        return
    if settings.batch_size < shard.count:
        raise SettingError(
            f"batch_size={settings.batch_size} is less than one sample for each of {shard.count} processes"
        )
    last = 0 if settings.drop_last else num_samples % settings.batch_size
    if 0 < last < shard.count:
        raise SettingError(
            f"the last batch of an epoch has {last} samples for {shard.count} processes; use --set data.drop_last=true"
        )


def refuse_whole_batches(loader: DataLoader[Any]) -> None:
    """Refuse a DataLoader that cannot tell samples apart."""
    if loader.batch_sampler is None:
        raise SettingError(
            "DataLoader(batch_size=None) hands out whole batches that the data set made itself, so lehr cannot tell "
            "samples apart; give the DataLoader a batch_size, or pass an iterable of samples"
        )


def _from_dataloader(
    loader: DataLoader[Any], settings: Data, *, seed: int, shard: Shard, device: torch.device | None
) -> Loader:
    """Take a user's DataLoader apart: its data, its sampler's order, its collation, its workers."""
    for name in ("batch_size", "shuffle", "drop_last", "bucket", "resident", "workers", "collate"):
        if getattr(settings, name) != Data.model_fields[name].default:
            raise SettingError(
                f"data.{name} has no effect, since the training data is a DataLoader with its own; set it there"
            )
    refuse_whole_batches(loader)
    if isinstance(loader.dataset, IterableDataset) or not is_map_style(loader.dataset):
        return StreamLoader(
            cast(Iterable[Any], loader.dataset),
            seed=seed,
            batch_size=loader.batch_size or 1,
            drop_last=loader.drop_last,
            replay=settings.replay,
            options=worker_options(loader.num_workers, given=loader) | _pinned(settings),
            collate=loader.collate_fn,
            shard=shard,
            device=device,
        )
    order = SampledOrder(loader, seed=seed)
    if shard.count > 1 and any(len(order.batch(0, i)) < shard.count for i in range(order.batches_per_epoch)):
        raise SettingError(f"the DataLoader makes batches of fewer than {shard.count} samples, one for each process")
    return MappedLoader(
        loader.dataset,
        order,
        seed=seed,
        collate=loader.collate_fn,
        shard=shard,
        device=device,
        options=worker_options(loader.num_workers, given=loader) | _pinned(settings),
    )
