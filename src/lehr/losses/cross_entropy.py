"""Cross entropy over the last dimension, as a sum and a count."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from lehr.losses.rows import NEVER, as_rows, num_rows

__all__ = ["cross_entropy"]


def cross_entropy(logits: Tensor, target: Tensor, *, ignore: int | None = None) -> tuple[Tensor, Tensor | int]:
    """Return ``sum_i -log softmax(logits_i)[target_i]`` in nats, and the number of targets that count.

    ``logits`` is (..., classes), ``target`` (...) of class indices; targets equal to ``ignore`` add nothing to either.
    A target of probabilities q, (..., classes), is taken too: then ``sum_i -sum_k q_ik log softmax(logits_i)_k``.

    >>> import torch
    >>> total, count = cross_entropy(torch.tensor([[0.7, 0.3], [0.7, 0.3]]).log(), torch.tensor([0, 0]))
    >>> round(float(total), 3), count
    (0.713, 2)
    """
    logits, target = as_rows(logits, target, ignore)
    total = F.cross_entropy(logits, target, reduction="sum", ignore_index=NEVER if ignore is None else ignore)
    return total, num_rows(target, ignore)
