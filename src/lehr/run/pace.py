"""How long a run is, and what its rates and its momentum are at each step of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lehr.base.durations import Duration, RunLength
from lehr.base.errors import SettingError
from lehr.base.momentum import check_momentum
from lehr.base.protocols import Loader, Observer
from lehr.data.data import Splits
from lehr.run.recipe import Recipe
from lehr.schedules.function import as_settings
from lehr.schedules.schedule import Schedule, observers
from lehr.training.every import Every

__all__ = ["lengths", "resolve_momentum", "resolve_schedule", "resolve_watchers", "run_length"]


def run_length(steps: int, loader: Loader, facts: Mapping[str, Any]) -> RunLength:
    """Return what turns durations into updates, in a run of ``steps`` of them."""
    tokens = facts.get("tokens_per_sample")
    return RunLength(steps, loader.steps_per_epoch, tokens and loader.batch_size * tokens)


def lengths(recipe: Recipe, loader: Loader, facts: Mapping[str, Any]) -> tuple[RunLength, Every]:
    """Return the length of the run, and how often the rest happens."""
    per_epoch = loader.steps_per_epoch
    if recipe.steps is not None:
        total = recipe.steps
    elif per_epoch is None:
        raise SettingError(f"epochs={recipe.epochs:g}, but the training data has no known length; give steps instead")
    else:
        total = Duration(recipe.epochs or 0, "epochs").steps(RunLength(per_epoch, per_epoch))
        if total == 0:
            raise SettingError(f"epochs={recipe.epochs:g} is less than one update; an epoch has {per_epoch}")
    size = loader.batch_size  # a user's DataLoader brings its own
    if recipe.accumulate > size:
        raise SettingError(
            f"accumulate={recipe.accumulate} cuts a batch of {size} samples into more pieces than it has; "
            f"use 1 to {size}"
        )

    run = run_length(total, loader, facts)

    def steps(name: str, length: Duration) -> int:
        if length.value == 0:
            raise SettingError(f"{name}={length} is never and always; give 1 or more, or more than {total} for never")
        return max(1, length.steps(run))

    keep = None if recipe.save.keep_every is None else steps("save.keep_every", recipe.save.keep_every)
    if keep is not None and keep > total:
        raise SettingError(
            f"save.keep_every={recipe.save.keep_every} is {keep} steps, but the run ends at {total}, so nothing would "
            "be kept; use at most '100%'"
        )
    return run, Every(
        record=steps("track.every", recipe.track.every),
        evaluate=steps("evaluate.every", recipe.evaluate.every),
        save=steps("save.every", recipe.save.every),
        keep=keep,
    )


def resolve_schedule(recipe: Recipe, run: RunLength) -> Schedule:
    """Return the factor on the rates as a function of the step."""
    return as_settings(recipe.schedule).resolve(run)


def resolve_momentum(recipe: Recipe, run: RunLength, optimizers: Sequence[torch.optim.Optimizer]) -> Schedule | None:
    """Return the momentum as a function of the step, where the schedule cycles it."""
    momentum = as_settings(recipe.schedule).momentum(run)
    if momentum is not None:
        check_momentum(optimizers)
    return momentum


def resolve_watchers(
    recipe: Recipe, schedule: Schedule, optimizers: Sequence[torch.optim.Optimizer], splits: Splits
) -> list[Observer]:
    """Return the parts of a schedule that go by evaluations, and refuse a schedule that this run cannot have."""
    if getattr(recipe.schedule, "absolute", False):
        highest = max(group["lr"] for optimizer in optimizers for group in optimizer.param_groups)
        if highest != 1:
            raise SettingError(
                f"the schedule gives rates, not factors, but the base rate is {highest:g}; set optim.lr=1, or use "
                "inverse_sqrt, whose peak is optim.lr"
            )
    watchers = observers(schedule)
    for watcher in watchers:
        recipe.check_measured("schedule.monitor", watcher.monitor)  # type: ignore[attr-defined]
        if splits.val is None:
            raise SettingError("a plateau goes by validations; give Data(val=...), or another schedule")
    return watchers
