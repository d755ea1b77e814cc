"""What a batch is made of: nested tuples, lists and dicts of tensors whose first dimension is the sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.base.protocols import Batch

__all__ = ["map_tensors", "num_samples", "select", "split", "tensors_of", "to_device"]


def map_tensors(change: Callable[[Tensor], Tensor], batch: Batch) -> Batch:
    """Return ``batch`` with ``change`` applied to each of its tensors; everything else stays as it is.

    >>> map_tensors(lambda t: t + 1, {"x": torch.tensor([1]), "name": "a"})
    {'x': tensor([2]), 'name': 'a'}
    """
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return type(batch)({key: map_tensors(change, value) for key, value in batch.items()})  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(change, value) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(map_tensors(change, value) for value in batch)
    return batch


def tensors_of(batch: Batch) -> Iterator[Tensor]:
    """Yield the tensors in ``batch``, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_of(value)
    elif isinstance(batch, tuple | list):
        for value in batch:
            yield from tensors_of(value)


def num_samples(batch: Batch) -> int:
    """Return the number of samples: the length of the first tensor's first dimension.

    >>> num_samples((torch.zeros(3, 2), torch.zeros(3)))
    3
    """
    if type(batch) is tuple and isinstance(batch[0], Tensor) and batch[0].ndim:  # the usual pair, without the walk
        return batch[0].shape[0]
    for tensor in tensors_of(batch):
        return tensor.shape[0] if tensor.ndim else 1
    return len(batch) if hasattr(batch, "__len__") else 1


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return ``batch`` with its tensors on ``device``, copied without waiting where memory is pinned."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)


def select(batch: Batch, chosen: Tensor | slice) -> Batch:
    """Return the chosen samples of a batch; lists of texts and the like are chosen from as well.

    >>> select({"x": torch.arange(3), "name": ["a", "b", "c"]}, slice(0, 2))
    {'x': tensor([0, 1]), 'name': ['a', 'b']}
    """
    return _select(batch, chosen, num_samples(batch))


def _select(batch: Batch, chosen: Tensor | slice, samples: int) -> Batch:
    if isinstance(batch, Tensor):
        return batch[chosen] if batch.ndim and batch.shape[0] == samples else batch
    if isinstance(batch, Mapping):
        return type(batch)({k: _select(v, chosen, samples) for k, v in batch.items()})  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_select(value, chosen, samples) for value in batch))
    if isinstance(batch, tuple | list):
        if len(batch) == samples and not any(True for _ in tensors_of(batch)):
            places = range(samples)[chosen] if isinstance(chosen, slice) else chosen.tolist()
            return type(batch)(batch[place] for place in places)
        return type(batch)(_select(value, chosen, samples) for value in batch)
    return batch


def split(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch into at most ``parts`` microbatches of nearly equal size, none of them empty.

    >>> [len(part) for part in split(torch.arange(10), 4)]
    [3, 3, 2, 2]
    """
    if parts == 1:
        return [batch]
    samples = num_samples(batch)
    if not any(True for _ in tensors_of(batch)):
        raise SettingError(
            f"accumulate={parts} cannot cut a batch of type {type(batch).__name__} without tensors; use accumulate=1"
        )
    parts = min(parts, samples)
    size, larger = divmod(samples, parts)
    pieces, start = [], 0
    for part in range(parts):
        stop = start + size + (part < larger)
        pieces.append(select(batch, slice(start, stop)))
        start = stop
    return pieces
