"""L1 by its proximal step: weights that are exactly 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import nn

from lehr.base.errors import SettingError
from lehr.base.protocols import Method, Place, RunContext
from lehr.base.settings import Settings
from lehr.losses.l1 import soft_threshold_
from lehr.training.methods.own_average import refuse_own_average
from lehr.training.methods.penalty import On, penalized

__all__ = ["ProximalL1"]


class ProximalL1(Settings):
    """Settings of `lehr.losses.soft_threshold_` after each update, by the step's rate times ``amount``.

    ``θ <- sign(θ) max(|θ| - lr * amount, 0)``: for plain gradient descent the minimum is that of the loss with
    ``amount * sum |θ|`` (ISTA; Daubechies et al. 2004, arXiv math/0307152), with weights that are exactly 0. The rate
    is the one of the parameter's group at that step, schedule included.
    """

    amount: float = Field(default=1e-3, gt=0)
    """Strength of the penalty."""
    on: On = None
    """Patterns of parameter names, such as ``*.weight``; what weight decay falls on if not given: matrices, kernels."""

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        context.structure.hold("proximal_l1")
        refuse_own_average(
            context.optimizers, "which a threshold on the weights in training does not reach; use l1_penalty"
        )
        return ProximalL1Method(self.amount, penalized(context.model, self.on), context.optimizers)


class ProximalL1Method(Method):
    """Thresholds the weights of one run."""

    changes = frozenset({"model"})

    def __init__(self, amount: float, chosen: list[nn.Parameter], optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._amount = amount
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        wanted = set(chosen)
        self._parts: list[tuple[dict[str, Any], list[nn.Parameter]]] = [
            (group, held) for group in groups if (held := [p for p in group["params"] if p in wanted])
        ]
        if not self._parts:
            raise SettingError("proximal_l1 chooses only parameters that no optimizer trains; choose others with on=")

    def step_end(self, model: nn.Module, place: Place) -> None:
        for group, held in self._parts:
            soft_threshold_([p for p in held if p.requires_grad], float(group["lr"]) * self._amount)
