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

LIVE_GAP_SECONDS = 0.1
GAP_SECONDS = 5.0
GROWTH = 1.02
"""Plain lines come at least `GAP_SECONDS` apart, and each time a share later, so that a run of weeks stays short."""


class Progress:
    """Shows the newest records of a run on standard error. It has no thread: between records it costs nothing."""

    def __init__(
        self,
        *,
        total_steps: int | None,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._clock = total_steps, clock
        self._stream = stream or sys.stderr
        self._begun: tuple[float, int] | None = None
        """When the first record came, and its step."""
        self._next = float("-inf")
        self._train: Record = {}
        self._val: Record = {}
        self._live: Live | None = None
        console = Console(file=self._stream)
        if self._stream.isatty() and console.is_interactive:
            # what is printed meanwhile appears above the line; but standard output that goes to a file stays there
            self._live = Live(
                Text("starting ..."), console=console, auto_refresh=False, redirect_stdout=sys.stdout.isatty()
            )
            self._live.start(refresh=True)

    def log(self, record: Record) -> None:
        """Take a record, and show where the run is if it is time to."""
        if "withheld" in record:
            return  # the next training record has their number
        if record["split"] == "val":
            self._val = record
        else:
            self._train = record
        now = self._clock()
        if self._begun is None:
            self._begun = now, int(record["step"])
        if now < self._next or not self._train:
            return
        line = self._line(now)
        if self._live is not None:
            self._live.update(Text(line), refresh=True)
            self._next = now + LIVE_GAP_SECONDS
        else:
            print(line, file=self._stream, flush=True)
            self._next = now + max(GAP_SECONDS, (GROWTH - 1) * (now - self._begun[0]))

    def close(self) -> None:
        """Show the last state, and leave the terminal as it was."""
        if self._live is not None:
            if self._train:
                self._live.update(Text(self._line(self._clock())))
            self._live.stop()
            self._live = None

    def _line(self, now: float) -> str:
        left = None
        if self._begun is not None and self._total is not None:
            (start, first), step = self._begun, int(self._train["step"])
            left = (now - start) / (step - first) * (self._total - step) if step > first else None
        return progress_line(self._train, self._val, total=self._total, seconds_left=left)


def progress_line(record: Record, val: Record, *, total: int | None, seconds_left: float | None) -> str:
    """Return one line about a training record and the last validation.

    >>> record = {"step": 40, "split": "train", "loss": 1.5, "lr": 0.001, "tokens_per_second": 25000.0}
    >>> progress_line(record, {}, total=100, seconds_left=61)
    'step 40/100  loss 1.5000  lr 0.001  25.0k tokens/s  1:01 left'
    """
    parts = [f"step {record['step']}" + (f"/{total}" if total is not None else ""), f"loss {record['loss']:.4f}"]
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
    withheld = record.get("skipped", 0) + record.get("empty", 0)
    if withheld:
        parts.append(f"{withheld} updates withheld")
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
