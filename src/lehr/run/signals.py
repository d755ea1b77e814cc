"""Stopping when asked to: the signal sets a request, the loop finishes its step and saves."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["stop_on_signals"]

_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")


@contextlib.contextmanager
def stop_on_signals(ask: Callable[[str], None]) -> Iterator[None]:
    """Within the block SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 call ``ask("preempted")``; a second one ends at once.

    The handlers that were there before are put back. Outside the main thread Python allows none, and nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        asked = True
        ask("preempted")

    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
