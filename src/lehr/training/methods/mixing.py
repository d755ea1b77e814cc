"""What `Mixup` and `CutMix` share: a batch is mixed when it is ready, with draws that follow from the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from lehr.augment.targets import probabilities
from lehr.base import seeds
from lehr.base.errors import SettingError
from lehr.base.protocols import Batch, Method, Place, RunContext
from lehr.losses.kinds import elementwise, ignored, of_classes, takes_probabilities
from lehr.losses.objective import Supervised

__all__ = ["Mixing", "mixing"]

Mix = Callable[[Tensor, Tensor, torch.Generator, int], tuple[Tensor, Tensor]]
"""``(x, y, generator, num_classes) -> (x, targets)``."""


class _Given(Protocol):
    """The settings of a mixing method."""

    @property
    def probability(self) -> float: ...
    @property
    def classes(self) -> int | None: ...


class Mixing(Method):
    """Mixes the batches of one run."""

    changes = frozenset({"batch"})

    def __init__(self, name: str, mix: Mix, *, probability: float, num_classes: int, seed: int, rank: int) -> None:
        self.name, self._mix = name, mix
        self._probability, self._num_classes, self._seed, self._rank = probability, num_classes, seed, rank

    def batch_ready(self, batch: Batch, place: Place) -> Batch:
        """Return the batch mixed with itself, or as it is where the draw of this step says so."""
        self._check(batch)
        generator = seeds.generator(self._seed, self.name, self._rank, place.step)
        if float(torch.rand((), generator=generator)) >= self._probability:
            return batch
        x, y = batch
        return self._mix(x, y, generator, self._num_classes)

    def first(self, batch: Batch) -> Batch:
        """Return a first batch mixed, whatever the probability says: for a look at it before the run."""
        self._check(batch)
        x, y = batch
        probabilities(y.cpu(), self._num_classes)  # a wrong label would end an accelerator's process, not the run
        return self._mix(x, y, seeds.generator(self._seed, self.name, "first"), self._num_classes)

    def _check(self, batch: Batch) -> None:
        if not _is_pair(batch):
            raise SettingError(
                f"{self.name} needs batches (input, label) of two tensors, but the data gives {_shown(batch)}; leave "
                f"{self.name} out, or let the data give pairs"
            )


def mixing(name: str, mix: Mix, given: _Given, context: RunContext) -> Mixing:
    """Return the method for a run, of which the loss takes probabilities and the number of classes is known."""
    objective = context.objective
    loss = objective.loss if isinstance(objective, Supervised) else None
    if loss is not None and (elementwise(loss) or (of_classes(loss) and not takes_probabilities(loss))):
        raise SettingError(
            f"{name} makes targets of probabilities over classes, which this loss does not take; use a cross entropy "
            f"(objective=cross_entropy), or leave {name} out"
        )
    left_out = ignored(loss) if loss is not None and of_classes(loss) else None
    if left_out not in (None, -100):  # torch's default says nothing about the labels
        raise SettingError(
            f"{name}: this loss ignores the label {left_out}, which a mixture does not have; leave {name} out, or use "
            "a loss that ignores none"
        )
    known = context.facts.get("num_classes")
    if known is not None and given.classes not in (None, known):
        raise SettingError(f"{name}: classes={given.classes}, but the data has {known}; leave classes out")
    num_classes = given.classes if known is None else int(known)
    if num_classes is None:
        raise SettingError(
            f"{name} needs the number of classes, which the data does not tell (the fact num_classes); give "
            f"methods.{name}.classes"
        )
    return Mixing(
        name, mix, probability=given.probability, num_classes=num_classes, seed=context.seed, rank=context.rank
    )


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)


def _shown(batch: Any) -> str:
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {', '.join(type(part).__name__ for part in batch)}"
    return f"a {type(batch).__name__}"
