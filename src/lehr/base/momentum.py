"""Setting the momentum of optimizers that exist, for schedules that cycle it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lehr.base.errors import SettingError

__all__ = ["check_momentum", "set_momentum"]


def check_momentum(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Refuse optimizers without a momentum that could be set; ``betas[0]`` is that of the Adam family.

    >>> check_momentum([torch.optim.Adagrad([torch.zeros(1)])])
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: the schedule cycles the momentum, but Adagrad has none; use cycle_momentum=none
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if "betas" not in group and not group.get("momentum"):
                name = type(optimizer).__name__.removesuffix("Optimizer")  # lehr's own: SOAPOptimizer is SOAP's
                raise SettingError(f"the schedule cycles the momentum, but {name} has none; use cycle_momentum=none")


def set_momentum(optimizers: Sequence[torch.optim.Optimizer], value: float) -> None:
    """Let every group have this momentum, or this first beta.

    >>> optimizer = torch.optim.AdamW([torch.zeros(1)])
    >>> set_momentum([optimizer], 0.8); optimizer.param_groups[0]["betas"]
    (0.8, 0.999)
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (value, *group["betas"][1:])
            else:
                group["momentum"] = value
