"""Elastic net: L1 and L2 together."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

from lehr.base.errors import SettingError
from lehr.losses.l1 import l1 as absolute_sum
from lehr.losses.l2 import l2 as squared_sum

__all__ = ["elastic_net"]


def elastic_net(parameters: Iterable[Tensor], *, l1: float, l2: float) -> Tensor:
    """Return ``l1 * sum |θ| + l2 * sum θ^2`` over all elements of ``parameters``, 0-d.

    Source: Zou and Hastie 2005, "Regularization and variable selection via the elastic net". Raises `SettingError` for
    strengths below 0.

    >>> import torch
    >>> float(elastic_net([torch.tensor([1.0, -2.0])], l1=0.5, l2=0.25))
    2.75
    """
    for name, strength in (("l1", l1), ("l2", l2)):
        if not (strength >= 0 and math.isfinite(strength)):
            raise SettingError(f"{name}={strength}; use 0 or more")
    chosen = list(parameters)
    return l1 * absolute_sum(chosen) + l2 * squared_sum(chosen)
