"""How far the run is: a live line on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import IO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from lehr.base.protocols import Record

__all__ = ["Progress", "progress_line"]

GAP_SECONDS = 5.0
GROWTH = 1.02
"""Plain lines come at least `GAP_SECONDS` apart, and each time a share later, so that a run of weeks stays short."""


class Progress:
    """Shows the records of a run on standard error. It is told of records only, so it costs nothing between them."""

    def __init__(
        self,
        *,
        total_steps: int,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._clock = total_steps, clock
        self._stream = stream or sys.stderr
        self._start: float | None = None
        self._first_step = 0
        self._next = 0.0
        self._val: Record = {}
        self._live: Live | None = None
        if self._stream.isatty():
            self._live = Live(
                Text("starting ..."),
                console=Console(file=self._stream),
                refresh_per_second=8,
                transient=False,
            )
            self._live.start()

    def log(self, record: Record) -> None:
        """Show a record: each one on a terminal, some of them elsewhere; every validation is shown."""
        now = self._clock()
        if self._start is None:
            self._start, self._first_step = now, int(record["step"])
        if "withheld" in record:
            self._plain(f"step {record['step']}: update withheld ({record['withheld']})")
            return
        if record["split"] == "val":
            self._val = record
            return
        line = progress_line(record, self._val, total=self._total, seconds_left=self._seconds_left(record, now))
        if self._live is not None:
            self._live.update(Text(line))
        elif now >= self._next or record["step"] == self._total:
            self._plain(line)
            self._next = now + max(GAP_SECONDS, (GROWTH - 1) * (now - self._start))

    def _seconds_left(self, record: Record, now: float) -> float | None:
        done = int(record["step"]) - self._first_step
        if done <= 0 or self._start is None:
            return None
        return (now - self._start) / done * (self._total - int(record["step"]))

    def _plain(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line, highlight=False)
        else:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def progress_line(record: Record, val: Record, *, total: int, seconds_left: float | None) -> str:
    """Return one line about a training record and the last validation.

    >>> record = {"step": 40, "split": "train", "loss": 1.5, "lr": 0.001, "tokens_per_second": 25000.0}
    >>> progress_line(record, {}, total=100, seconds_left=61)
    'step 40/100  loss 1.5000  lr 0.001  25.0k tokens/s  1:01 left'
    """
    parts = [f"step {record['step']}/{total}", f"loss {record['loss']:.4f}"]
    if "bits_per_byte" in record:
        parts.append(f"{record['bits_per_byte']:.3f} bits/byte")
    if val:
        shown = "bits_per_byte" if "bits_per_byte" in val else "accuracy" if "accuracy" in val else "loss"
        parts.append(f"val {shown.replace('_', ' ')} {val[shown]:.4g}")
    if "lr" in record:
        parts.append(f"lr {record['lr']:.3g}")
    for unit in ("tokens", "samples"):
        if f"{unit}_per_second" in record:
            parts.append(f"{_short(record[f'{unit}_per_second'])} {unit}/s")
            break
    if seconds_left is not None:
        minutes, seconds = divmod(round(seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left")
    return "  ".join(parts)


def _short(value: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{suffix}"
    return f"{value:.0f}"
