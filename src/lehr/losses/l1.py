"""L1: the sum of absolute weights, and its proximal step, which makes weights exactly 0."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.base.tensors import in_full
from lehr.losses.elements import added

__all__ = ["l1", "soft_threshold", "soft_threshold_"]


def l1(parameters: Iterable[Tensor]) -> Tensor:
    """Return ``sum |θ|`` over all elements of ``parameters``, 0-d.

    As a penalty it is added to a mean loss times λ, or to a summed loss times λ and the count. Its gradient, λ sign θ,
    makes weights small but hardly ever 0; `soft_threshold_` does. Source: Tibshirani 1996, "Regression shrinkage and
    selection via the lasso". Raises `SettingError` where there are no parameters.

    >>> float(l1([torch.tensor([1.0, -2.0]), torch.tensor(0.5)]))
    3.5
    """
    return added([in_full(p).abs().sum() for p in parameters])


def soft_threshold(value: Tensor, amount: float) -> Tensor:
    """Return ``sign(v) max(|v| - amount, 0)``: the proximal step of L1, torch's `softshrink`.

    It is what minimizes ``(x - v)^2 / 2 + amount |x|``. Source: Donoho 1995, "De-noising by soft-thresholding".

    >>> soft_threshold(torch.tensor([0.3, -0.05, -0.4]), 0.1)
    tensor([ 0.2000, -0.0000, -0.3000])
    """
    if not (amount >= 0 and math.isfinite(amount)):
        raise SettingError(f"amount={amount}; use 0 or more: the rate times the strength of the penalty")
    return F.softshrink(value, amount)


def soft_threshold_(parameters: Iterable[Tensor], amount: float) -> None:
    """Apply `soft_threshold` to each of ``parameters`` in place, without a gradient.

    After an update with rate η this is the step of the penalty λ ``sum |θ|``, with ``amount`` = η λ: weights that the
    data does not hold up become exactly 0. For plain gradient descent that is exact (ISTA).

    >>> weight = torch.nn.Parameter(torch.tensor([0.3, -0.05]))
    >>> soft_threshold_([weight], 0.1)
    >>> weight.tolist()[1] == 0
    True
    """
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(soft_threshold(parameter, amount))
