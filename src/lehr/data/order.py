"""Which samples make which batch: a pure function of (seed, epoch, batch), so that any position can be gone to."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lehr.base import seeds
from lehr.base.errors import DataError, LehrWarning, SettingError

__all__ = ["Order", "SampledOrder", "ShuffledOrder", "bucketed", "position", "position_of", "shuffled"]


POOL = 50
"""Batches whose samples are sorted by length together."""


class Order(Protocol):
    """Which samples make which batch."""

    batch_size: int
    num_samples: int
    batches_per_epoch: int

    def batch(self, epoch: int, index: int) -> Any:
        """Return the indices of one batch."""


def position(order: Order, handed_out: int) -> dict[str, int]:
    """Return the position of a loader that has handed out so many batches, and in what that counts.

    >>> position(ShuffledOrder(10, batch_size=4, seed=0), 5)
    {'epoch': 1, 'batch': 2, 'batch_size': 4, 'samples': 10}
    """
    epoch, batch = divmod(handed_out, order.batches_per_epoch)
    return {"epoch": epoch, "batch": batch, "batch_size": order.batch_size, "samples": order.num_samples}


def position_of(order: Order, state: Mapping[str, int]) -> int:
    """Return how many batches have been handed out at a saved position, be it of another batch size or other data.

    Where no batch begins at the sample that it had come to, and where the samples are others, the next epoch begins.

    >>> smaller = ShuffledOrder(10, batch_size=2, seed=0)
    >>> position_of(smaller, position(ShuffledOrder(10, batch_size=4, seed=0), 5))
    9
    """
    epoch, batch = state["epoch"], state["batch"]
    size, samples = state.get("batch_size", order.batch_size), state.get("samples", order.num_samples)
    place, inside = divmod(batch * size, order.batch_size)
    if batch and (inside or samples != order.num_samples or place > order.batches_per_epoch):
        warnings.warn(
            f"the run was at batch {batch} of epoch {epoch}, in batches of {size} of {samples} samples; no batch of "
            f"{order.batch_size} of {order.num_samples} samples begins there, so the rest of that epoch is left out",
            LehrWarning,
            stacklevel=3,
        )
        place = order.batches_per_epoch
    return epoch * order.batches_per_epoch + place


def shuffled(num_samples: int, *, seed: int, epoch: int) -> Tensor:
    """Return the order of the samples in ``epoch``: a permutation that depends on nothing but its arguments.

    >>> sorted(shuffled(4, seed=0, epoch=1).tolist())
    [0, 1, 2, 3]
    """
    return torch.randperm(num_samples, generator=seeds.generator(seed, "order", epoch))


def bucketed(order: Tensor, lengths: Tensor, *, batch_size: int, seed: int, epoch: int) -> Tensor:
    """Return ``order`` with samples of similar length beside one another, so that batches have little padding.

    Sorted by length are `POOL` batches at a time, so that it still depends on the epoch who meets whom; the batches are
    then shuffled. Samples that make no whole batch stay at the end.

    >>> lengths = torch.tensor([1, 9, 1, 9, 1, 9])
    >>> made = bucketed(torch.arange(6), lengths, batch_size=2, seed=0, epoch=0)
    >>> sorted(tuple(lengths[pair].tolist()) for pair in made.view(3, 2))
    [(1, 1), (1, 9), (9, 9)]
    """
    whole = len(order) // batch_size * batch_size
    pools = torch.split(order[:whole], POOL * batch_size)
    batches = torch.cat([pool[lengths[pool].argsort(stable=True)] for pool in pools]).view(-1, batch_size)
    drawn = torch.randperm(len(batches), generator=seeds.generator(seed, "buckets", epoch))
    return torch.cat([batches[drawn].flatten(), order[whole:]])


class ShuffledOrder:
    """Epochs of ``num_samples`` samples in batches of ``batch_size``, shuffled anew in each epoch or in their order.

    With ``lengths``, one for each sample, batches are `bucketed`.

    >>> order = ShuffledOrder(10, batch_size=4, seed=0)
    >>> order.batches_per_epoch, len(order.batch(0, 2))
    (3, 2)
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = False,
        lengths: Tensor | None = None,
    ) -> None:
        if num_samples == 0:
            raise DataError("the data is empty; give at least one sample")
        if batch_size > num_samples:
            raise DataError(
                f"batch_size={batch_size} is larger than the data, which has {num_samples} samples; "
                f"use a batch_size of 1 to {num_samples}"
            )
        self.batch_size = batch_size
        self.num_samples = num_samples
        self.batches_per_epoch = num_samples // batch_size if drop_last else -(-num_samples // batch_size)
        self._seed, self._shuffle, self._lengths = seed, shuffle, lengths
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.long)

    def batch(self, epoch: int, index: int) -> Tensor:
        """Return the indices of the samples of one batch."""
        if epoch != self._epoch:
            everything = torch.arange(self.num_samples)
            self._permutation = (
                shuffled(self.num_samples, seed=self._seed, epoch=epoch) if self._shuffle else everything
            )
            if self._lengths is not None:
                self._permutation = bucketed(
                    self._permutation, self._lengths, batch_size=self.batch_size, seed=self._seed, epoch=epoch
                )
            self._epoch = epoch
        start = index * self.batch_size
        return self._permutation[start : start + self.batch_size]


class SampledOrder:
    """The batches that the sampler of a user's DataLoader makes, drawn at an address so that they can be drawn again.

    The sampler's order is kept as it is, balanced or weighted or in any other way. What makes it random is set to
    (seed, epoch) before each epoch: the global generators, its own ``generator``, its ``set_epoch``.
    """

    def __init__(self, loader: DataLoader[Any], *, seed: int) -> None:
        self._batches_of = loader.batch_sampler
        self._sampler = getattr(loader.batch_sampler, "sampler", None)
        self._seed = seed
        self._epoch, self._batches = 0, self._draw(0)
        if not self._batches:
            raise DataError("the DataLoader gives no batch; give it more samples, or a smaller batch_size")
        again = self._draw(0)
        if again != self._batches:
            raise SettingError(
                f"the sampler {type(self._sampler or self._batches_of).__name__} gives another order each time it is "
                "asked, even with every generator set to the same seed, so a resumed run could not be exact; make its "
                "order follow from torch's, NumPy's or random's global generator, from a `generator` attribute, or "
                "from `set_epoch`"
            )
        self.batches_per_epoch = len(self._batches)
        sizes = [len(batch) for batch in self._batches]
        self.batch_size, self.num_samples = max(sizes), sum(sizes)

    def _draw(self, epoch: int) -> list[list[Any]]:
        for part in (self._sampler, self._batches_of):
            if part is not None and hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
            own = getattr(part, "generator", None)
            if isinstance(own, torch.Generator):
                own.manual_seed(seeds.address(self._seed, "sampler", epoch))
        with seeds.seeded(self._seed, "sampler", epoch):
            return [list(batch) for batch in self._batches_of or ()]

    def batch(self, epoch: int, index: int) -> list[Any]:
        """Return the indices of the samples of one batch."""
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._draw(epoch)
            if len(self._batches) != self.batches_per_epoch:
                raise DataError(
                    f"the sampler gave {self.batches_per_epoch} batches in epoch 0 and {len(self._batches)} in epoch "
                    f"{epoch}; epochs must be equally long"
                )
        return self._batches[index]
