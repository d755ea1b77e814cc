"""Early stopping and targets, decided at evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic import Field

from lehr.base.durations import Duration, DurationSetting
from lehr.base.errors import SettingError, StopRun
from lehr.base.protocols import Observer, Place
from lehr.base.settings import Settings

Goal: TypeAlias = Literal["min", "max"]

__all__ = ["EarlyStopping", "Stop", "Stopping", "improves"]


class Stop(Settings):
    """When a run ends before its last step."""

    val_loss: float | None = None
    """End the run when the validation loss is at most this ("target")."""
    patience: int | None = Field(default=None, ge=1)
    """End the run after so many evaluations in a row without an improvement ("early-stop")."""
    min_delta: float = Field(default=0.0, ge=0)
    """What the monitored value must improve by, more than this, to count as an improvement."""
    min_steps: DurationSetting = Duration(0)
    """Never stop before so long: 200 steps, '3 epochs'; ``patience`` begins there, with the best value so far."""


def improves(value: float, best: float | None, *, goal: Goal = "min", min_delta: float = 0.0) -> bool:
    """Whether ``value`` is better than ``best`` by more than ``min_delta``: an equal one, NaN and infinities are not.

    >>> improves(1.0, None), improves(1.0, 1.0), improves(math.inf, 1.0, goal="max"), improves(0.9, 1.0, min_delta=0.2)
    (True, False, False, False)
    """
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    return best - value > min_delta if goal == "min" else value - best > min_delta


class EarlyStopping:
    """Says when a value has not improved for ``patience`` evaluations in a row. For any loop; `Stopping` uses it.

    A value counts as an improvement as `improves` says: an equal one, NaN and infinities do not, and are waited on.
    Source: Prechelt 1998, "Early stopping, but when?".

    >>> early = EarlyStopping(patience=2)
    >>> [early.update(loss) for loss in (0.9, 0.7, 0.7, float("nan"))], early.best
    ([False, False, False, True], 0.7)
    """

    def __init__(self, patience: int, min_delta: float = 0.0, goal: Goal = "min") -> None:
        whole = isinstance(patience, int) and not isinstance(patience, bool) and patience >= 1
        if not whole or not 0 <= min_delta < math.inf or goal not in ("min", "max"):
            raise SettingError(
                f"EarlyStopping(patience={patience}, min_delta={min_delta}, goal={goal!r}): patience is a whole number "
                "from 1 on, min_delta a finite number from 0 on, and goal 'min' or 'max'"
            )
        self.patience, self.min_delta, self.goal = patience, min_delta, goal
        self.best: float | None = None
        self.waited = 0

    def update(self, value: float) -> bool:
        """Take the value of one more evaluation; returns whether to stop now."""
        if improves(value, self.best, goal=self.goal, min_delta=self.min_delta):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        return self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and how many evaluations it has stood."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Set them."""
        self.best, self.waited = state["best"], state["waited"]


class Stopping(Observer):
    """Follows the monitored value over evaluations and asks for a stop. Its memory is saved with the run.

    ``min_steps`` is the setting of that name in steps: evaluations before it say what is best, and wait for nothing.
    """

    def __init__(self, settings: Stop, *, monitor: str, goal: Goal, min_steps: int) -> None:
        self.settings, self.monitor, self.goal, self.min_steps = settings, monitor, goal, min_steps
        # followed without a patience too: a resume may set one
        self.early = EarlyStopping(settings.patience or 1, settings.min_delta, goal)

    def eval_end(self, place: Place, values: Mapping[str, float]) -> None:
        """Compare the monitored value with the best so far."""
        waited_enough = self.early.update(values[self.monitor])
        if place.step < self.min_steps:
            self.early.waited = 0
            return
        if self.settings.val_loss is not None and values["loss"] <= self.settings.val_loss:
            raise StopRun("target")
        if self.settings.patience is not None and waited_enough:
            raise StopRun("early-stop")

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, of what, and how many evaluations it has stood."""
        return {"monitor": self.monitor} | self.early.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Set them; with another monitored value the wait begins anew."""
        if state.get("monitor", self.monitor) == self.monitor:
            self.early.load_state_dict(state)
