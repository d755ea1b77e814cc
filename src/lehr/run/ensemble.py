"""Runs, or the snapshots of one run, that predict together."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import PrivateAttr
from torch import Tensor, nn

from lehr.averaging.ensemble import Ensemble, How, shares_of
from lehr.base.errors import SettingError
from lehr.base.protocols import Batch
from lehr.losses.kinds import elementwise, middle, of_classes, of_torch
from lehr.losses.objective import Supervised
from lehr.metrics.metric import Metric
from lehr.run.opened import OpenedRun
from lehr.run.resume import changed_fields

__all__ = ["EnsembleResult", "evaluate_ensemble"]


@dataclass(frozen=True, kw_only=True)
class EnsembleResult:
    """What each member of an ensemble gives, and what they give together."""

    how: How
    """As it was done: "outputs" where a mean was asked for and the outputs are numbers."""
    shares: tuple[float, ...]
    members: tuple[Mapping[str, float], ...]
    """The values of each member, in the order given."""
    values: Mapping[str, float]
    """Those of the ensemble; a vote has no loss."""


def evaluate_ensemble(
    members: Sequence[OpenedRun],
    *,
    how: Literal["mean", "logits", "vote"] = "mean",
    weights: Sequence[float] | None = None,
    split: Literal["train", "val"] = "val",
) -> EnsembleResult:
    """Evaluate each of ``members`` and all of them together, on the data of the first one.

    Each has the weights that its run was judged by (`OpenedRun.using`). For a loss over classes, ``how`` is
    `lehr.averaging.combine`'s; for any other loss, outputs are numbers, and only their mean has a meaning. All models
    are in memory at once. Refused: runs whose data or classes differ, and a vote that no metric counts.
    """
    if len(members) < 2:
        raise SettingError(f"an ensemble has two members or more; {len(members)} given")
    shares = shares_of(len(members), weights)
    first = members[0]
    _check_facts(members)
    combined, dim = _reading(first.recipe.objective, how)
    metrics = [metric for metric in first.recipe.metrics if metric.of != "model"]  # decoding is one model's own
    objective = first.recipe.objective
    measure = first.measuring(split)
    with contextlib.ExitStack() as stack:
        models = [stack.enter_context(member.using()) for member in members]
        alone = tuple(measure(model, objective, metrics) for model in models)
        ensemble = Ensemble(models, combined, weights=shares, dim=dim)
        values = (
            _count_votes(measure, ensemble, objective, metrics)
            if combined == "vote"
            else measure(ensemble, objective, metrics)
        )
    return EnsembleResult(how=combined, shares=tuple(shares), members=alone, values=values)


def _check_facts(members: Sequence[OpenedRun]) -> None:
    """Refuse runs of different data; what they were trained on may differ, what they are measured on may not."""

    def facts(member: OpenedRun) -> dict[str, Any]:
        return {name: fact for name, fact in member.facts.items() if not name.startswith("train")}

    for place, member in enumerate(members[1:], start=2):
        differ = changed_fields(facts(members[0]), facts(member))
        if differ:
            lines = "; ".join(differ).replace(" then, ", " in the first, ").replace(" now", f" in number {place}")
            raise SettingError(f"the runs are of different data, so they cannot predict together: {lines[:300]}")


def _reading(objective: Any, how: How) -> tuple[How, int | None]:
    """Return how outputs are combined, and in which dimension their classes are."""
    if not isinstance(objective, Supervised):
        raise SettingError(
            "an ensemble needs to know what the outputs are, but the objective takes model and batch itself; use a "
            "loss(output, target), or lehr.averaging.Ensemble in a loop of your own"
        )
    loss = objective.loss
    if of_classes(loss):
        return how, 1 if of_torch(loss) else -1
    if middle(loss) == 0:  # logits of decisions
        return how, None
    if how == "mean":
        return "outputs", None
    what = "are numbers" if elementwise(loss) else "are not known to be logits of classes"
    raise SettingError(f"--ensemble {how} needs a loss over classes, but the outputs {what}; use --ensemble mean")


class _WithoutLoss(Supervised):
    """An objective that reads outputs and classes as another one does, and measures no loss."""

    _other: Supervised = PrivateAttr()

    @classmethod
    def like(cls, other: Supervised) -> _WithoutLoss:
        """Return one for ``other``."""
        made = cls(loss=other.loss)
        made._other = other
        return made

    def outputs(self, model: nn.Module, batch: Batch) -> tuple[Any, Any]:
        return self._other.outputs(model, batch)

    def classes(self, output: Any, target: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        return self._other.classes(output, target)

    def measured(self, output: Any, target: Any, batch: Any) -> tuple[Tensor, float]:
        return output.new_zeros(()), 1


def _count_votes(
    measure: Any, ensemble: Ensemble, objective: Supervised, metrics: Sequence[Metric]
) -> dict[str, float]:
    """Return the metrics of classes: shares of votes are no probabilities, so nothing else is true of them."""
    counting = [metric for metric in metrics if metric.of == "classes"]
    if not counting:
        raise SettingError("a vote has no loss, and this recipe has no metric of classes; use --set metrics=accuracy")
    values = measure(ensemble, _WithoutLoss.like(objective), counting)
    return {metric.name: values[metric.name] for metric in counting}
