"""Data that lies on the device: no batch is copied there."""

from __future__ import annotations

from collections.abc import Sequence

from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["RESIDENT_DATA"]


def _options(setup: Setup) -> Sequence[Settings]:
    if setup.device == "cpu":
        raise NotHere("the processor computes from the memory in which the data lies")
    if setup.data != "memory":
        raise NotHere("the data is read sample by sample; give tensors to have them on the device")
    if setup.resident:
        raise NotHere("the data lies on the device already")
    return [("data.copy_ahead=false", "data.resident=true")]


RESIDENT_DATA = Lever(
    name="resident-data",
    summary="the whole data set in the device's memory",
    shortens=("data", "synchronization"),
    options=_options,
    untested="accelerators",
)
