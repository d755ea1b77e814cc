"""Penalties on the weights, added to the loss."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field, model_validator
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.protocols import Method, Place, RunContext
from lehr.base.settings import Settings
from lehr.losses.elastic_net import elastic_net
from lehr.losses.l1 import l1 as absolute_sum
from lehr.losses.l2 import l2 as squared_sum
from lehr.optim.groups import split_by_decay
from lehr.transfer.freeze import matching

__all__ = ["ElasticNet", "L1Penalty", "L2Penalty", "penalized"]

On = tuple[str, ...] | None


class L1Penalty(Settings):
    """Settings of ``amount * sum |θ|``, added to the mean loss.

    The loss that training records then holds the penalty; evaluations do not. Weights become small, not 0: for that
    there is `ProximalL1`.
    """

    amount: float = Field(default=1e-3, gt=0)
    """Strength of the penalty."""
    on: On = None
    """Patterns of parameter names, such as ``*.weight``; what weight decay falls on if not given: matrices, kernels."""

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        context.structure.hold("l1_penalty")
        amount = self.amount
        return Penalty(penalized(context.model, self.on), lambda chosen: amount * absolute_sum(chosen))


class L2Penalty(Settings):
    """Settings of ``amount * sum θ^2``, added to the mean loss.

    Its gradient is ``2 * amount * θ``: with plain SGD, that of ``weight_decay = 2 * amount``. With Adam it passes
    through the moments, which is what AdamW's decay does not.
    """

    amount: float = Field(default=1e-4, gt=0)
    """Strength of the penalty."""
    on: On = None
    """Patterns of parameter names, such as ``*.weight``; what weight decay falls on if not given: matrices, kernels."""

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        context.structure.hold("l2_penalty")
        amount = self.amount
        return Penalty(penalized(context.model, self.on), lambda chosen: amount * squared_sum(chosen))


class ElasticNet(Settings):
    """Settings of ``l1 * sum |θ| + l2 * sum θ^2``, added to the mean loss."""

    l1: float = Field(default=1e-4, ge=0)
    """Strength of the absolute values."""
    l2: float = Field(default=1e-4, ge=0)
    """Strength of the squares."""
    on: On = None
    """Patterns of parameter names, such as ``*.weight``; what weight decay falls on if not given: matrices, kernels."""

    @model_validator(mode="after")
    def _check(self) -> ElasticNet:
        if self.l1 == self.l2 == 0:
            raise SettingError("l1=0 and l2=0 penalize nothing; set one of them above 0, or leave the method out")
        return self

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        context.structure.hold("elastic_net")
        l1, l2 = self.l1, self.l2
        return Penalty(penalized(context.model, self.on), lambda chosen: elastic_net(chosen, l1=l1, l2=l2))


class Penalty(Method):
    """Adds a penalty to the loss of each microbatch, times what it counts, so that the mean has it once."""

    changes = frozenset({"loss"})

    def __init__(self, parameters: list[nn.Parameter], penalty: Callable[[list[nn.Parameter]], Tensor]) -> None:
        self._parameters, self._penalty = parameters, penalty

    def loss_ready(self, total: Tensor, count: Tensor | float, model: nn.Module, place: Place) -> Tensor:
        return total + self._penalty(self._parameters) * count


def penalized(model: nn.Module, on: On) -> list[nn.Parameter]:
    """Return the parameters that train and match a pattern of ``on``; None stands for what weight decay falls on.

    >>> len(penalized(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), None))
    1
    """
    names = split_by_decay(model)[0] if on is None else matching(model, on)
    parameters = dict(model.named_parameters())
    trained = [parameters[name] for name in names if parameters[name].requires_grad]
    if names and not trained:
        raise SettingError(
            f"on={on} chooses only parameters that are frozen ({', '.join(names[:5])}), on which a penalty has no "
            "effect; choose others"
        )
    if not names:
        raise SettingError(
            f"on={on} chooses no parameter of {type(model).__name__}, which has no trainable matrix or kernel; "
            "give patterns of names, such as ['*.weight']"
            if on is None
            else "on=[] chooses no parameter; give patterns of names, or leave it out for all matrices and kernels"
        )
    return trained
