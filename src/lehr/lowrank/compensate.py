"""Dimension-accompanied compensation (DAC): what a low-rank form leaves out, kept beside it."""

from __future__ import annotations

from torch import Tensor

from lehr.base.errors import SettingError
from lehr.base.tensors import in_full
from lehr.lowrank.decomposition import Pair, truncated

__all__ = ["companion"]


def companion(A: Tensor, pair: Pair, rank: int) -> Pair:
    """Return the best factors of rank ``rank`` of what ``pair`` leaves of a matrix (m, n): ``A - left right^T``.

    At weight 1, which is the only weight that lowers the error as far as its rank can: after the truncated SVD of
    rank r it is the SVD of rank r + ``rank``. The guide adds a tenth of it, by iterations (`lehr.lowrank.guide`). With
    the whole rank left over the sum is the matrix again. Exact SVD. Raises SettingError for a rank that A has not.

    >>> import torch
    >>> A = torch.diag(torch.tensor([3.0, 2.0, 1.0])); main = truncated(A, 1); rest = companion(A, main, 2)
    >>> torch.allclose(main.left @ main.right.mT + rest.left @ rest.right.mT, A)
    True
    """
    m, n = A.shape
    if not 1 <= rank <= min(m, n):
        raise SettingError(f"rank={rank} of a companion for a {m}x{n} matrix; use 1..{min(m, n)}")
    return truncated(in_full(A) - in_full(pair.left) @ in_full(pair.right).mT, rank)
