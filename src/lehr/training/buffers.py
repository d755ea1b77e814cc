"""A copy of the buffers that a forward pass may change, to put back when its update is withheld."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

__all__ = ["KeptBuffers"]


class KeptBuffers:
    """Keeps the buffers of a model (batch-norm statistics and the like). Cost: one copy of them per step.

    They are known by module and name, since a forward pass may put another tensor in their place.

    >>> norm = nn.BatchNorm1d(1)
    >>> kept = KeptBuffers(norm)
    >>> kept.keep(); _ = norm(torch.tensor([[1.0], [3.0]])); kept.put_back()
    >>> norm.running_mean
    tensor([0.])
    """

    def __init__(self, model: nn.Module) -> None:
        self._slots = [(m, name) for m in model.modules() for name, b in m._buffers.items() if b is not None]
        self._live: list[Tensor] = []
        self._copies: list[Tensor] = []

    def __bool__(self) -> bool:
        return bool(self._slots)

    def _current(self) -> list[Tensor]:
        return [module._buffers[name] for module, name in self._slots]  # type: ignore[misc]

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the buffers as they are."""
        if not self._slots:
            return
        live = self._current()
        if len(live) != len(self._live) or any(a is not b for a, b in zip(live, self._live, strict=True)):
            self._live, self._copies = live, [torch.empty_like(b) for b in live]
        torch._foreach_copy_(self._copies, self._live)

    @torch.no_grad()
    def put_back(self) -> None:
        """Make the buffers what they were at the last `keep`."""
        if not self._live:
            return
        for (module, name), live in zip(self._slots, self._live, strict=True):
            module._buffers[name] = live
        torch._foreach_copy_(self._live, self._copies)

    @torch.no_grad()
    def put_back_where(self, flag: Tensor) -> None:
        """As `put_back`, where the 0-d tensor ``flag`` is true, without reading it."""
        for live, copy in zip(self._current(), self._copies, strict=True):
            live.copy_(torch.where(flag, copy, live))

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Run a block that leaves the buffers as they are; what was kept before is forgotten."""
        self.keep()
        try:
            yield
        finally:
            self.put_back()
