"""Adafactor: Adam's second moment as the product of a row and a column."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from lehr.optim.base import Grouped

__all__ = ["Adafactor"]


class Adafactor(Grouped):
    """Settings of torch's Adafactor, which keeps ``a + b`` numbers for an a x b matrix, and no momentum.

    The second moment of a matrix is ``r c^T / sum(r)``, of the running means r and c over its rows and columns, kept
    with ``beta2_t = 1 - t^beta2_decay``. The update has a root mean square of ``clip`` at most, and is multiplied by
    ``min(lr, 1/sqrt(t)) * max(eps_scale, rms(theta))``. Source: Shazeer and Stern 2018 (arXiv 1804.04235).

    >>> type(Adafactor().build(torch.nn.Linear(2, 2))[0]).__name__
    'Adafactor'
    """

    lr: float = Field(default=0.01, gt=0)
    """The largest relative step, which the schedule multiplies."""
    beta2_decay: float = Field(default=-0.8, le=0)
    """Power of the step in the decay rate of the second moment."""
    clip: float = Field(default=1.0, ge=1)
    """Largest root mean square of an update, before its rate."""
    eps_scale: float = Field(default=1e-3, ge=0)
    """Stands for the size of weights that are smaller."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay, per unit of rate."""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's Adafactor over ``groups``, parameter by parameter: foreach would need a copy of all."""
        return torch.optim.Adafactor(
            groups, lr=self.lr, beta2_decay=self.beta2_decay, eps=(None, self.eps_scale), d=self.clip
        )
