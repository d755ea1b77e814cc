"""CutMix: a box of another picture pasted into each one, and its label by area."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lehr.augment.draws import draw_partners, draw_share
from lehr.augment.targets import full_type, mix_targets
from lehr.base.errors import DataError

__all__ = ["cut_box", "cutmix"]


def cutmix(
    x: Tensor, y: Tensor, *, alpha: float, generator: torch.Generator, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Return pictures with a box of another one in each, and targets in the shares of the areas.

    ``x`` is (B, C, H, W), of any type; ``y`` is (B,) of integer labels, or (B, K) of probabilities; the targets are
    (B, K) of probabilities. One share ~ Beta(alpha, alpha) is drawn for the batch, which asks for a box of the area
    1 - share; the targets have the share that the box truly leaves. Source: Yun et al. 2019, arXiv 1905.04899.

    >>> x, y = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 1, 8, 8), torch.tensor([0, 1])
    >>> x, q = cutmix(x, y, alpha=1.0, generator=torch.Generator().manual_seed(0), num_classes=2)
    >>> bool((x.mean(dim=(1, 2, 3)) - q[:, 1]).abs().max() < 1e-6)  # as much of class 1 as of the picture 1
    True
    """
    if x.ndim != 4:
        raise DataError(f"cutmix needs pictures (B, C, H, W), but the input has shape {tuple(x.shape)}; try mixup")
    if len(y) != len(x):
        raise DataError(f"cutmix needs a target for each picture, but there are {len(x)} pictures and {len(y)} targets")
    height, width = x.shape[-2:]
    top, bottom, left, right = cut_box(height, width, draw_share(alpha, generator), generator)
    partners = draw_partners(x, generator)
    pasted = x.clone()
    pasted[:, :, top:bottom, left:right] = x[partners, :, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return pasted, mix_targets(y, y[partners], share, num_classes, full_type(x))


def cut_box(height: int, width: int, share: float, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Return ``(top, bottom, left, right)`` of a box whose sides are ``sqrt(1 - share)`` times those of the picture.

    Its centre is drawn from the whole picture, so that it may be cut off at the border, and then is smaller.

    >>> cut_box(10, 20, 1.0, torch.Generator().manual_seed(0))[0] == cut_box(
    ...     10, 20, 1.0, torch.Generator().manual_seed(0)
    ... )[1]  # nothing is cut out
    True
    """
    side = math.sqrt(1 - share)
    across, down = int(width * side), int(height * side)
    middle_x, middle_y = (
        int(torch.randint(size, (), generator=generator, device=generator.device)) for size in (width, height)
    )
    return (
        max(middle_y - down // 2, 0),
        min(middle_y + down // 2, height),
        max(middle_x - across // 2, 0),
        min(middle_x + across // 2, width),
    )
