"""A copy of the buffers that a forward pass may change, to put back when its update is withheld."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["KeptBuffers"]


class KeptBuffers:
    """Keeps the persistent buffers of a model (batch-norm statistics and the like). Cost: one copy of them per step.

    >>> norm = nn.BatchNorm1d(1)
    >>> kept = KeptBuffers(norm)
    >>> kept.keep(); _ = norm(torch.tensor([[1.0], [3.0]])); kept.put_back()
    >>> norm.running_mean
    tensor([0.])
    """

    def __init__(self, model: nn.Module) -> None:
        persistent = model.state_dict(keep_vars=True)
        self._live = [b for name, b in model.named_buffers() if name in persistent]
        self._copies = [torch.empty_like(b) for b in self._live]

    def __bool__(self) -> bool:
        return bool(self._live)

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the buffers as they are."""
        if self._live:
            torch._foreach_copy_(self._copies, self._live)

    @torch.no_grad()
    def put_back(self) -> None:
        """Make the buffers what they were at the last `keep`."""
        if self._live:
            torch._foreach_copy_(self._live, self._copies)

    @torch.no_grad()
    def put_back_where(self, flag: Tensor) -> None:
        """As `put_back`, where the 0-d tensor ``flag`` is true, without reading it."""
        for live, copy in zip(self._live, self._copies, strict=True):
            live.copy_(torch.where(flag, copy, live))
