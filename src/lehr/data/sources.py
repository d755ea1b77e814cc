"""Data that lies in memory and is read by whole batches: one indexing operation, no Python per sample."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lehr.base import seeds
from lehr.base.batches import map_tensors, tensors_of, to_device
from lehr.base.errors import DataError
from lehr.base.protocols import Batch

__all__ = ["IGNORE", "HeldOutWindows", "PaddedSource", "Source", "TensorSource", "TokenWindows"]

IGNORE = -1
"""The target of a position that is not to be predicted."""


@runtime_checkable
class Source(Protocol):
    """Data that gives a whole batch for a tensor of indices, by a method that data sets of samples do not have."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def take_batch(self, indices: Tensor, *, epoch: int, seed: int) -> Batch:
        """Return the batch of these samples."""


class TensorSource:
    """Tensors of equal length, indexed where they lie.

    >>> source = TensorSource((torch.arange(4.0), torch.tensor([0, 1, 0, 1])))
    >>> source.take_batch(torch.tensor([2, 0]), epoch=0, seed=0)
    (tensor([2., 0.]), tensor([0, 0]))
    """

    def __init__(self, tensors: Batch) -> None:
        lengths = [t.shape[0] if t.ndim else -1 for t in tensors_of(tensors)]
        if not lengths or min(lengths) < 0 or len(set(lengths)) != 1:
            raise DataError(
                f"tensors of samples must share their first dimension; these have {lengths}, one entry per tensor"
            )
        self.tensors = tensors
        self._length = lengths[0]
        self._flat = tuple(tensors) if type(tensors) is tuple and all(isinstance(t, Tensor) for t in tensors) else None

    def __len__(self) -> int:
        return self._length

    def on(self, device: torch.device) -> TensorSource:
        """Return the same data in the memory of ``device``, for indices that lie there too."""
        return TensorSource(to_device(self.tensors, device))

    def take_batch(self, indices: Tensor, *, epoch: int, seed: int) -> Batch:
        """Return the batch of these samples."""
        if self._flat is not None:  # the usual pair of tensors, without the walk through nested structures
            return tuple([t.index_select(0, indices) for t in self._flat])
        return map_tensors(lambda tensor: tensor.index_select(0, indices), self.tensors)


class PaddedSource:
    """Rows of ids padded at their end with 0; each batch is cut to its longest row, tensor by tensor.

    Cost: what padding to the longest row of all the data would cost is saved, about half on short texts.

    >>> source = PaddedSource((torch.tensor([[1, 0, 0], [1, 2, 3], [1, 2, 0]]),))
    >>> source.take_batch(torch.tensor([2, 0]), epoch=0, seed=0)
    (tensor([[1, 2],
            [1, 0]]),)
    """

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.tensors = tensors
        self._lengths = [(tensor != 0).sum(dim=1) for tensor in tensors]

    def __len__(self) -> int:
        return len(self.tensors[0])

    @property
    def lengths(self) -> Tensor:
        """The length of each sample: of all its rows together."""
        return torch.stack(self._lengths).sum(dim=0)

    def take_batch(self, indices: Tensor, *, epoch: int, seed: int) -> Batch:
        """Return the batch of these samples."""
        widths = [int(lengths[indices].max()) for lengths in self._lengths]
        return tuple(rows[:, :width].index_select(0, indices) for rows, width in zip(self.tensors, widths, strict=True))


class TokenWindows:
    """Windows of ``context`` tokens and the tokens that follow them, for training a language model.

    An epoch reads the text once, in windows that do not overlap; where they begin is drawn anew for each epoch, so
    that over the epochs every token is predicted from contexts of every length. (x, y) are (batch, context), int64.

    >>> windows = TokenWindows(torch.arange(10, dtype=torch.uint8), context=4)
    >>> len(windows)
    1
    >>> x, y = windows.take_batch(torch.tensor([0]), epoch=0, seed=0)
    >>> bool((y == x + 1).all())
    True
    """

    def __init__(self, tokens: Tensor, *, context: int) -> None:
        if len(tokens) < 2 * context:
            raise DataError(
                f"the training text has {len(tokens)} tokens, too few for windows of context={context}; "
                f"use a context of at most {len(tokens) // 2}, or more text"
            )
        self.tokens, self.context = tokens, context
        self._steps = torch.arange(context + 1, device=tokens.device)

    def __len__(self) -> int:
        return (len(self.tokens) - self.context) // self.context

    def on(self, device: torch.device) -> TokenWindows:
        """Return the same text in the memory of ``device``, for indices that lie there too."""
        return TokenWindows(self.tokens.to(device), context=self.context)

    def take_batch(self, indices: Tensor, *, epoch: int, seed: int) -> Batch:
        """Return the inputs and the targets of these windows."""
        offset = seeds.address(seed, "windows", epoch) % self.context
        window = _as_int64(self.tokens[(indices * self.context + offset)[:, None] + self._steps])
        return window[:, :-1], window[:, 1:]


class HeldOutWindows:
    """Windows over a held-out text such that each of its tokens is predicted exactly once, the first one included.

    >>> windows = HeldOutWindows(torch.tensor([5, 6, 7], dtype=torch.uint8), context=2, before=0)
    >>> windows.take_batch(torch.tensor([0, 1]), epoch=0, seed=0)
    (tensor([[0, 5],
            [6, 7]]), tensor([[ 5,  6],
            [ 7, -1]]))
    """

    def __init__(self, tokens: Tensor, *, context: int, before: int) -> None:
        if len(tokens) == 0:
            raise DataError("the validation text is empty; give more text")
        self.tokens, self.context, self.before = tokens, context, before
        self._steps = torch.arange(-1, context)

    def __len__(self) -> int:
        return -(-len(self.tokens) // self.context)

    def take_batch(self, indices: Tensor, *, epoch: int, seed: int) -> Batch:
        """Return the inputs and the targets of these windows; past the end the target is `IGNORE`."""
        places = (indices * self.context)[:, None] + self._steps
        window = _as_int64(self.tokens[places.clamp(0, len(self.tokens) - 1)])
        window[places < 0] = self.before
        beyond = places >= len(self.tokens)
        inputs = window.masked_fill(beyond, self.before)[:, :-1]
        return inputs, window.masked_fill(beyond, IGNORE)[:, 1:]


def _as_int64(tokens: Tensor) -> Tensor:
    """Widen stored tokens; 16-bit ones are unsigned on disk, which torch cannot index, so their sign is undone."""
    wide = tokens.long()
    return wide & 0xFFFF if tokens.dtype == torch.int16 else wide


def is_tensors(given: Any) -> bool:
    """Whether ``given`` is a tensor, or a tuple, list or dict of nothing but tensors."""
    if isinstance(given, Tensor):
        return True
    values = list(given.values()) if isinstance(given, dict) else given
    return isinstance(values, tuple | list) and len(values) > 0 and all(isinstance(v, Tensor) for v in values)
