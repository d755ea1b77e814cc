"""Adam, with weight decay in the gradient (L2)."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from lehr.optim.base import Grouped, parameters_of
from lehr.optim.fields import Betas
from lehr.optim.fused import implementation

__all__ = ["Adam"]


class Adam(Grouped):
    """Settings of torch's Adam. For decay apart from the gradient use `AdamW`.

    ``g += weight_decay * theta``; ``m = beta1 m + (1 - beta1) g``; ``v = beta2 v + (1 - beta2) g^2``;
    ``theta -= lr * m_hat / (sqrt(v_hat) + eps)`` with ``m_hat = m / (1 - beta1^t)``, ``v_hat = v / (1 - beta2^t)``.
    Source: Kingma and Ba 2015 (arXiv 1412.6980).

    >>> type(Adam().build(torch.nn.Linear(2, 2))[0]).__name__
    'Adam'
    """

    lr: float = Field(default=1e-3, gt=0)
    """The base rate, which the schedule multiplies."""
    betas: Betas = (0.9, 0.999)
    """Decay rates of the running first and second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2: ``weight_decay * theta`` is added to the gradient, and divided by the root of v with it."""
    amsgrad: bool = False
    """Whether to divide by the largest v so far (Reddi et al. 2018, arXiv 1904.09237)."""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's Adam over ``groups``."""
        return torch.optim.Adam(
            groups,
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            amsgrad=self.amsgrad,
            **implementation(parameters_of(groups), "_fused_adam_"),
        )
