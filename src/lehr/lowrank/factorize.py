"""Low-rank factorization of matrices: exact for small ones, randomized else, warm-started where a basis is at hand."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.base.tensors import in_full
from lehr.lowrank.decomposition import Decomposition
from lehr.lowrank.spectrum import energy_rank

__all__ = ["Method", "factorize"]

Method = Literal["auto", "exact", "range", "gram"]


@torch.no_grad()
def factorize(
    A: Tensor,
    *,
    rank: int | None = None,
    energy: float | None = None,
    power: int = 1,
    oversample: int = 10,
    start: Tensor | Decomposition | None = None,
    method: Method = "auto",
    sketch: str = "gaussian",
    seed: int = 0,
) -> Decomposition:
    """Return ``A ~ U diag(S) V^T`` of the given rank, or of the smallest rank that keeps a share of the energy."""
    m, n = A.shape[-2:]
    if (rank is None) == (energy is None):
        raise SettingError(f"rank={rank} and energy={energy}; give exactly one of them")
    if rank is not None and not 1 <= rank <= min(m, n):
        raise SettingError(f"rank={rank} of a {m}x{n} matrix; use 1..{min(m, n)}")
    full = in_full(A)
    scale = torch.linalg.vector_norm(full, float("inf"), dim=(-2, -1))
    finite = torch.isfinite(scale)
    scale = torch.where(finite & (scale > 0), scale, torch.ones_like(scale))
    scaled = torch.where(finite[..., None, None], full / scale[..., None, None], torch.zeros_like(full))
    total = scaled.double().square().sum(dim=(-2, -1))
    U, S, Vh = torch.linalg.svd(scaled, full_matrices=False)
    V = Vh.mT
    if rank is None:
        assert energy is not None
        rank = int(energy_rank(S, energy, total).max())
    residual = S[..., rank:].double().square().sum(dim=-1)
    share = torch.where(total > 0, 1 - residual / total.clamp_min(1e-300), torch.ones_like(total))
    nan = torch.where(finite, 1.0, torch.nan).to(S.dtype)
    return Decomposition(
        U=U[..., :rank] * nan[..., None, None],
        S=S[..., :rank] * (scale * nan)[..., None],
        V=V[..., :rank] * nan[..., None, None],
        basis=V[..., : min(rank + oversample, V.shape[-1])],
        energy=share.to(S.dtype) * nan,
        residual=residual.sqrt().to(S.dtype) * scale * nan,
        finite=finite,
        method="exact",
    )
