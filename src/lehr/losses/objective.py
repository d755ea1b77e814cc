"""What is minimized: a function of the model and a batch that returns a sum and a count.

A plain ``loss(output, target)`` is accepted and wrapped; `lehr.losses.supervised` says how it is counted.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from lehr.base.errors import DataError, SettingError
from lehr.base.protocols import Batch
from lehr.losses.supervised import Supervised, sum_and_count
from lehr.losses.table import LOSSES

__all__ = ["Objective", "Supervised", "as_objective", "check_sum_and_count", "sum_and_count"]


@runtime_checkable
class Objective(Protocol):
    """``objective(model, batch) -> (sum, count)``; ``count`` is a number or a 0-d tensor."""

    def __call__(self, model: nn.Module, batch: Batch, /) -> tuple[Tensor, Tensor | float]:
        """Return the summed loss over the batch and the number of things summed."""


def as_objective(given: Any) -> Objective:
    """Return ``given`` as an objective: a function whose first parameter is ``model`` is one; any other is a loss.

    A name is looked up in `LOSSES`.

    >>> as_objective("label_smoothing").val_loss.__name__
    'cross_entropy'
    >>> import torch.nn.functional as F
    >>> type(as_objective(F.cross_entropy)).__name__
    'Supervised'
    >>> def mine(model, batch):
    ...     return model(batch).sum(), len(batch)
    >>> as_objective(mine) is mine
    True
    """
    if isinstance(given, str):
        named: Objective = LOSSES[given].make()
        return named
    if isinstance(given, Supervised):
        return given
    if not callable(given):
        raise SettingError(
            f"objective={given!r} cannot be called; give a loss(output, target), an objective(model, batch) or the "
            f"name of a loss ({', '.join(LOSSES)})"
        )
    if isinstance(given, nn.Module):
        return Supervised(loss=given)
    try:
        parameters = list(inspect.signature(given).parameters)
    except (TypeError, ValueError):  # a built-in without a signature
        parameters = []
    if parameters[:1] == ["model"]:
        objective: Objective = given
        return objective
    return Supervised(loss=given)


def check_sum_and_count(given: Any, name: str) -> None:
    """Refuse what an objective returned when it is not a 0-d tensor with a gradient and a count.

    >>> check_sum_and_count(3.0, "mine")
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: mine returned float; an objective returns (sum, count): a 0-d tensor and a number
    """
    if not (isinstance(given, tuple) and len(given) == 2):
        raise SettingError(
            f"{name} returned {type(given).__name__}; an objective returns (sum, count): a 0-d tensor and a number"
        )
    total, count = given
    if not isinstance(total, Tensor) or total.ndim != 0:
        shape = tuple(total.shape) if isinstance(total, Tensor) else type(total).__name__
        raise SettingError(f"{name} returned a sum of shape {shape}; it must be a 0-d tensor: use .sum()")
    if float(count) < 0:
        raise DataError(f"{name} returned the count {float(count)}; a count is 0 or more")
