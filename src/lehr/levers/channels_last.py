"""The layout of pictures: channels last, as the kernels of convolutions read them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["CHANNELS_LAST", "channels_last"]


def channels_last(model: nn.Module) -> nn.Module:
    """Lay out the kernels of 2-d convolutions with channels last, in place; what they compute takes on that layout.

    Values and names stay the same. Call it before the optimizer has state.

    >>> model = channels_last(nn.Conv2d(3, 8, 3))
    >>> model.weight.is_contiguous(memory_format=torch.channels_last)
    True
    """
    changed: nn.Module = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return changed


def _options(setup: Setup) -> Sequence[Settings]:
    if not setup.convolutions:
        raise NotHere("the model has no 2-d convolutions")
    if setup.channels_last:
        raise NotHere("channels are last already")
    return [("channels_last=true",)]


CHANNELS_LAST = Lever(
    name="channels-last",
    summary="pictures laid out with channels last",
    shortens=("forward", "backward"),
    options=_options,
    changes="rounding",
)
