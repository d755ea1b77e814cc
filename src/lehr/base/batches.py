"""What a batch is made of: nested tuples, lists and dicts of tensors whose first dimension is the sample."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Literal

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
        return _like(batch, {key: map_tensors(change, value) for key, value in batch.items()})
    if _has_fields(batch):
        return type(batch)(*(map_tensors(change, value) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(map_tensors(change, value) for value in batch)
    return batch


def _like(batch: Mapping[Any, Any], values: dict[Any, Any]) -> Batch:
    """Return a mapping of the type of ``batch``; one that can be changed is copied, with what else it holds."""
    if not isinstance(batch, MutableMapping):
        return type(batch)(values)  # type: ignore[call-arg]
    made = copy.copy(batch)
    made.update(values)
    return made


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
    """Return the number of samples, as far as the batch itself tells; who loaded it may know better.

    It is the length of the tensors that the batch is made of, and of its lists of texts or numbers. Where there are
    only lists of tensors, they are parts of one structure if all tensors are equally long, and else lists of samples.

    >>> num_samples((torch.zeros(3, 2), torch.zeros(3))), num_samples(([torch.zeros(5), torch.zeros(4)], [1, 0]))
    (3, 2)
    """
    if type(batch) is tuple and batch and isinstance(batch[0], Tensor) and batch[0].ndim:  # the usual pair
        return batch[0].shape[0]
    lengths = _lengths(batch)
    return lengths[0] if lengths else 1


def _lengths(batch: Batch) -> list[int]:
    """Return the numbers of samples that a batch can be read as, each once, the likelier first."""
    sure = list(_sure_lengths(batch, top=True))
    if not sure:
        tensors = {tensor.shape[0] for tensor in tensors_of(batch) if tensor.ndim}
        sure = [*(tensors if len(tensors) == 1 else ()), *_list_lengths(batch, top=True)] or [*tensors]
    return list(dict.fromkeys(sure))


def _sure_lengths(batch: Batch, *, top: bool) -> Iterator[int]:
    """Yield the lengths of tensors that no inner list holds, and of inner lists without tensors."""
    if isinstance(batch, Tensor):
        yield from batch.shape[:1]
    elif isinstance(batch, tuple | list) and not _has_fields(batch) and not _has_tensors(batch):
        yield len(batch)
    elif top or isinstance(batch, Mapping) or _has_fields(batch):
        for value in _values(batch):
            yield from _sure_lengths(value, top=False)


def _list_lengths(batch: Batch, *, top: bool) -> Iterator[int]:
    """Yield the lengths of the inner lists."""
    if isinstance(batch, tuple | list) and not top and not _has_fields(batch):
        yield len(batch)
    else:
        for value in _values(batch):
            yield from _list_lengths(value, top=False)


def _values(batch: Batch) -> Iterable[Batch]:
    if isinstance(batch, Mapping):
        return batch.values()
    return batch if isinstance(batch, tuple | list) else ()


def _has_fields(batch: Batch) -> bool:
    return isinstance(batch, tuple) and hasattr(batch, "_fields")


def _has_tensors(batch: Batch) -> bool:
    return any(True for _ in tensors_of(batch))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return ``batch`` with its tensors on ``device``, copied without waiting where memory is pinned."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)


def select(batch: Batch, chosen: Tensor | slice, *, samples: int | None = None) -> Batch:
    """Return the chosen samples of a batch; from lists as long as the number of ``samples``, too.

    >>> select({"x": torch.arange(3), "name": ["a", "b", "c"]}, slice(0, 2))
    {'x': tensor([0, 1]), 'name': ['a', 'b']}
    """
    samples = num_samples(batch) if samples is None else samples
    listed = any(_reading(inner, samples) == "samples" for inner in _inner_lists(batch, samples, top=True))
    return _select(batch, chosen, samples, listed=listed, top=True)


def _select(batch: Batch, chosen: Tensor | slice, samples: int, *, listed: bool, top: bool = False) -> Batch:
    def inside(value: Batch) -> Batch:
        return _select(value, chosen, samples, listed=listed)

    if isinstance(batch, Tensor):
        return batch[chosen] if batch.ndim and batch.shape[0] == samples else batch
    if isinstance(batch, Mapping):
        return _like(batch, {key: inside(value) for key, value in batch.items()})
    if _has_fields(batch):
        return type(batch)(*map(inside, batch))
    if isinstance(batch, tuple | list):
        if _lists_samples(batch, samples, listed=listed, top=top):
            places = range(samples)[chosen] if isinstance(chosen, slice) else chosen.tolist()
            return type(batch)(batch[place] for place in places)
        return type(batch)(map(inside, batch))
    return batch


def _lists_samples(batch: Batch, samples: int, *, listed: bool, top: bool) -> bool:
    """Whether a list or tuple holds one entry per sample, and not parts of which each has all the samples.

    The batch itself is made of parts where it can be, and an inner list is one of samples. An inner tuple that can be
    both is what another one in the batch is (``listed``), or refused.
    """
    if len(batch) != samples:
        return False
    if top:
        return not any(_spans(part, samples) for part in batch)
    reading = "samples" if isinstance(batch, list) or listed or samples == 1 else _reading(batch, samples)
    if reading == "either":
        raise SettingError(
            f"a batch of {samples} samples has a tuple of {samples} entries of the length {samples}, which cannot be "
            "cut: it may be one entry per sample or not; use a list of samples, a dict of parts, or accumulate=1"
        )
    return reading == "samples"


def _reading(batch: Batch, samples: int) -> Literal["samples", "parts", "either"]:
    """What an inner list or tuple, as long as the number of samples, can only be."""
    spans = [_spans(entry, samples) for entry in batch]
    if any(spans) and len({type(entry) for entry in batch}) > 1:
        return "parts"
    return "either" if all(spans) else "samples"


def _spans(entry: Batch, samples: int) -> bool:
    """Whether an entry of a list is as long as the number of samples, so that it may be a part that has all of them."""
    return samples in _sure_lengths(entry, top=True) or _long(entry, samples)


def _long(part: Batch, samples: int) -> bool:
    return isinstance(part, tuple | list) and len(part) == samples


def _inner_lists(batch: Batch, samples: int, *, top: bool = False) -> Iterator[Batch]:
    """Yield the lists and tuples in a batch that are as long as the number of samples."""
    if not top and _long(batch, samples) and not _has_fields(batch):
        yield batch
    for value in _values(batch):
        yield from _inner_lists(value, samples)


def split(batch: Batch, parts: int, *, samples: int | None = None) -> list[Batch]:
    """Cut a batch into at most ``parts`` microbatches of nearly equal size, none of them empty.

    ``samples`` is their number, where it is known; it is not guessed from parts of different lengths.

    >>> [len(part) for part in split(torch.arange(10), 4)]
    [3, 3, 2, 2]
    """
    if parts == 1:
        return [batch]
    if not _has_tensors(batch):
        raise SettingError(
            f"accumulate={parts} cannot cut a batch of type {type(batch).__name__} without tensors; use accumulate=1"
        )
    if samples is None:
        lengths = _lengths(batch)
        if len(lengths) > 1:
            raise SettingError(
                f"accumulate={parts} cannot cut a batch with parts of the lengths {', '.join(map(str, lengths))}, "
                "since it is not known which is the number of samples; give them one length, or use accumulate=1"
            )
        samples = lengths[0] if lengths else 1
    elif not _long(batch, samples) and samples not in {
        *(length for tensor in tensors_of(batch) for length in tensor.shape[:1]),
        *_list_lengths(batch, top=True),
    }:
        raise SettingError(
            f"accumulate={parts} cannot cut a batch of {samples} samples of which no part has that length; "
            "if a method changes their number, use accumulate=1"
        )
    parts = min(parts, samples)
    size, larger = divmod(samples, parts)
    pieces, start = [], 0
    for part in range(parts):
        stop = start + size + (part < larger)
        pieces.append(select(batch, slice(start, stop), samples=samples))
        start = stop
    return pieces
