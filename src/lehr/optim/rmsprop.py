"""RMSprop: each weight's gradient over the root of a running mean of its square."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from lehr.optim.base import Grouped, parameters_of
from lehr.optim.fields import Share
from lehr.optim.fused import implementation

__all__ = ["RMSprop"]


class RMSprop(Grouped):
    """Settings of torch's RMSprop.

    ``v = alpha v + (1 - alpha) g^2``, ``theta -= lr * g / (sqrt(v) + eps)``; with ``centered``, the square of a running
    mean of g is taken off v first, which makes v a variance. Sources: Tieleman and Hinton 2012, lecture 6.5 of a
    course; Graves 2013 (arXiv 1308.0850) for the centered form.

    >>> type(RMSprop().build(torch.nn.Linear(2, 2))[0]).__name__
    'RMSprop'
    """

    lr: float = Field(default=0.01, gt=0)
    """The base rate, which the schedule multiplies."""
    alpha: Share = 0.99
    """Share of the running mean that is kept."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the mean."""
    momentum: Share = 0.0
    """Momentum of the divided gradients."""
    centered: bool = False
    """Whether to take off the square of the mean."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2: ``weight_decay * theta`` is added to the gradient."""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's RMSprop over ``groups``."""
        return torch.optim.RMSprop(
            groups,
            lr=self.lr,
            alpha=self.alpha,
            eps=self.eps,
            momentum=self.momentum,
            centered=self.centered,
            **implementation(parameters_of(groups), None),
        )
