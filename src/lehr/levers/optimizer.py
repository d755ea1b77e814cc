"""Implementations of the optimizer's update: one fused kernel, or moments of 8 bits."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["EIGHT_BIT", "FUSED"]


def _fused(setup: Setup) -> Sequence[Settings]:
    raise NotHere(
        f"lehr takes the fused kernel wherever torch has one for {setup.optimizer}, and else one operation over all "
        "parameters (foreach)"
    )


def _eight_bit(setup: Setup) -> Sequence[Settings]:
    if setup.optimizer != "adamw":
        raise NotHere(f"8-bit moments are built for adamw; the recipe has {setup.optimizer}")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise NotHere('8-bit moments need bitsandbytes: pip install "lehr[quant]"')
    if setup.channels_last:
        raise NotHere("8-bit moments do not go with channels_last")
    if setup.adamw is None:
        raise NotHere("the optimizer has rules, which another one is not given by itself; try it with lehr measure")
    return [("optim=adamw_8bit", *setup.adamw)]


FUSED = Lever(
    name="fused-optimizer",
    summary="the update in one kernel, or one operation over all parameters",
    shortens=("optimizer",),
    options=_fused,
)
EIGHT_BIT = Lever(
    name="8-bit-optimizer",
    summary="moments of a byte each",
    shortens=("optimizer",),
    options=_eight_bit,
    changes="rounding",
)
