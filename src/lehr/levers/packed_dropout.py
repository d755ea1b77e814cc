"""Dropout whose draws are made four at a time; `layers/packed_dropout.py` has the layer."""

from __future__ import annotations

from collections.abc import Sequence

from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["PACKED_DROPOUT"]


def _options(setup: Setup) -> Sequence[Settings]:
    if setup.device != "cpu":
        raise NotHere(f"on {setup.device} torch's dropout is one kernel already")
    if setup.dropout == "packed":
        raise NotHere("the draws are packed already")
    if not setup.dropouts:
        raise NotHere("the model has no torch.nn.Dropout with a rate above 0")
    if setup.compile or setup.step == "whole":
        raise NotHere("compiled code makes its draws by itself")
    return [("dropout=packed",)]


PACKED_DROPOUT = Lever(
    name="packed-dropout",
    summary="dropout whose draws are made four at a time",
    shortens=("forward",),
    options=_options,
    changes="noise",
)
