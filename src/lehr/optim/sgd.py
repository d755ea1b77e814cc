"""SGD: plain, with momentum or with Nesterov's, in torch's form or in the one with the rate inside the velocity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.optim.base import Grouped, parameters_of
from lehr.optim.fields import Share
from lehr.optim.fused import implementation
from lehr.optim.lists import gather, loss_of

__all__ = ["SGD", "VelocitySGD", "velocity_step"]


class SGD(Grouped):
    """Settings of stochastic gradient descent.

    ``form="torch"``: ``v = momentum v + (1 - dampening) g``, ``theta -= lr v``: the rate of now on all of the velocity.
    ``form="guide"``: ``v = momentum v + lr g``, ``theta -= v``: each gradient keeps the rate of its own step. They are
    equal while the rate is constant. Sources: Polyak 1964; Nesterov 1983; Sutskever et al. 2013.

    >>> type(SGD(lr=0.1).build(torch.nn.Linear(2, 2))[0]).__name__
    'SGD'
    >>> SGD(momentum=0.0, nesterov=True)
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: SGD: nesterov=True needs a momentum above 0 and no dampening; momentum=0.0, ...
    """

    lr: float = Field(default=0.01, gt=0)
    """The base rate, which the schedule multiplies."""
    momentum: Share = 0.9
    """Share of the velocity that is kept; 0 is plain SGD."""
    nesterov: bool = False
    """Whether to take the gradient as if one step ahead (Nesterov)."""
    dampening: Share = 0.0
    """Share of each gradient but the first that is left out of the velocity."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2: ``weight_decay * theta`` is added to the gradient, as ``weight_decay/2 * theta^2`` in the loss would."""
    form: Literal["torch", "guide"] = "torch"
    """Whether the rate stands outside of the velocity or inside."""

    @model_validator(mode="after")
    def _check(self) -> SGD:
        if self.nesterov and (self.momentum == 0 or self.dampening):
            raise SettingError(
                "nesterov=True needs a momentum above 0 and no dampening; "
                f"momentum={self.momentum}, dampening={self.dampening}"
            )
        if self.dampening and (self.form == "guide" or self.momentum == 0):
            raise SettingError(
                f"dampening={self.dampening} has no meaning without momentum, nor in the guide's form; "
                "use form=torch and a momentum above 0, or dampening=0"
            )
        return self

    def takes_sparse(self) -> bool:
        """Whether it takes sparse gradients: in torch's form."""
        return self.form == "torch"

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return torch's SGD over ``groups``, or the guide's."""
        if self.form == "guide":
            return VelocitySGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)
        parameters = parameters_of(groups)
        optimizer = torch.optim.SGD(
            groups,
            lr=self.lr,
            momentum=self.momentum,
            dampening=self.dampening,
            nesterov=self.nesterov,
            **implementation(parameters, None if self.dampening else "_fused_sgd_"),
        )
        begin_velocities(optimizer)
        return optimizer


def begin_velocities(optimizer: torch.optim.Optimizer) -> None:
    """Give the parameters of a fused SGD with momentum that have no velocity one of 0; others stay as they are.

    Torch's kernel fails on a parameter whose first gradient comes later than the others'. Without dampening a velocity
    of 0 before the first gradient is the same as none.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        if group["momentum"] and group["fused"] and not group["dampening"]:
            for parameter in group["params"]:
                if optimizer.state[parameter].get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


class VelocitySGD(torch.optim.Optimizer):
    """SGD with the rate inside the velocity: ``v = momentum v + lr g``, ``theta -= v``."""

    def __init__(self, params: Any, *, lr: float, momentum: float, nesterov: bool = False) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one update."""
        loss = loss_of(closure)
        for group in self.param_groups:
            lists = gather(self, group, lambda p: {"momentum_buffer": torch.zeros_like(p)})
            gradients: Any = lists.gradients
            if group["weight_decay"]:
                gradients = torch._foreach_add(gradients, lists.parameters, alpha=group["weight_decay"])
            velocity_step(
                lists.parameters,
                gradients,
                lists.of("momentum_buffer"),
                lr=group["lr"],
                momentum=group["momentum"],
                nesterov=group["nesterov"],
            )
        return loss


def velocity_step(
    parameters: list[Tensor],
    gradients: list[Tensor],
    velocities: list[Tensor],
    *,
    lr: float,
    momentum: float,
    nesterov: bool = False,
) -> None:
    """Change parameters and velocities in place: ``v = momentum v + lr g``, ``theta -= v``.

    Nesterov's form goes one step further along: ``theta -= momentum v + lr g``.

    >>> theta, v = [torch.tensor([1.0])], [torch.tensor([0.5])]
    >>> velocity_step(theta, [torch.tensor([1.0])], v, lr=0.1, momentum=0.5); theta, v
    ([tensor([0.6500])], [tensor([0.3500])])
    """
    if not parameters:
        return
    torch._foreach_mul_(velocities, momentum)
    torch._foreach_add_(velocities, gradients, alpha=lr)
    if nesterov:
        torch._foreach_sub_(parameters, velocities, alpha=momentum)
        torch._foreach_sub_(parameters, gradients, alpha=lr)
    else:
        torch._foreach_sub_(parameters, velocities)
