"""Gradual unfreezing as a method."""

from __future__ import annotations

import math
import warnings
from typing import Any

from pydantic import model_validator
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from lehr.base.durations import Duration, DurationSetting, RunLength
from lehr.base.errors import LehrWarning, SettingError
from lehr.base.protocols import Method, Place, RunContext
from lehr.base.settings import Settings
from lehr.optim.depth import depths
from lehr.transfer.unfreezing import train_from_depth, unfrozen_depth

__all__ = ["GradualUnfreezing"]


class GradualUnfreezing(Settings):
    """Trains the uppermost block first, and one more from the top after each phase.

    Blocks are counted by `lehr.optim.depths`. All parameters are in the optimizer from the start; frozen ones have no
    gradient, so neither an update nor decay reaches them. Norms with running statistics are in evaluation mode while
    they are frozen. Parameters that are frozen otherwise stay so. What trains follows from the step alone.
    """

    exclusive = (("every", "at"),)

    every: DurationSetting | None = None
    """Length of a phase; one epoch if neither this nor ``at`` is given."""
    at: tuple[DurationSetting, ...] | None = None
    """When each further block joins, from the top; the blocks below the last one named stay frozen."""

    @model_validator(mode="after")
    def _check(self) -> GradualUnfreezing:
        if self.every is not None and self.at is not None:
            raise SettingError(f"every={self.every} and at=... both say when blocks join; give one of them")
        if self.at == ():
            raise SettingError(
                "at=[] lets no block join; give when, such as ['1 epoch', '2 epochs'], or freeze by rules"
            )
        return self

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        if context.world > 1:
            raise SettingError(
                f"gradual_unfreezing cannot run in {context.world} processes: they agree once on which gradients they "
                "share. Run it in one process, or freeze for the whole run with rules of the optimizer"
            )
        context.structure.hold("gradual_unfreezing")
        depth_of = {name: depth for name, depth in depths(context.model).items() if _trains(context.model, name)}
        levels = sorted(set(depth_of.values()))
        if len(levels) < 2:
            raise SettingError(
                f"gradual_unfreezing has nothing to unfreeze: all parameters of {type(context.model).__name__} that "
                "train are in one block; leave it out"
            )
        rank = {depth: place for place, depth in enumerate(levels)}
        return GradualUnfreezingMethod(
            context.model,
            {name: rank[depth] for name, depth in depth_of.items()},
            self.boundaries(context.run, len(levels) - 1),
        )

    def boundaries(self, run: RunLength, blocks: int) -> list[int]:
        """Return the steps after which each of ``blocks`` further blocks joins, as far as they do.

        >>> GradualUnfreezing(every="2 epochs").boundaries(RunLength(1000, steps_per_epoch=50), 3)
        [100, 200, 300]
        """
        if self.at is not None:
            found = [duration.steps(run) for duration in self.at]
        else:
            phase = (self.every or Duration(1, "epochs")).exact_steps(run)
            if phase < 1:
                raise SettingError(
                    f"gradual_unfreezing: every={self.every} is {phase:g} updates; a phase needs one or more"
                )
            found = [math.floor(phase * place + 0.5) for place in range(1, blocks + 1)]
        if found[0] < 1 or found != sorted(set(found)):
            raise SettingError(
                f"at={_written(self.at)} is {found} in steps; each must be later than the one before, from 1 on"
            )
        if len(found) > blocks:
            raise SettingError(
                f"at={_written(self.at)} has {len(found)} times, but only {blocks} blocks are below the uppermost; "
                f"give {blocks} at the most"
            )
        late = [step for step in found if step >= run.steps]
        if late:
            warnings.warn(
                f"{len(late)} of {blocks} blocks would join only after the run's {run.steps} steps, and stay frozen to "
                "the end; make the phases shorter if that is not meant",
                LehrWarning,
                stacklevel=3,
            )
        return found


class GradualUnfreezingMethod(Method):
    """Freezes and unfreezes the blocks of one run."""

    changes = frozenset({"model"})

    def __init__(self, model: nn.Module, depth_of: dict[str, int], boundaries: list[int]) -> None:
        self._depth_of, self._boundaries = depth_of, boundaries
        self._top = max(depth_of.values())
        # a norm that was made in evaluation mode is meant to stay in it
        self._norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.training]

    def run_start(self, model: nn.Module, place: Place) -> None:
        depth = unfrozen_depth(place.step, top=self._top, boundaries=self._boundaries)
        train_from_depth(model, self._depth_of, depth, self._norms)

    def step_end(self, model: nn.Module, place: Place) -> None:
        if place.step in self._boundaries:
            self.run_start(model, place)


def _trains(model: nn.Module, name: str) -> bool:
    return model.get_parameter(name).requires_grad


def _written(durations: Any) -> list[str]:
    return [str(duration) for duration in durations or ()]
