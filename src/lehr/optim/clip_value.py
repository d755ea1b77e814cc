"""Clipping each element of the gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from lehr.base.errors import SettingError

__all__ = ["clip_by_value_"]


def clip_by_value_(gradients: list[Tensor], limit: float) -> None:
    """Clamp each element of ``gradients`` to ``[-limit, limit]``, in place.

    ``g_i <- min(limit, max(-limit, g_i))``. It changes the direction of the step, unlike clipping by norm; NaN stays
    NaN. The same as `torch.nn.utils.clip_grad_value_`, which takes parameters.

    >>> gradient = torch.tensor([3.0, -0.2])
    >>> clip_by_value_([gradient], 0.5); gradient
    tensor([ 0.5000, -0.2000])
    """
    if not limit > 0:
        raise SettingError(f"limit={limit} of clipping by value must be above 0, such as 0.5")
    if gradients:
        torch._foreach_clamp_min_(gradients, -limit)
        torch._foreach_clamp_max_(gradients, limit)
