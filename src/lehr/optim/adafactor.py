"""Adafactor: Adam's second moment as the product of a row and a column."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lehr.optim.base import Grouped
from lehr.optim.lists import counter, gather, loss_of

__all__ = ["Adafactor", "AdafactorOptimizer"]


class Adafactor(Grouped):
    """Settings of Adafactor, which keeps ``a + b`` numbers for an a x b matrix, and no momentum.

    The second moment of a matrix is ``r c^T / sum(r)``, of the running means r and c over its rows and columns, kept
    with ``beta2_t = 1 - t^beta2_decay``. The update has a root mean square of ``clip`` at most, and is multiplied by
    ``factor * min(lr, 1/sqrt(t)) * max(eps_scale, rms(theta))``, the factor being that of the schedule and the rules.
    Source: Shazeer and Stern 2018 (arXiv 1804.04235). Torch's is ``min(factor * lr, 1/sqrt(t))``, where schedule and
    rules have no effect until what they give is below the root.

    >>> type(Adafactor().build(torch.nn.Linear(2, 2))[0]).__name__
    'AdafactorOptimizer'
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
        """Return Adafactor over ``groups``."""
        return AdafactorOptimizer(
            groups, lr=self.lr, beta2_decay=self.beta2_decay, clip=self.clip, eps_scale=self.eps_scale
        )


class AdafactorOptimizer(torch.optim.Optimizer):
    """Adafactor as a torch optimizer, parameter by parameter: lists would need a copy of all gradients.

    ``lr`` here is the rate that ``1/sqrt(t)`` is compared with, whatever the groups' own rates are now.
    """

    def __init__(
        self, params: Any, *, lr: float, beta2_decay: float = -0.8, clip: float = 1.0, eps_scale: float = 1e-3
    ) -> None:
        defaults = {"lr": lr, "beta2_decay": beta2_decay, "clip": clip, "eps_scale": eps_scale, "weight_decay": 0.0}
        super().__init__(params, defaults | {"base": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one update."""
        loss = loss_of(closure)
        for group in self.param_groups:
            for parameter, gradient, state in zip(*gather(self, group, _fresh), strict=True):
                _update(parameter, gradient, state, group)
        return loss


def _fresh(parameter: Tensor) -> dict[str, Tensor]:
    if parameter.ndim < 2:
        return {"step": counter(), "variance": torch.zeros_like(parameter)}
    shape = parameter.shape
    rows, columns = parameter.new_zeros((*shape[:-1], 1)), parameter.new_zeros((*shape[:-2], 1, shape[-1]))
    return {"step": counter(), "row_var": rows, "col_var": columns}


def _update(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    state["step"] += 1
    t = float(state["step"])
    relative = group["lr"] / group["base"] * min(group["base"], 1 / math.sqrt(t))
    size = max(group["eps_scale"], _rms(parameter))
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    eps = torch.finfo(parameter.dtype).eps
    update = _second_moment(gradient, state, t ** group["beta2_decay"], eps).clamp_(min=eps * eps).rsqrt_()
    update.mul_(gradient)
    parameter.add_(update, alpha=-relative * size / max(1.0, _rms(update) / group["clip"]))


def _second_moment(gradient: Tensor, state: dict[str, Any], share: float, eps: float) -> Tensor:
    """Bring the running means up to date, and return the second moment of each value, as a tensor of its own."""
    if gradient.ndim < 2:
        moment: Tensor = state["variance"].lerp_(gradient * gradient, share)
        return moment.clone()
    for name, axis in (("row_var", -1), ("col_var", -2)):  # a norm needs no copy of the squares
        mean = torch.linalg.vector_norm(gradient, dim=axis, keepdim=True).square_().div_(gradient.shape[axis])
        state[name].lerp_(mean, share)
    product: Tensor = state["row_var"] @ state["col_var"]
    return product.div_(state["row_var"].mean(dim=-2, keepdim=True).clamp_(min=eps))


def _rms(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values)) / math.sqrt(values.numel())
