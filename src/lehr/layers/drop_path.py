"""DropPath, or stochastic depth: a sample leaves out a whole residual branch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.layers.dropout import check_rate, inverted_dropout

__all__ = ["DropPath", "depth_rates", "drop_path"]


def drop_path(x: Tensor, p: float, training: bool = True, generator: torch.Generator | None = None) -> Tensor:
    """Return the branch ``x`` with whole samples dropped at rate p and the others divided by 1 − p.

    One draw for each index of the first dimension. To be added to the shortcut: y = x₀ + drop_path(f(x₀), p). The
    source keeps the survivors as they are and scales in evaluation instead; the expected values are the same. Source:
    Huang et al. 2016 (arXiv 1603.09382).

    >>> drop_path(torch.ones(4, 2), 0.5, generator=torch.Generator().manual_seed(0))
    tensor([[0., 0.],
            [0., 0.],
            [2., 2.],
            [0., 0.]])
    """
    if x.ndim == 0:
        raise SettingError("drop_path drops samples, but this tensor has no dimension; give (samples, ...)")
    return inverted_dropout(x, p, shared=x.ndim - 1, training=training, generator=generator)


class DropPath(nn.Module):
    """`drop_path` as a module, to stand at the end of a branch; does nothing in evaluation.

    >>> DropPath(0.1)
    DropPath(p=0.1)
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = check_rate(p)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch with samples dropped."""
        return drop_path(x, self.p, self.training)

    def extra_repr(self) -> str:
        """Return what `repr` shows."""
        return f"p={self.p}"


def depth_rates(p: float, blocks: int) -> list[float]:
    """Return a rate for each block: block l of L drops at p·l/L, so the last one at p and early ones hardly.

    Early blocks find what all later ones build on. Source: Huang et al. 2016, section 3; implementations that begin at
    0 use p·(l − 1)/(L − 1).

    >>> depth_rates(0.5, 4)
    [0.125, 0.25, 0.375, 0.5]
    """
    check_rate(p)
    if blocks < 1:
        raise SettingError(f"blocks={blocks}; a network has 1 or more")
    return [p * block / blocks for block in range(1, blocks + 1)]
