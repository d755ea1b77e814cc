"""Adagrad: each weight's rate falls with the sum of its squared gradients."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from lehr.optim.base import Grouped, parameters_of
from lehr.optim.fused import implementation

__all__ = ["Adagrad"]


class Adagrad(Grouped):
    """Settings of torch's Adagrad, for features that are seldom there; takes sparse gradients.

    ``s += g^2``, ``theta -= lr * g / (sqrt(s) + eps)``. Source: Duchi, Hazan and Singer 2011.

    >>> type(Adagrad().build(torch.nn.Linear(2, 2))[0]).__name__
    'Adagrad'
    """

    lr: float = Field(default=0.01, gt=0)
    """The base rate, which the schedule multiplies."""
    eps: float = Field(default=1e-10, gt=0)
    """Added to the root of the sum."""
    initial_sum: float = Field(default=0.0, ge=0)
    """What the sums of squares start from; more makes the first steps smaller."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2: ``weight_decay * theta`` is added to the gradient."""

    def takes_sparse(self) -> bool:
        """Whether it takes sparse gradients: yes."""
        return True

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's Adagrad over ``groups``."""
        return torch.optim.Adagrad(
            groups,
            lr=self.lr,
            eps=self.eps,
            initial_accumulator_value=self.initial_sum,
            **implementation(parameters_of(groups), "_fused_adagrad_"),
        )
