"""Focal loss: cross entropy that turns down what is classified well already."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.base.tensors import in_full
from lehr.losses.elements import check_elements, num_elements
from lehr.losses.rows import as_rows, counted_rows, num_rows

__all__ = ["binary_focal_loss", "focal_loss"]


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: Sequence[float] | Tensor | None = None,
    ignore: int | None = None,
) -> tuple[Tensor, Tensor | int]:
    """Return ``sum_i -α_t (1 - p_t)^γ log p_t`` with p_t the softmax probability of the true class, and the number.

    γ = 0 without ``alpha`` is cross entropy; ``alpha`` has a weight for each class, and does not change the count.
    Shapes and ``ignore`` are those of `cross_entropy`. For soft targets q the terms of all classes are summed, weighed
    by q. Source: Lin et al. 2017, arXiv 1708.02002 (there for sigmoids: `binary_focal_loss`, and divided by the
    number of objects).

    >>> total, count = focal_loss(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log(), torch.tensor([0, 0]))
    >>> round(float(total), 4), count  # 0.01 * 0.1054 + 0.25 * 0.6931
    (0.1743, 2)
    """
    _check_gamma(gamma)
    logits, target = as_rows(logits, target, ignore)
    log_p = F.log_softmax(logits, dim=-1)
    weight = None if alpha is None else _weights(alpha, log_p)
    if target.is_floating_point():
        terms = target * _focal(log_p, gamma)
        return (terms if weight is None else terms * weight).sum(), num_rows(target, ignore)
    counted = counted_rows(target, ignore)
    labels = target if counted is None else target.where(counted, 0)
    terms = _focal(log_p.gather(1, labels[:, None])[:, 0], gamma)
    terms = terms if weight is None else terms * weight[labels]
    return (terms if counted is None else terms.where(counted, 0)).sum(), num_rows(target, ignore)


def binary_focal_loss(
    logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float | None = 0.25, mask: Tensor | None = None
) -> tuple[Tensor, Tensor | int]:
    """Return ``sum -α_t (1 - p_t)^γ log p_t`` with p = sigmoid(logits), and the number of elements.

    p_t is p where the target is 1, and 1 - p where it is 0; α_t is ``alpha`` and 1 - ``alpha`` in the same way, or 1
    for both with None. Targets between 0 and 1 weigh the two terms. Shapes and ``mask`` are those of `bce`. The source
    divides by the number of positive targets instead of all. Source: Lin et al. 2017, arXiv 1708.02002.

    >>> total, count = binary_focal_loss(torch.tensor([0.0, 0.0]), torch.tensor([1, 0]))
    >>> round(float(total), 4), count  # (0.25 + 0.75) * 0.25 * ln 2
    (0.1733, 2)
    """
    _check_gamma(gamma)
    if alpha is not None and not 0 <= alpha <= 1:
        raise SettingError(f"alpha={alpha}; it is the share of the positive class: use 0 to 1, or None for no weights")
    check_elements(logits, target, mask)
    logits = in_full(logits)
    target = target.to(logits.dtype)
    if mask is not None:
        logits, target = logits.where(mask, 0), target.where(mask, 0)
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    # powers by exp of the logarithm: they have a gradient everywhere
    terms = -positive * target * (gamma * log_not_p).exp() * log_p
    terms = terms - negative * (1 - target) * (gamma * log_p).exp() * log_not_p
    return (terms if mask is None else terms.where(mask, 0)).sum(), num_elements(target, mask)


def _focal(log_p: Tensor, gamma: float) -> Tensor:
    """Return -(1 - p)^γ log p; where p is 1 to the last digit, the power of 0 would have no gradient for γ < 1."""
    missed = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
    return -(missed**gamma) * log_p


def _check_gamma(gamma: float) -> None:
    if not (gamma >= 0 and math.isfinite(gamma)):
        raise SettingError(f"gamma={gamma}; use 0 (cross entropy) or more, usually 1 to 5")


def _weights(alpha: Sequence[float] | Tensor, like: Tensor) -> Tensor:
    weight = torch.as_tensor(alpha, dtype=like.dtype, device=like.device)
    if weight.shape != like.shape[-1:]:
        raise SettingError(
            f"alpha has shape {tuple(weight.shape)}, but there are {like.shape[-1]} classes; give one weight for each"
        )
    return weight
