"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lehr.optim.base import Grouped
from lehr.optim.fields import Betas
from lehr.optim.lists import gather, loss_of

__all__ = ["Lion", "LionOptimizer", "lion_step"]


class Lion(Grouped):
    """Settings of Lion: one number of state per weight, and steps of one size for all weights.

    ``theta -= lr * (sign(beta1 m + (1 - beta1) g) + weight_decay * theta)``, then ``m = beta2 m + (1 - beta2) g``. Its
    rate is 3 to 10 times lower than AdamW's and its decay as many times higher. Source: Chen et al. 2023
    (arXiv 2302.06675).

    >>> type(Lion().build(torch.nn.Linear(2, 2))[0]).__name__
    'LionOptimizer'
    """

    lr: float = Field(default=1e-4, gt=0)
    """The base rate, which the schedule multiplies."""
    betas: Betas = (0.9, 0.99)
    """Share of the momentum in the direction, and share of it that is kept."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay, per unit of rate."""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return Lion over ``groups``."""
        return LionOptimizer(groups, lr=self.lr, betas=self.betas)


class LionOptimizer(torch.optim.Optimizer):
    """Lion as a torch optimizer."""

    def __init__(self, params: Any, *, lr: float, betas: tuple[float, float], weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one update."""
        loss = loss_of(closure)
        for group in self.param_groups:
            lists = gather(self, group, lambda p: {"exp_avg": torch.zeros_like(p)})
            lion_step(
                lists.parameters,
                lists.gradients,
                lists.of("exp_avg"),
                lr=group["lr"],
                betas=group["betas"],
                weight_decay=group["weight_decay"],
            )
        return loss


def lion_step(
    parameters: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    *,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float = 0.0,
) -> None:
    """Change parameters and momenta in place by one update of Lion.

    >>> theta, m = [torch.tensor([1.0, 1.0])], [torch.tensor([0.0, -1.0])]
    >>> lion_step(theta, [torch.tensor([0.5, 0.5])], m, lr=0.1, betas=(0.9, 0.5)); theta, m
    ([tensor([0.9000, 1.1000])], [tensor([ 0.2500, -0.2500])])
    """
    if not parameters:
        return
    directions = torch._foreach_lerp(momenta, gradients, 1 - betas[0])
    torch._foreach_sign_(directions)
    if weight_decay:
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
    torch._foreach_sub_(parameters, directions, alpha=lr)
    torch._foreach_lerp_(momenta, gradients, 1 - betas[1])
