"""The number of CPU threads: more of them only help where operations are large enough to be shared out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["THREADS", "numbers_of_threads", "threads"]


@contextlib.contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Let torch use this number of threads within the block; None leaves it as it is.

    >>> before = torch.get_num_threads()
    >>> with threads(3):
    ...     torch.get_num_threads()
    3
    >>> torch.get_num_threads() == before
    True
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def numbers_of_threads(cores: int) -> list[int]:
    """Return the numbers worth trying on so many cores: powers of two, and all of them.

    >>> numbers_of_threads(6)
    [1, 2, 4, 6]
    """
    powers = [2**i for i in range(cores.bit_length()) if 2**i <= cores]
    return sorted({*powers, cores})


def _options(setup: Setup) -> Sequence[Settings]:
    if setup.device != "cpu":
        raise NotHere("the model computes on an accelerator, not in CPU threads")
    others = [number for number in numbers_of_threads(setup.cores) if number != setup.threads]
    if not others:
        raise NotHere(f"the machine has one core, and the run uses {setup.threads} thread")
    return [(f"threads={number}",) for number in reversed(others)]


THREADS = Lever(
    name="threads",
    summary="another number of CPU threads",
    shortens=("forward", "backward", "optimizer"),
    options=_options,
    changes="rounding",
)
