"""Where the time of a step goes: data, forward pass, backward pass, optimizer, waiting, and what is left."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from lehr.run.trainer import Trainer
from lehr.training.profiling import busy_seconds
from lehr.training.steps.whole import WholeStep

__all__ = ["Phases", "phases"]

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpyAsync")
"""What the host does while it waits for a CUDA device."""


PROFILED = 20
"""Steps under the profiler at the most: what it has recorded takes long to add up."""


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Seconds of a step, by what they went into. Forward, backward and the others add up to `total`."""

    data: float
    forward: float
    """Model and loss; with ``step=whole`` the graph, which is both passes."""
    backward: float
    optimizer: float
    synchronization: float
    """The host waiting for the device: nothing on a CPU."""
    rest: float
    """Clipping, records, the loop."""
    python: float
    """Between operations, in whichever of the others: what a compiled step can save."""
    total: float

    def share(self, phase: str) -> float:
        """Return the part of a step that went into a phase of that name."""
        seconds: float = getattr(self, phase)
        return seconds / self.total if self.total else 0.0


def phases(trainer: Trainer, batches: Any, steps: int) -> Phases:
    """Train so many steps as they are, and again with a watch in every phase; some more under torch's profiler.

    On an accelerator each phase is waited for, so that its time is its own; the whole is that of steps as they are.
    """
    update = trainer.loop.update
    step_seconds, _ = _steps(trainer, batches, steps)
    watch = _Watch(update.device)
    put_back = watch.put_on(update)
    try:
        _, data = _steps(trainer, batches, steps)
    finally:
        put_back()
    busy, waiting = _busy(trainer, batches, min(steps, PROFILED))
    spent = {name: seconds / steps for name, seconds in watch.seconds.items()}
    forward, backward = spent.get("forward", 0.0), spent.get("backward", 0.0) - spent.get("forward", 0.0)
    if isinstance(update, WholeStep):  # one graph of both, with the few steps that are eager
        forward, backward = spent.get("attempt", 0.0) - spent.get("optimizer", 0.0), 0.0
    parts = (data, forward, backward, spent.get("optimizer", 0.0), waiting)
    scale = min(1.0, step_seconds / sum(parts))  # watching takes time too, and on an accelerator it adds waiting
    data, forward, backward, optimizer, waiting = (scale * part for part in parts)
    return Phases(
        data=data,
        forward=forward,
        backward=backward,
        optimizer=optimizer,
        synchronization=waiting,
        rest=step_seconds - scale * sum(parts),
        python=step_seconds * (1 - busy),
        total=step_seconds,
    )


def _steps(trainer: Trainer, batches: Any, steps: int) -> tuple[float, float]:
    """Train so many steps; returns the seconds of one, and those in which it waited for its batch."""
    data, started = 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        data += time.perf_counter() - asked
        trainer.step(batch)
    _wait(trainer.loop.update.device)
    return (time.perf_counter() - started) / steps, data / steps


class _Watch:
    """Adds up the seconds of calls, by phase."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device

    def put_on(self, update: Any) -> Callable[[], None]:
        """Watch the parts of an update; returns what takes the watch off again."""
        objective, steps = update.objective, update.steps
        update.objective = _Watched(objective, self, "forward")
        update.steps = [_Watched(step, self, "optimizer") for step in steps]
        update.backward = _Watched(update.backward, self, "backward")
        update.attempt = _Watched(update.attempt, self, "attempt")

        def off() -> None:
            update.objective, update.steps = objective, steps
            del update.backward, update.attempt  # what the class has is seen again

        return off

    def time(self, phase: str, call: Callable[[], Any]) -> Any:
        """Call, and add what it took to a phase."""
        started = time.perf_counter()
        result = call()
        _wait(self._device)
        self.seconds[phase] += time.perf_counter() - started
        return result


class _Watched:
    """A function with a watch; in all else it is what it was."""

    def __init__(self, function: Callable[..., Any], watch: _Watch, phase: str) -> None:
        self._function, self._watch, self._phase = function, watch, phase

    def __call__(self, *given: Any, **more: Any) -> Any:
        return self._watch.time(self._phase, lambda: self._function(*given, **more))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


def _busy(trainer: Trainer, batches: Any, steps: int) -> tuple[float, float]:
    """Return the share of a step in which an operation ran, and the seconds in which the host waited for the device.

    A share, since under the profiler operations and what lies between them both take longer.
    """
    cuda = trainer.loop.update.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds) as done:
        seconds, _ = _steps(trainer, batches, steps)
    averages = done.key_averages()
    waiting = sum(event.self_cpu_time_total for event in averages if event.key in WAITS) / 1e6
    busy = busy_seconds(averages, "cuda" if cuda else "cpu") / steps
    return min(1.0, busy / seconds), waiting / steps if cuda else 0.0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
