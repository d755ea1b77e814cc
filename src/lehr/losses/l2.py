"""L2: the sum of squared weights."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from lehr.base.tensors import in_full
from lehr.losses.elements import added

__all__ = ["l2"]


def l2(parameters: Iterable[Tensor]) -> Tensor:
    """Return ``sum θ^2`` over all elements of ``parameters``, 0-d.

    As a penalty it is added to a mean loss times λ, or to a summed loss times λ and the count. Its gradient is 2 λ θ,
    so it does what an optimizer's coupled ``weight_decay`` of 2 λ does (`torch.optim.SGD`, `torch.optim.Adam`).
    `AdamW` decays beside its moments, which is something else. Raises `SettingError` where there are no parameters.

    >>> import torch
    >>> float(l2([torch.tensor([1.0, -2.0]), torch.tensor(0.5)]))
    5.25
    """
    return added([in_full(p).square().sum() for p in parameters])
