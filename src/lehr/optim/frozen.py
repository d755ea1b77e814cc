"""Which norms belong to a frozen part of a model."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["frozen_norms"]


def frozen_norms(model: nn.Module) -> list[nn.Module]:
    """Return the norms with running statistics that have parameters, all of them frozen.

    In training mode their statistics would drift with the new data although the part is meant to stay as it is, so what
    freezes parameters puts them into evaluation mode. A norm without parameters (``affine=False``) is never among
    them: nothing says whether it is frozen.

    >>> frozen, trained = nn.BatchNorm1d(2).requires_grad_(False), nn.BatchNorm1d(2)
    >>> frozen_norms(nn.Sequential(frozen, trained)) == [frozen]
    True
    """
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.track_running_stats and m.affine]
    return [m for m in norms if not any(p.requires_grad for p in m.parameters())]
