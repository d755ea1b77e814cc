"""The next batch copied to the accelerator on a stream of its own, while the step of this one runs."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lehr.base.batches import map_tensors, tensors_of
from lehr.base.protocols import Batch, Loader

__all__ = ["CopyAhead", "reader"]


@dataclass(frozen=True)
class _Taken:
    """One batch on its way, and what the loader said after it was taken; or what went wrong."""

    batch: Batch
    ids: list[int]
    behind: dict[str, Any]
    epoch: int
    error: Exception | None = None


class CopyAhead:
    """Another loader's batches, one taken ahead. Position, ids and errors are those of what was handed out.

    Memory: one batch more, in pinned memory and on the device. On a device without streams nothing overlaps.

    >>> from lehr.data.opening import training_loader
    >>> from lehr.data.data import Data
    >>> loader = CopyAhead(training_loader(torch.arange(4), Data(batch_size=2), seed=0), torch.device("cpu"))
    >>> next(loader), loader.state_dict() == loader.loader.state_dict()
    (tensor([...]), False)
    """

    def __init__(self, loader: Loader, device: torch.device) -> None:
        self.loader, self._device = loader, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.steps_per_epoch, self.batch_size = loader.steps_per_epoch, loader.batch_size
        self._ahead: _Taken | None = None
        self._begin()

    def _begin(self) -> None:
        self.ids: list[int] = []
        self.epoch, self._position = self.loader.epoch, self.loader.state_dict()

    @property
    def seekable(self) -> bool:
        """As the other loader."""
        return self.loader.seekable

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        taken, self._ahead = self._ahead or self._take(), None
        if taken.error is not None:
            raise taken.error
        if self._stream is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_stream(self._stream)
            for tensor in tensors_of(taken.batch):
                tensor.record_stream(computing)  # its memory is not given to the next copy before the step has read it
        self.ids, self.epoch, self._position = taken.ids, taken.epoch, taken.behind
        self._ahead = self._take()
        return taken.batch

    def _take(self) -> _Taken:
        """Take the next batch and begin to copy it; an error waits until the batch is asked for."""
        try:
            batch = next(self.loader)
            with torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext():
                batch = map_tensors(self._copied, batch)
        except Exception as error:
            return _Taken(None, [], {}, 0, error)
        # a stream's own state is its own object, which changes while it is read ahead
        behind = copy.deepcopy(self.loader.state_dict())
        return _Taken(batch, list(self.loader.ids), behind, self.loader.epoch)

    def _copied(self, tensor: Tensor) -> Tensor:
        if self._stream is not None and tensor.device.type == "cpu" and not tensor.is_pinned():
            tensor = tensor.pin_memory()  # a copy from other memory waits until it is done
        return tensor.to(self._device, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the position behind the last batch that was handed out."""
        return dict(self._position)

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go to a position; what was taken ahead is forgotten."""
        self._ahead = None
        self.loader.load_state_dict(state)
        self._begin()

    def close(self) -> None:
        """Stop worker processes."""
        self._ahead = None
        self.loader.close()


def reader(loader: Loader) -> Loader:
    """Return the loader that reads: the one given, or the one whose batches it copies.

    >>> from lehr.data.opening import training_loader
    >>> from lehr.data.data import Data
    >>> own = training_loader(torch.arange(4), Data(batch_size=2), seed=0)
    >>> reader(own) is own, reader(CopyAhead(own, torch.device("cpu"))) is own
    (True, True)
    """
    return loader.loader if isinstance(loader, CopyAhead) else loader
