"""The next batch copied while the step of this one runs; `data/copy_ahead.py` has the loader."""

from __future__ import annotations

from collections.abc import Sequence

from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["COPY_AHEAD"]


def _options(setup: Setup) -> Sequence[Settings]:
    if setup.device != "cuda":
        raise NotHere(f"copies overlap with steps on CUDA devices only, and this is a {setup.device}")
    if setup.resident:
        raise NotHere("the data lies on the device, and nothing is copied")
    if setup.copy_ahead:
        raise NotHere("batches are copied ahead already")
    return [("data.copy_ahead=true",)]


COPY_AHEAD = Lever(
    name="copy-ahead",
    summary="the next batch copied on a stream of its own while the step of this one runs",
    shortens=("data", "synchronization"),
    options=_options,
    untested="everywhere: it needs a CUDA device",
)
