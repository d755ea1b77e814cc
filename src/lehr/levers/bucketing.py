"""Batches of samples of similar length, so that less of them is padding."""

from __future__ import annotations

from collections.abc import Sequence

from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["BUCKETING"]

LITTLE = 0.05
"""Less padding than this share is not worth another order of the samples."""


def _options(setup: Setup) -> Sequence[Settings]:
    if setup.bucket:
        raise NotHere("batches are made of similar lengths already")
    if setup.padding < LITTLE:
        raise NotHere(
            f"{setup.padding:.0%} of a batch is padding: there is nothing to gain"
            if setup.padding
            else "the data has samples of one length, packed already"
        )
    return [("data.bucket=true",)]


BUCKETING = Lever(
    name="bucketing",
    summary="batches of samples of similar length, with less padding",
    shortens=("forward", "backward"),
    options=_options,
    changes="order",
)
