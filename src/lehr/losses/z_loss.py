"""z-loss: cross entropy with a penalty on the size of the softmax's normalizer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.losses.rows import NEVER, as_rows, counted_rows, num_rows

__all__ = ["z_loss"]


def z_loss(
    logits: Tensor, target: Tensor, *, coefficient: float = 1e-4, ignore: int | None = None
) -> tuple[Tensor, Tensor | int]:
    """Return ``sum_i (cross entropy_i + coefficient * (log Z_i)^2)`` and the number, for ``Z_i = sum_k exp logits_ik``.

    Cross entropy does not see a constant that is added to all logits of a row, so they can drift; the penalty pulls
    log Z to 0. Shapes, soft targets and ``ignore`` are those of `cross_entropy`. Cost: the logits are read once more.
    Source: Chowdhery et al. 2022 (PaLM), arXiv 2204.02311, with 1e-4.

    >>> logits = torch.tensor([[1.0, 1.0]])  # log Z = 1 + ln 2
    >>> total, count = z_loss(logits, torch.tensor([0]), coefficient=0.1)
    >>> round(float(total), 4), count  # ln 2 + 0.1 * 1.6931^2
    (0.9798, 1)
    """
    if not (coefficient >= 0 and math.isfinite(coefficient)):
        raise SettingError(f"coefficient={coefficient}; use 0 (cross entropy) or more, usually 1e-4")
    logits, target = as_rows(logits, target, ignore)
    total = F.cross_entropy(logits, target, reduction="sum", ignore_index=NEVER if ignore is None else ignore)
    penalty = torch.logsumexp(logits, dim=-1).square()
    counted = counted_rows(target, ignore)
    return total + coefficient * (penalty if counted is None else penalty.where(counted, 0)).sum(), num_rows(
        target, ignore
    )
