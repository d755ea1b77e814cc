"""Schedule-free AdamW and SGD: an average of the weights takes the place of a schedule that falls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lehr.optim.base import Grouped
from lehr.optim.fields import Share
from lehr.optim.lists import counter, gather, loss_of

__all__ = ["ScheduleFreeAdamW", "ScheduleFreeOptimizer", "ScheduleFreeSGD", "schedule_free_step"]


class ScheduleFreeAdamW(Grouped):
    """Settings of schedule-free AdamW. Warm up with ``schedule=constant`` and its ``warmup``; let nothing fall.

    Gradients are taken at ``y = (1 - mix) z + mix x``, which is what the model holds while it trains. ``z`` makes
    AdamW's steps without momentum, and ``x``, the mean of all z weighted by the squares of their rates, is what is
    evaluated. Source: Defazio et al. 2024 (arXiv 2405.15682).

    >>> type(ScheduleFreeAdamW().build(torch.nn.Linear(2, 2))[0]).__name__
    'ScheduleFreeOptimizer'
    """

    lr: float = Field(default=2.5e-3, gt=0)
    """The base rate, which the schedule multiplies."""
    mix: float = Field(default=0.9, gt=0, lt=1)
    """Share of the average in the point where gradients are taken; stands where Adam has beta1."""
    beta2: Share = 0.999
    """Decay rate of the running second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay at y, per unit of rate."""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer over ``groups``."""
        return ScheduleFreeOptimizer(groups, lr=self.lr, mix=self.mix, beta2=self.beta2, eps=self.eps)


class ScheduleFreeSGD(Grouped):
    """Settings of schedule-free SGD: as `ScheduleFreeAdamW`, with z making steps of plain SGD.

    >>> type(ScheduleFreeSGD().build(torch.nn.Linear(2, 2))[0]).__name__
    'ScheduleFreeOptimizer'
    """

    lr: float = Field(default=0.1, gt=0)
    """The base rate, which the schedule multiplies; often 10 times that of SGD with momentum."""
    mix: float = Field(default=0.9, gt=0, lt=1)
    """Share of the average in the point where gradients are taken; stands where SGD has its momentum."""
    weight_decay: float = Field(default=0.0, ge=0)
    """``weight_decay * y`` is added to the gradient."""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer over ``groups``."""
        return ScheduleFreeOptimizer(groups, lr=self.lr, mix=self.mix)


class ScheduleFreeOptimizer(torch.optim.Optimizer):
    """Schedule-free SGD, or AdamW where ``beta2`` is given. Parameters hold y; `put_in` lets them hold x."""

    prefix: ClassVar[str] = ""
    """Evaluations with x take the place of those with y."""

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        mix: float = 0.9,
        beta2: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "mix": mix, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one update of y, z and, by their means, x."""
        loss = loss_of(closure)
        for group in self.param_groups:
            lists = gather(self, group, _fresh if group["beta2"] is None else _fresh_with_moment)
            if not lists.parameters:
                continue
            weight, sums = group["lr"] ** 2, lists.of("weight_sum")
            torch._foreach_add_(sums, weight)
            shares = [weight / float(total) if total else 0.0 for total in sums]
            directions = lists.gradients
            if group["beta2"] is not None:
                steps, moments = lists.of("step"), lists.of("exp_avg_sq")
                torch._foreach_add_(steps, 1)
                directions = _divided(directions, moments, steps, group["beta2"], group["eps"])
            if group["weight_decay"]:
                directions = list(torch._foreach_add(directions, lists.parameters, alpha=group["weight_decay"]))
            schedule_free_step(
                lists.parameters,
                directions,
                lists.of("z"),
                lr=group["lr"],
                mix=group["mix"],
                shares=shares,
            )
        return loss

    @contextlib.contextmanager
    def put_in(self) -> Iterator[None]:
        """Let the parameters hold the average x within the block, and y again afterwards, bit for bit.

        Statistics of batch norms stay those gathered at y.
        """
        held = [
            (parameter, parameter.detach().clone(), self.state[parameter]["z"], group["mix"])
            for group in self.param_groups
            for parameter in group["params"]
            if self.state.get(parameter)
        ]
        try:
            with torch.no_grad():
                for parameter, y, z, mix in held:
                    parameter.copy_(y.lerp(z, 1 - 1 / mix))  # x = z + (y - z) / mix
            yield
        finally:
            with torch.no_grad():
                for parameter, y, _, _ in held:
                    parameter.copy_(y)


def _fresh(parameter: Tensor) -> dict[str, Tensor]:
    return {"z": parameter.detach().clone(), "weight_sum": torch.zeros((), dtype=torch.float64)}


def _fresh_with_moment(parameter: Tensor) -> dict[str, Tensor]:
    return _fresh(parameter) | {"step": counter(), "exp_avg_sq": torch.zeros_like(parameter)}


def _divided(
    gradients: list[Tensor], moments: list[Tensor], steps: list[Tensor], beta2: float, eps: float
) -> list[Tensor]:
    """Move the second moments by the gradients, and return ``g / (sqrt(v_hat) + eps)``."""
    torch._foreach_mul_(moments, beta2)
    torch._foreach_addcmul_(moments, gradients, gradients, 1 - beta2)
    roots = torch._foreach_div(moments, [1 - beta2 ** float(step) for step in steps])
    torch._foreach_sqrt_(roots)
    torch._foreach_add_(roots, eps)
    return list(torch._foreach_div(gradients, roots))


def schedule_free_step(
    ys: list[Tensor],
    directions: list[Tensor],
    zs: list[Tensor],
    *,
    lr: float,
    mix: float,
    shares: list[float],
) -> None:
    """Change y and z in place: ``z -= lr d``; ``x = (1 - share) x + share z``; y between the two.

    A tensor's share is ``lr^2`` over the sum of the squares of all rates so far, this one's included. x is not stored:
    as ``y = (1 - mix) z + mix x``, y moves by ``share`` of its way to the old z, and against the direction by
    ``lr (1 - mix (1 - share))``.

    >>> y, z = [torch.tensor([1.0])], [torch.tensor([1.0])]
    >>> schedule_free_step(y, [torch.tensor([1.0])], z, lr=0.5, mix=0.5, shares=[1.0]); y, z
    ([tensor([0.5000])], [tensor([0.5000])])
    """
    torch._foreach_lerp_(ys, zs, shares)
    torch._foreach_sub_(ys, torch._foreach_mul(directions, [lr * (1 - mix * (1 - share)) for share in shares]))
    torch._foreach_sub_(zs, directions, alpha=lr)
