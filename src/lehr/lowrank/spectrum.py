"""What singular values say: effective ranks, energy, and from which rank on factors no longer save anything."""

from __future__ import annotations

import torch
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.base.tensors import in_full

__all__ = ["break_even", "energy_rank", "spectral_entropy", "stable_rank"]


def stable_rank(A: Tensor) -> Tensor:
    """Return ``||A||_F^2 / ||A||_2^2`` of a matrix (..., m, n): between 1 and its rank; 0 for a matrix of zeros.

    Unlike the rank it hardly moves with small singular values. Source: Rudelson and Vershynin 2007.
    Cost: the singular values, without vectors.

    >>> round(stable_rank(torch.diag(torch.tensor([2.0, 1.0]))).item(), 4)
    1.25
    """
    values: Tensor = torch.linalg.svdvals(in_full(A))
    shares = values / values[..., :1].clamp_min(torch.finfo(values.dtype).tiny)
    return shares.square().sum(dim=-1)


def spectral_entropy(S: Tensor) -> Tensor:
    """Return ``-sum p log p`` with ``p = S^2 / sum S^2``, in nats, of singular values (..., r).

    0 where one direction holds all the energy, ``log r`` where all are alike; its exponential is an effective rank.
    0 for a matrix of zeros. Source: Roy and Vetterli 2007, "The effective rank".

    >>> round(spectral_entropy(torch.ones(8)).exp().item(), 4)
    8.0
    """
    scaled = in_full(S) / in_full(S).amax(dim=-1, keepdim=True).clamp_min(torch.finfo(in_full(S).dtype).tiny)
    power = scaled.square()
    share = power / power.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(power.dtype).tiny)
    return -torch.xlogy(share, share).sum(dim=-1)


def energy_rank(S: Tensor, share: float, total: Tensor | None = None) -> Tensor:
    """Return the smallest rank whose singular values hold ``share`` of ``total``, of descending S (..., r).

    ``total`` (...) is the true ``||A||_F^2``; without it, S has to be the whole spectrum. Where S holds less than
    that, the rank is r. At least 1. Raises SettingError for a share outside (0, 1].

    >>> energy_rank(torch.tensor([3.0, 2.0, 1.0]), 0.9), energy_rank(torch.tensor([3.0, 2.0]), 0.9, torch.tensor(18.0))
    (tensor(2), tensor(2))
    """
    if not 0 < share <= 1:
        raise SettingError(f"energy={share:g} is not a share; use more than 0 and at most 1, such as 0.95")
    kept = S.double().square().cumsum(dim=-1)
    goal = share * (kept[..., -1] if total is None else total.double())
    slack = 1 - 4 * torch.finfo(in_full(S).dtype).eps  # a share of 1 must not fail by rounding
    return ((kept < (goal * slack).unsqueeze(-1)).sum(dim=-1) + 1).clamp_max(S.shape[-1])


def break_even(m: int, n: int) -> float:
    """Return the rank ``m n / (m + n)`` at which two factors of an m x n matrix have as many elements as the matrix.

    >>> break_even(1024, 1024), break_even(768, 3072)
    (512.0, 614.4)
    """
    return m * n / (m + n)
