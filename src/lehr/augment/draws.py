"""What mixing draws: the share of the first sample, and which other sample each one meets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lehr.base.errors import SettingError

__all__ = ["draw_partners", "draw_share"]


def draw_share(alpha: float, generator: torch.Generator) -> float:
    """Return a draw from Beta(alpha, alpha), 0 to 1: near the ends for a small alpha, near a half for a large one.

    NumPy draws it from a seed that ``generator`` gives: torch's own Beta takes no generator.

    >>> share = draw_share(0.2, torch.Generator().manual_seed(0))
    >>> share == draw_share(0.2, torch.Generator().manual_seed(0)), 0 <= share <= 1
    (True, True)
    """
    if not 0 < alpha < float("inf"):
        raise SettingError(f"alpha={alpha} of Beta(alpha, alpha) must be more than 0, such as 0.2")
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return float(np.random.default_rng(int(seed)).beta(alpha, alpha))


def draw_partners(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return a permutation of the samples of ``x``; a sample may meet itself.

    >>> sorted(draw_partners(torch.zeros(3, 2), torch.Generator().manual_seed(0)).tolist())
    [0, 1, 2]
    """
    return torch.randperm(len(x), generator=generator, device=generator.device).to(x.device)
