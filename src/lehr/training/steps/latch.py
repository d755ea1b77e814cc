"""A flag on the device that closes at the first bad step and stays closed until the host looks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Latch", "can_mask", "set_found_inf"]


class Latch:
    """Remembers on the device whether, and at which step, something was not as it must be.

    >>> latch = Latch(torch.device("cpu"))
    >>> [bool(latch.close_on(torch.tensor(bad), step)) for step, bad in enumerate([False, True, False])]
    [False, True, True]
    >>> latch.read(), latch.read()
    (1, None)
    """

    def __init__(self, device: torch.device) -> None:
        self._at = torch.full((), -1, dtype=torch.int64, device=device)

    def close_on(self, bad: Tensor, step: int) -> Tensor:
        """Close when ``bad`` is true, and return whether it is closed, both without reading."""
        closed = self._at >= 0
        self._at = torch.where(bad & ~closed, step, self._at)
        return self._at >= 0

    def read(self) -> int | None:
        """Return the step at which it closed, if it did, and open it. This waits for the device."""
        at = int(self._at)
        self._at = torch.full_like(self._at, -1)
        return at if at >= 0 else None


def can_mask(optimizers: Sequence[torch.optim.Optimizer]) -> bool:
    """Whether all these optimizers can withhold an update without the host: torch's fused kernels can.

    >>> parameter = [torch.zeros(1, requires_grad=True)]
    >>> can_mask([torch.optim.AdamW(parameter, fused=True)]), can_mask([torch.optim.SGD(parameter, fused=False)])
    (True, False)
    """
    return all(getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in optimizers)


def set_found_inf(optimizer: torch.optim.Optimizer, flag: Tensor | None) -> None:
    """Tell a fused optimizer to leave out its updates where ``flag`` is 1, the way torch's gradient scaler does."""
    optimizer.found_inf = flag  # type: ignore[attr-defined]
