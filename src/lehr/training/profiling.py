"""Some steps of a run under torch's profiler: a trace to look at, and the operators that cost most."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from lehr.base.errors import LehrWarning
from lehr.base.protocols import Observer, Place

__all__ = ["Operator", "ProfiledSteps", "busy_seconds", "most_expensive", "table"]

AFTER, STEPS = 10, 10
"""How many steps are let pass first, and how many are then recorded; a trace takes about 1 MB for each."""
MOST = 10
"""Operators in the table."""


@dataclass(frozen=True)
class Operator:
    """What one operator took in the steps that were recorded, without what it called."""

    name: str
    calls: int
    milliseconds: float
    share: float


class ProfiledSteps(Observer):
    """Records some steps, and writes ``trace.json.gz``, which Perfetto opens, and ``operators.txt`` to a folder.

    While it records, steps take longer, and AdamW makes torch's own step instead of the lean one. What is trained is
    the same. A run that is too short for it is recorded from its second step on.
    """

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        self._folder, self._device = folder, device
        self._first = self._last = 0
        self._profile: profile | None = None

    def run_start(self, place: Place) -> None:
        """Choose the steps."""
        left = place.total_steps - place.step
        self._first = place.step + max(1, min(AFTER, left - STEPS))
        self._last = min(self._first + STEPS, place.total_steps)

    def step_end(self, place: Place) -> None:
        """Begin or end, where this is the step for it."""
        if self._profile is not None:
            if place.step >= self._last:
                self._write()
        elif place.step == self._first:
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._device == "cuda" else [])]
            self._profile = profile(activities=kinds, record_shapes=True)
            self._profile.start()

    def run_end(self, place: Place, reason: str) -> None:
        """Write what there is of a run that ended early."""
        self._write()

    def run_failed(self, place: Place, error: BaseException) -> None:
        """Put the profiler away."""
        if self._profile is not None:  # what is known of a failure is elsewhere; this is only put away
            with contextlib.suppress(RuntimeError):
                self._profile.stop()
            self._profile = None

    def _write(self) -> None:
        if self._profile is None:
            return
        done, self._profile = self._profile, None
        done.stop()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            done.export_chrome_trace(str(self._folder / "trace.json.gz"))
            (self._folder / "operators.txt").write_text(table(most_expensive(done.key_averages(), self._device)) + "\n")
        except (OSError, RuntimeError) as error:  # the run is whole without it
            warnings.warn(f"the profile could not be written to {self._folder}: {error}", LehrWarning, stacklevel=2)


def busy_seconds(events: Any, device: str = "cpu") -> float:
    """Return the seconds in which operations of ``profile.key_averages()`` ran, on ``device``."""
    frames = ("Optimizer.", "autograd::engine", "ProfilerStep")  # what contains operations, and Python between them
    if device == "cuda":
        return sum(float(event.self_device_time_total) for event in events) / 1e6
    return sum(float(event.self_cpu_time_total) for event in events if not event.key.startswith(frames)) / 1e6


def most_expensive(events: Any, device: str = "cpu", most: int = MOST) -> list[Operator]:
    """Return the operators of ``profile.key_averages()`` that took most by themselves, on ``device``."""

    def took(event: Any) -> float:
        return float(event.self_device_time_total if device == "cuda" else event.self_cpu_time_total)

    total = sum(map(took, events)) or 1.0
    ordered = sorted(events, key=took, reverse=True)[:most]
    return [Operator(event.key, event.count, took(event) / 1000, took(event) / total) for event in ordered]


def table(operators: list[Operator]) -> str:
    """Return them as a table.

    >>> print(table([Operator("aten::mm", 20, 12.5, 0.5)]))
    operator                                         calls        ms   share
    aten::mm                                            20     12.50   50.0%
    """
    head = f"{'operator':46}  {'calls':>6}  {'ms':>8}  {'share':>6}"
    rows = [f"{o.name[:46]:46}  {o.calls:>6}  {o.milliseconds:>8.2f}  {o.share:>6.1%}" for o in operators]
    return "\n".join([head, *rows])
