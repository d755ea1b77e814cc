"""The residual block of two convolutions: what comes in, plus what a branch makes of it.

    x ──┬── conv ── norm ── relu ── conv ── norm ── drop path ──(+)── relu ──▶ y
        └────────────────────── shortcut ────────────────────────┘

dy/dx is that of the branch plus that of the shortcut, so a gradient still arrives where the branches shrink theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.tables import did_you_mean
from lehr.layers.drop_path import DropPath

__all__ = ["Order", "ResidualBlock"]

Order: TypeAlias = Literal["conv-norm-act", "conv-act-norm", "norm-act-conv"]
"""Where the norm stands."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 convolution where the shape changes.

    ``order`` is where the norms stand. ``conv-norm-act`` is the usual one (He et al. 2015, arXiv 1512.03385), with a
    relu after the sum; ``conv-act-norm`` ends each half with its norm; ``norm-act-conv`` is pre-activation (He et al.
    2016, arXiv 1603.05027), which leaves the path of the shortcuts free, and needs a norm and a relu behind the last
    block. ``norm`` makes a norm for a number of channels; ``drop_path`` is the rate of dropping the branch.

    Shapes: (B, before, H, W) -> (B, after, H/stride, W/stride).

    >>> import torch
    >>> ResidualBlock(4, 8, stride=2, order="norm-act-conv")(torch.zeros(1, 4, 6, 6)).shape
    torch.Size([1, 8, 3, 3])
    """

    def __init__(
        self,
        before: int,
        after: int,
        stride: int = 1,
        *,
        order: Order = "conv-norm-act",
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if order not in get_args(Order):
            known = get_args(Order)
            raise SettingError(f"unknown order {order!r}{did_you_mean(order, known)}; known: {', '.join(known)}")
        self.order = order
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = norm(before if order == "norm-act-conv" else after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = norm(after)
        self.drop = DropPath(drop_path)
        self.shortcut: nn.Module = nn.Identity()
        if before != after or stride != 1:
            fitting = nn.Conv2d(before, after, 1, stride=stride, bias=False)
            self.shortcut = fitting if order == "norm-act-conv" else nn.Sequential(fitting, norm(after))

    @property
    def last(self) -> nn.Module:
        """What the branch ends with; zero weights there make it add nothing."""
        return self.conv2 if self.order == "norm-act-conv" else self.norm2

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the sum of shortcut and branch."""
        if self.order == "norm-act-conv":
            ready = F.relu(self.norm1(x_BCHW))
            branch = self.conv2(F.relu(self.norm2(self.conv1(ready))))
            through = x_BCHW if isinstance(self.shortcut, nn.Identity) else self.shortcut(ready)
        elif self.order == "conv-act-norm":
            branch = self.norm2(F.relu(self.conv2(self.norm1(F.relu(self.conv1(x_BCHW))))))
            through = self.shortcut(x_BCHW)
        else:
            branch = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x_BCHW)))))
            through = self.shortcut(x_BCHW)
        summed: Tensor = self.drop(branch) + through
        return F.relu(summed) if self.order == "conv-norm-act" else summed
