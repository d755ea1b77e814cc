"""Binary cross entropy of logits, as a sum and a count."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lehr.base.tensors import in_full
from lehr.losses.elements import check_elements, num_elements

__all__ = ["bce"]


def bce(logits: Tensor, target: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor | int]:
    """Return ``sum -[y log p + (1 - y) log(1 - p)]`` with ``p = sigmoid(logits)`` in nats, and the number of elements.

    ``target`` is 0 or 1 of any type, or a probability; ``logits`` are of its shape, and each decides for itself. They
    are what a linear layer gives: a sigmoid before this loss would be applied twice. Taken together, the two stay exact
    where p would round to 0 or 1. Where the boolean ``mask`` of that shape is false, nothing counts.

    >>> import torch
    >>> total, count = bce(torch.tensor([0.0, 0.0]), torch.tensor([0, 1]))
    >>> round(float(total), 3), count
    (1.386, 2)
    """
    check_elements(logits, target, mask)
    logits = in_full(logits)
    target = target.to(logits.dtype)
    if mask is None:
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum"), num_elements(target)
    each = F.binary_cross_entropy_with_logits(logits.where(mask, 0), target.where(mask, 0), reduction="none")
    return each.where(mask, 0).sum(), num_elements(target, mask)
