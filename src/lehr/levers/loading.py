"""Worker processes that read samples ahead. They stay from epoch to epoch; on CUDA their batches are pinned."""

from __future__ import annotations

from collections.abc import Sequence

from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["WORKERS"]


def _options(setup: Setup) -> Sequence[Settings]:
    if setup.data == "memory":
        raise NotHere("the data lies in memory and is indexed by whole batches; workers would copy it about")
    others = [number for number in (1, 2, 4, 8) if number != setup.workers and number <= max(2, setup.cores)]
    return [(f"data.workers={number}",) for number in reversed(others)]


WORKERS = Lever(
    name="workers",
    summary="processes that read samples ahead",
    shortens=("data",),
    options=_options,
)
