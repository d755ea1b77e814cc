"""One side of a comparison: a recipe in training, a window of steps at a time."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from lehr.base.durations import Duration
from lehr.base.errors import SettingError
from lehr.base.protocols import Batch
from lehr.levers.lever import Setup
from lehr.measurement.phases import Phases, phases
from lehr.measurement.setup import setup_of
from lehr.run.recipe import Recipe
from lehr.run.trainer import Trainer

__all__ = ["Arm", "RecipeArm", "Window", "measurable"]

WARM = 5
"""Steps before a step is taken apart."""


@dataclass(frozen=True)
class Window:
    """What some steps in a row took."""

    steps: int
    seconds: float

    @property
    def seconds_per_step(self) -> float:
        """The mean over its steps."""
        return self.seconds / self.steps


class Arm(Protocol):
    """What a comparison asks of a side. `RecipeArm` is one in this process, `lehr.measurement.worker.Worker` a proxy of
    one in a process of its own.
    """

    def window(self, steps: int) -> Window:
        """Train so many steps, and say how long they took."""

    def state(self) -> ArmState:
        """Say how far the training is, and what it has used."""

    def validate(self) -> float | None:
        """Return the validation loss of the weights as they are; None without validation data."""


@dataclass(frozen=True, kw_only=True)
class ArmState:
    """How far an arm is, and what it has used."""

    step: int
    """Updates of the run that is under way."""
    total_steps: int
    runs: int
    """How many runs were begun; more than one where the recipe's run was shorter than the measurement."""
    start_seconds: float
    """What it took to put the first run together."""
    peak_bytes: int
    """Largest memory so far: of the process, or on an accelerator of its allocations."""
    compilations: int | None
    losses: dict[int, float]
    """Training loss by step, as it was recorded in the first run."""


def measurable(recipe: Recipe) -> Recipe:
    """Return the recipe without what is due only now and then: evaluations, checkpoints, an early end.

    What is paid at every step stays: records, trackers, the finite check, methods.
    """
    whole = Duration(100, "%")
    return recipe.model_copy(
        update={
            "evaluate": recipe.evaluate.model_copy(update={"every": whole}),
            "save": recipe.save.model_copy(update={"every": whole, "keep_every": None, "best": False}),
        }
    )


class RecipeArm:
    """Trains a recipe, from the beginning again where its run is over.

    One arm a process: a run in progress has the process's threads and random generators.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self._recipe, self._folder = measurable(recipe), folder
        self._runs = 0
        started = time.perf_counter()
        self._begin()
        self._start_seconds = time.perf_counter() - started

    def _begin(self) -> None:
        self._runs += 1
        self._trainer = Trainer(self._recipe, run_dir=self._folder / f"run-{self._runs}")
        if self._trainer.loop.total_steps < 2:
            raise SettingError("a run of one step cannot be measured; give steps= or epochs= for more")
        self._batches = self._trainer.batches()

    def _make_room(self, steps: int = 1) -> None:
        """Begin the run anew where it has not that many steps left before its last one, which evaluates and saves."""
        if self._trainer.loop.clock.step + steps >= self._trainer.loop.total_steps:
            self.close()
            self._begin()

    def restart(self) -> None:
        """Begin the run anew, if it has begun."""
        if self._trainer.loop.clock.step:
            self.close()
            self._begin()

    def setup(self) -> Setup:
        """Return what levers need to know of the run."""
        return setup_of(self._trainer.assembly)

    def phases(self, seconds: float) -> Phases:
        """Say where the time of a step goes, in about so many seconds behind what it takes to warm up."""
        self.window(WARM)
        total = self._trainer.loop.total_steps
        most = (total - 1) // 3
        if most < 1:
            raise SettingError(
                f"a run of {total} steps is too short to be taken apart; give steps= or epochs= for more"
            )
        steps = max(1, min(most, int(seconds / 3 / self.window(1).seconds_per_step)))
        runs = self._runs
        self._make_room(3 * steps)
        if self._runs > runs and self._trainer.loop.total_steps > 3 * steps + WARM:
            self.window(WARM)
        return phases(self._trainer, self._batches, steps)

    def window(self, steps: int) -> Window:
        """Train so many steps; what it takes to begin the run anew is not counted."""
        seconds = 0.0
        for _ in range(steps):
            self._make_room()
            started = time.perf_counter()
            self._trainer.step(self._next())
            seconds += time.perf_counter() - started
        started = time.perf_counter()
        _wait_for(self._trainer.loop.update.device)
        return Window(steps, seconds + time.perf_counter() - started)

    def _next(self) -> Batch:
        batch = next(self._batches, None)
        if batch is None:
            raise SettingError(f"the run stopped by itself ({self._trainer.loop.stopped}) while it was measured")
        return batch

    def state(self) -> ArmState:
        """Say how far the training is, and what it has used."""
        loop, compiled = self._trainer.loop, self._trainer.assembly.compiled
        return ArmState(
            step=loop.clock.step,
            total_steps=loop.total_steps,
            runs=self._runs,
            start_seconds=self._start_seconds,
            peak_bytes=_peak_bytes(loop.update.device),
            compilations=compiled.compilations if compiled else None,
            losses=_losses(self._folder / "run-1" / "metrics.jsonl"),
        )

    def validate(self) -> float | None:
        """Return the validation loss of the weights as they are, on as much as the recipe's evaluations take."""
        validate = self._trainer.assembly.validate
        return validate(self._recipe.evaluate.batches)["loss"] if validate is not None else None

    def close(self) -> None:
        """End the run that is under way."""
        self._batches.close()  # type: ignore[attr-defined]


@contextlib.contextmanager
def arm_of(recipe: Recipe, folder: Path) -> Iterator[RecipeArm]:
    """Give an arm that is closed behind the block."""
    arm = RecipeArm(recipe, folder)
    try:
        yield arm
    finally:
        arm.close()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used  # Linux counts in KiB


def _losses(records: Path) -> dict[int, float]:
    if not records.is_file():
        return {}
    lines: list[dict[str, Any]] = [json.loads(line) for line in records.read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["split"] == "train"}
