"""Stochastic weight averaging: the equal average of late weights, evaluated beside the weights themselves."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lehr import averaging
from lehr.base import seeds
from lehr.base.batches import num_samples
from lehr.base.durations import Duration, DurationSetting
from lehr.base.errors import LehrWarning, SettingError
from lehr.base.protocols import Batch, Method, Place, RunContext
from lehr.base.settings import Settings
from lehr.dist.collectives import sum_over_ranks
from lehr.dist.ranks import Ranks
from lehr.losses.objective import Supervised
from lehr.training.buffers import KeptBuffers
from lehr.training.methods.own_average import refuse_own_average

__all__ = ["SWA"]


class SWA(Settings):
    """Settings of `lehr.averaging.SWA`: from ``start`` on, weights are taken at each multiple of ``every``.

    Evaluations report its values as ``swa_loss`` and so on; until the first are taken, they are the model's own. With a
    schedule that restarts, let ``every`` be the length of a cycle.
    """

    prefix: ClassVar[str] = "swa"

    start: DurationSetting = Duration(75, "%")
    """Before this, none are taken."""
    every: DurationSetting = Duration(1, "%")
    """How often weights are taken, counted from the run's beginning; at each step where that is less than one."""
    batches: int = Field(default=50, ge=1)
    """How many training batches, spread over the data, or the first of a stream, make batch norm's statistics."""

    def build(self, context: RunContext) -> Method:
        """Return the method for this run."""
        if self.every.value == 0:
            raise SettingError(f"methods.swa.every={self.every} is never and always; give 1 or more")
        refuse_own_average(context.optimizers, "which swa would average again; leave swa out, or use another optimizer")
        if context.optimizers and averaging.tracking_norms(context.model):
            context.batches(1)  # what cannot be read is refused now, and not at the first evaluation of the average
        start, every = self.start.steps(context.run), max(1, self.every.steps(context.run))
        first = max(1, math.ceil(start / every)) * every
        if first > context.run.steps:
            raise SettingError(
                f"methods.swa.start={self.start} and every={self.every} take the first weights at step {first}, but "
                f"the run ends at {context.run.steps}; start earlier, such as '75%', or take them more often"
            )
        return SWAMethod(context, start=start, every=every, batches=self.batches)


class SWAMethod(Method):
    """Keeps the average of one run."""

    changes = frozenset({"model"})
    prefix = SWA.prefix

    def __init__(self, context: RunContext, *, start: int, every: int, batches: int) -> None:
        self._context, self._start, self._every, self._batches = context, start, every, batches
        self._average = averaging.SWA(context.model)
        self._modules = dict(context.model.named_modules())
        context.structure.follow(self._take_hold)
        self._evaluating: list[str] = []
        self._warned = False

    def _take_hold(self) -> None:
        self._average.take_hold()
        self._modules = dict(self._context.model.named_modules())

    def step_end(self, model: nn.Module, place: Place) -> None:
        if place.step >= self._start and place.step % self._every == 0:
            self._average.update()
            # what training has in evaluation mode, such as frozen norms, is so when norms are made anew
            self._evaluating = [name for name, module in self._modules.items() if not module.training]

    @contextlib.contextmanager
    def put_in(self) -> Iterator[None]:
        if not (self._average.taken and averaging.tracking_norms(self._context.model)):
            with self._average.put_in():
                yield
            return
        with self._average.put_in(), KeptBuffers(self._context.model).kept():
            # dropout and augmentation draw here; the run's own draws are as if they did not
            with seeds.seeded(self._context.seed, "swa", self._context.rank):
                evaluating = [self._modules[name] for name in self._evaluating]
                left_out = averaging.refresh_norms(
                    self._context.model, self._run, self._some_batches(), evaluating=evaluating, share=self._share
                )
            self._warn_of(left_out)
            yield

    def _run(self, batch: Batch) -> None:
        objective, model = self._context.objective, self._context.model
        with self._context.autocast():
            if isinstance(objective, Supervised):
                objective.outputs(model, batch)
            else:
                objective(model, batch)

    def _share(self, norms: list[_BatchNorm]) -> None:
        _share_statistics(norms, Ranks(self._context.rank, self._context.world))

    def _warn_of(self, left_out: int) -> None:
        if left_out and not self._warned:
            self._warned = True
            warnings.warn(
                f"{left_out} of {self._batches_read} batches of training data were left out of the statistics of batch "
                "norm under swa, since theirs are not finite; look for samples with inf or nan",
                LehrWarning,
                stacklevel=3,
            )

    def _some_batches(self) -> Iterable[Batch]:
        """Yield training batches; not a last one of a single sample, which has no variance."""
        size = self._batches_read = 0
        for batch in self._context.batches(self._batches):
            size = max(size, num_samples(batch))
            if num_samples(batch) > 1 or size == 1:
                self._batches_read += 1
                yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average.state_dict(), "evaluating": self._evaluating}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self._average.load_state_dict(state["average"])
        self._evaluating = list(state["evaluating"])


@torch.no_grad()
def _share_statistics(norms: list[_BatchNorm], ranks: Ranks) -> None:
    """Give every rank the mean statistics of all batches, of which each rank has seen its own."""
    if ranks.world == 1:
        return
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        count = norm.num_batches_tracked.to(norm.running_mean.dtype)
        total = sum_over_ranks(count, ranks)
        for statistic in (norm.running_mean, norm.running_var):
            statistic.copy_(torch.where(total > 0, sum_over_ranks(statistic * count, ranks) / total, statistic))
        norm.num_batches_tracked.copy_(total)
