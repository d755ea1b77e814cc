"""Worker processes: the signals that ask a run to stop are the main process's, which needs them for its last step."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

__all__ = ["started", "worker_options"]

_ASKING = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
"""A terminal, Slurm or systemd sends them to every process of a run."""


def worker_options(workers: int, *, given: DataLoader[Any] | None = None) -> dict[str, Any]:
    """Return the DataLoader arguments that concern worker processes, taken over from a user's own loader."""
    options: dict[str, Any] = {"num_workers": workers}
    own = given.worker_init_fn if given is not None else None
    if workers:
        options |= {"worker_init_fn": functools.partial(_begin, own)}
    if given is not None:
        options |= {"timeout": given.timeout}
        if workers:
            options |= {"prefetch_factor": given.prefetch_factor}
            options |= {"multiprocessing_context": given.multiprocessing_context}
    return options


def started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Return ``iter(loader)``; its workers begin with the signals held back, until they know what to do with them."""
    with _held_back():
        return iter(loader)


@contextmanager
def _held_back() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(own: Callable[[int], None] | None, worker: int) -> None:
    """Begin a worker process: deaf to what asks a run to stop, then as the user's own ``worker_init_fn`` says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _pass_over_once)  # a second one ends it: so does torch end a worker that hangs
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING)
    if own is not None:
        own(worker)


def _pass_over_once(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
