"""The loss and the finite check read at records only, so that the host never waits for the device in between."""

from __future__ import annotations

from collections.abc import Sequence

from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["DEFERRED_READING"]


def _options(setup: Setup) -> Sequence[Settings]:
    if setup.device == "cpu":
        raise NotHere("a processor does not wait for itself: reading a number costs a microsecond")
    if setup.tracks != "step":
        raise NotHere("numbers are read at records already, wherever that is possible")
    return [("track.read=record",)]


DEFERRED_READING = Lever(
    name="deferred-reading",
    summary="the loss and the finite check read at records only",
    shortens=("synchronization",),
    options=_options,
    untested="accelerators",
)
