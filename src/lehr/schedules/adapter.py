"""Between these schedules and torch's schedulers, both ways. This file needs torch; the rest of the folder does not."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from lehr.base.errors import SettingError
from lehr.base.momentum import check_momentum, set_momentum
from lehr.base.protocols import Place
from lehr.schedules.plateau import PlateauSchedule
from lehr.schedules.schedule import Schedule, observers

__all__ = ["Scheduler", "as_torch", "from_torch"]


def as_torch(
    schedule: Schedule, optimizer: torch.optim.Optimizer, *, momentum: Schedule | None = None, each_update: bool = True
) -> Scheduler:
    """Return a torch scheduler for a loop of one's own: ``optimizer.step()``, then ``scheduler.step()``.

    The rate is right from the first update on. With ``each_update=False`` the schedule counts what the caller counts,
    such as epochs, and stepping it less often than the optimizer is no mistake.

    >>> from lehr.base.durations import RunLength
    >>> from lehr.schedules import Warmup
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> scheduler = as_torch(Warmup(length=4).resolve(RunLength(10)), optimizer)
    >>> optimizer.step(); scheduler.step(); scheduler.get_last_lr()
    [0.05]
    """
    return Scheduler(schedule, optimizer, momentum=momentum, each_update=each_update)


class Scheduler(LRScheduler):
    """A schedule that writes ``base rate * factor`` into an optimizer's groups."""

    def __init__(
        self, schedule: Schedule, optimizer: torch.optim.Optimizer, *, momentum: Schedule | None, each_update: bool
    ) -> None:
        self.schedule, self.momentum = schedule, momentum
        self._observers: list[Any] = observers(schedule)
        self._alone = isinstance(schedule, PlateauSchedule)
        self._updates = 0
        if momentum is not None:
            check_momentum([optimizer])
        super().__init__(optimizer)
        if each_update and not self._alone:
            optimizer.register_step_post_hook(self._count)

    def step(self, metrics: float | Mapping[str, float] | None = None) -> None:
        """Go on by one, after an update; give what was measured, if the schedule goes by it and there is something.

        A number is the value that a plateau monitors. A plateau alone is stepped after evaluations, and needs it.
        """
        started = hasattr(self, "_last_lr")
        if metrics is not None and not self._observers:
            raise SettingError("this schedule does not go by measured values; call step() without one")
        if metrics is None and started and self._alone:
            raise SettingError("a plateau goes by a measured value: call step(val_loss) after each evaluation")
        if metrics is not None:
            place = Place(step=self.last_epoch + 1, epoch=0, total_steps=0)
            for observer in self._observers:
                values = metrics if isinstance(metrics, Mapping) else {observer.monitor: float(metrics)}
                observer.eval_end(place, values)
        self._updates = 0
        super().step()

    def get_lr(self) -> list[float | torch.Tensor]:
        """Return the rates at the present step; the momentum is written on the way."""
        if self.momentum is not None:
            set_momentum([self.optimizer], self.momentum(self.last_epoch))
        factor = self.schedule(self.last_epoch)
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return the step, the base rates and what a plateau remembers; the schedule itself is made again."""
        memories = [observer.state_dict() for observer in self._observers]
        return {"step": self.last_epoch, "base_lrs": list(self.base_lrs), "memories": memories}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a step, and write its rates into the groups."""
        self.last_epoch, self.base_lrs = state_dict["step"], list(state_dict["base_lrs"])
        for observer, memory in zip(self._observers, state_dict["memories"], strict=True):
            observer.load_state_dict(memory)
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)  # a compiled optimizer reads this very tensor
            else:
                group["lr"] = rate

    def _count(self, *_: Any) -> None:
        self._updates += 1
        if self._updates > 1:
            raise SettingError(
                "the optimizer has made 2 updates since the schedule was stepped; call scheduler.step() after each "
                "optimizer.step(), or say as_torch(..., each_update=False) if the schedule counts something else"
            )


def from_torch(scheduler: LRScheduler) -> Schedule:
    """Return a fresh torch scheduler as a schedule, by stepping a copy of it as far as it is asked for.

    The factor is relative to the rate that the optimizer was made with, so a recipe whose base rate is that one trains
    at torch's rates. Neither the scheduler nor its optimizer is touched.

    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    >>> schedule = from_torch(torch.optim.lr_scheduler.StepLR(optimizer, step_size=2))
    >>> [round(schedule(step), 3) for step in (0, 1, 2, 4)]
    [1.0, 1.0, 0.1, 0.01]
    """
    kinds = list(_with_inner(scheduler))
    if any(isinstance(kind, ReduceLROnPlateau) for kind in kinds):
        raise SettingError("ReduceLROnPlateau goes by measured values, not by the step; use lehr's plateau")
    if any(getattr(kind, "cycle_momentum", False) for kind in kinds):
        raise SettingError(
            "it cycles the momentum too, which a schedule from torch cannot; make it with cycle_momentum=False, or use "
            "lehr's one_cycle or cyclic with cycle_momentum=[0.85, 0.95]"
        )
    at = max(kind.last_epoch for kind in kinds if hasattr(kind, "last_epoch"))
    if at > 0:
        raise SettingError(f"the scheduler is at step {at} already; give a fresh one")
    return _Steps(scheduler, overwrites=any(isinstance(kind, OneCycleLR | CyclicLR) for kind in kinds))


def _with_inner(scheduler: Any) -> Iterator[Any]:
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from _with_inner(inner)


class _Steps:
    """The factors of a torch scheduler, read one after another and kept."""

    def __init__(self, scheduler: LRScheduler, *, overwrites: bool) -> None:
        groups = scheduler.optimizer.param_groups
        self.optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.0)  # stands in, without the parameters
        LambdaLR(self.optimizer, lambda _: 1.0)  # any scheduler prepares the optimizer for being watched
        self.optimizer.param_groups = [group | {"params": []} for group in groups]
        self.scheduler = copy.deepcopy(scheduler, {id(scheduler.optimizer): self.optimizer})
        # a scheduler that sets its own first rate leaves only the default to say what the optimizer was made with
        made_with = scheduler.optimizer.defaults["lr"] if overwrites else groups[0]["initial_lr"]
        if made_with == 0 or any(group["initial_lr"] == 0 for group in groups):
            raise SettingError("the optimizer was made with a rate of 0, of which nothing is a share; use lr=1")
        self.shares = [float(group["initial_lr"]) for group in groups]
        self.scale = self.shares[0] / float(made_with)
        self.factors: list[float] = []
        self._read()

    def __call__(self, step: int) -> float:
        """Return the factor at ``step``."""
        while len(self.factors) <= step:
            self.optimizer.step()
            self.scheduler.step()
            self._read()
        return self.factors[step]

    def _read(self) -> None:
        found = [float(g["lr"]) / share for g, share in zip(self.optimizer.param_groups, self.shares, strict=True)]
        if any(abs(factor - found[0]) > 1e-9 * max(1.0, abs(found[0])) for factor in found):
            raise SettingError(
                f"the groups have different factors at step {len(self.factors)}: "
                f"{', '.join(f'{factor:g}' for factor in found)}; a schedule is one factor for all of them"
            )
        self.factors.append(found[0] * self.scale)
