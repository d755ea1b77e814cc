"""Mixup: weighted sums of two samples and of their labels."""

from __future__ import annotations

import torch
from torch import Tensor

from lehr.augment.draws import draw_partners, draw_share
from lehr.augment.targets import full_type, mix_targets
from lehr.base.errors import DataError

__all__ = ["mixup", "mixup_pairs"]


def mixup(x: Tensor, y: Tensor, *, alpha: float, generator: torch.Generator, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return ``share x_i + (1 - share) x_j`` and its target ``share q_i + (1 - share) q_j``.

    One share ~ Beta(alpha, alpha) is drawn for the batch, and j is a random permutation of it. ``x`` is (B, ...) in a
    floating format. ``y`` is (B,) of integer labels, or (B, K) of probabilities; the targets are (B, K) of
    probabilities. Source: Zhang et al. 2017, arXiv 1710.09412.

    >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
    >>> x, q = mixup(x, y, alpha=1.0, generator=torch.Generator().manual_seed(0), num_classes=2)
    >>> bool((x[:, 0] - q[:, 1]).abs().max() < 1e-6)  # as much of class 1 as of the sample 1
    True
    """
    mixed, y_a, y_b, share = mixup_pairs(x, y, alpha=alpha, generator=generator)
    return mixed, mix_targets(y_a, y_b, share, num_classes, full_type(x))


def mixup_pairs(
    x: Tensor, y: Tensor, *, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return ``(mixed x, y_a, y_b, share)``: the same draws as `mixup`, for a loss that is mixed in place of targets.

    ``share loss(f(x), y_a) + (1 - share) loss(f(x), y_b)`` is the cross entropy with the mixed targets, since that is
    linear in them; for targets that are numbers it is mixup, too.

    >>> x, y = torch.arange(3.0), torch.arange(3)
    >>> mixed, y_a, y_b, share = mixup_pairs(x, y, alpha=0.2, generator=torch.Generator().manual_seed(0))
    >>> torch.equal(y_a, y), torch.allclose(mixed, share * y_a + (1 - share) * y_b)
    (True, True)
    """
    if not x.is_floating_point():
        raise DataError(
            f"mixup needs inputs that can be added up, but they are {x.dtype}: a mean of token ids is another token, "
            "not a mixture. Leave mixup out, or turn pictures into floating numbers first"
        )
    if len(y) != len(x):
        raise DataError(f"mixup needs a target for each sample, but there are {len(x)} samples and {len(y)} targets")
    share = draw_share(alpha, generator)
    partners = draw_partners(x, generator)
    return torch.lerp(x[partners], x, share), y, y[partners], share
