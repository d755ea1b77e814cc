"""Evaluation: exact sums over the data, every module's mode as it was before, nothing kept of the outputs."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lehr.base import seeds
from lehr.base.errors import DataError, LehrWarning, SettingError
from lehr.base.modes import evaluation_mode
from lehr.base.protocols import Averaged, Batch
from lehr.dist.collectives import sums_over_ranks
from lehr.dist.ranks import Ranks
from lehr.losses.objective import Objective, Supervised
from lehr.metrics.metric import Metric

__all__ = ["check_metrics", "evaluate", "evaluate_averages", "loss_views", "put_in", "weights_of"]


def check_metrics(metrics: Sequence[Metric], objective: Objective) -> None:
    """Refuse metrics that need outputs where the objective does not hand them out."""
    needy = [m.name for m in metrics if m.of in ("outputs", "classes")]
    if needy and not isinstance(objective, Supervised):
        raise SettingError(
            f"the metric {needy[0]!r} needs the model's output and the target, but the objective takes model and batch "
            "itself; use a loss(output, target), or a Metric(of='model')"
        )


def evaluate(
    model: nn.Module,
    objective: Objective,
    batches: Iterable[Batch],
    metrics: Sequence[Metric] = (),
    *,
    autocast: Callable[[], Any] = contextlib.nullcontext,
    ranks: Ranks = Ranks(),
    device: torch.device = torch.device("cpu"),
    seed: int = 0,
) -> dict[str, float]:
    """Return the mean loss and the metrics over ``batches``: the same for any batch size and number of ranks.

    >>> from lehr.losses import cross_entropy
    >>> batch = torch.zeros(2, 4), torch.tensor([0, 1])
    >>> round(evaluate(nn.Identity(), Supervised(loss=cross_entropy), [batch])["loss"], 3)
    1.386
    """
    measured = [m for m in metrics if m.of != "loss"]
    sums = [0.0] * (2 * (1 + len(measured)))
    noise = seeds.address(seed, "evaluation", ranks.rank)
    with evaluation_mode(model):
        for place, batch in enumerate(batches):
            seeds.seed_noise(noise, 0, place, device.type)
            with autocast():
                pairs = _measure(model, objective, batch, measured)
            for slot, value in enumerate(_numbers(pairs)):
                sums[slot] += value
    sums = sums_over_ranks(sums, ranks, device)
    if sums[1] == 0:
        raise DataError("the validation data has nothing that counts: no batch, or no target that is not ignored")
    values = {"loss": sums[0] / sums[1]}
    if ranks.main and not math.isfinite(values["loss"]):
        warnings.warn(
            f"the loss on the validation data is {values['loss']}, so nothing can be chosen by it; look for values "
            "that are not finite in that data, and for what the model does only in evaluation mode",
            LehrWarning,
            stacklevel=2,
        )
    for metric, total, count in zip(measured, sums[2::2], sums[3::2], strict=True):
        values[metric.name] = total / count if count else float("nan")
    return values | loss_views(values["loss"], metrics)


def weights_of(monitor: str, averages: Sequence[Averaged]) -> str:
    """Return the name of the weights that the value ``monitor`` is measured with: "model", or a prefix.

    >>> weights_of("loss", [])
    'model'
    """
    return next((a.prefix for a in averages if a.prefix and monitor.startswith(f"{a.prefix}_")), "model")


@contextlib.contextmanager
def put_in(averages: Sequence[Averaged], weights: str) -> Iterator[None]:
    """Let the model have the weights of this name within a block: "model", "ema" and the like."""
    known = ("model", *(a.prefix for a in averages if a.prefix))
    if weights not in known:
        raise SettingError(f"this run has no weights {weights!r}; it has: {', '.join(known)}")
    with contextlib.ExitStack() as stack:
        for average in averages:
            if average.prefix in ("", weights):
                stack.enter_context(average.put_in())
        yield


def evaluate_averages(once: Callable[[], dict[str, float]], averages: Sequence[Averaged]) -> dict[str, float]:
    """Return what ``once()`` measures, and under each average's prefix what it measures with those weights.

    Weights with the prefix "" take the place of the model's own.

    >>> evaluate_averages(lambda: {"loss": 1.0}, [])
    {'loss': 1.0}
    """
    with put_in(averages, "model"):
        values = once()
    for average in averages:
        if average.prefix:
            with average.put_in():
                values |= {f"{average.prefix}_{name}": value for name, value in once().items()}
    return values


def _measure(model: nn.Module, objective: Objective, batch: Batch, metrics: Sequence[Metric]) -> list[tuple[Any, Any]]:
    """Return (sum, count) of the loss and of each metric on one batch, from one forward pass where that will do."""
    given: dict[str, Callable[[], tuple[Any, ...]]] = {"model": lambda: (model, batch)}
    if isinstance(objective, Supervised):
        output, target = objective.outputs(model, batch)
        given |= {"outputs": lambda: (output, target), "classes": lambda: objective.classes(output, target)}
        pairs = [objective.measured(output, target, batch)]
    else:
        pairs = [objective(model, batch)]
    return pairs + [metric.compute(*given[metric.of]()) for metric in metrics]


def _numbers(pairs: list[tuple[Any, Any]]) -> list[float]:
    flat = [value for pair in pairs for value in pair]
    on_device = [v for v in flat if isinstance(v, Tensor)]
    read = iter(torch.stack([v.double() for v in on_device]).tolist() if on_device else [])
    return [next(read) if isinstance(v, Tensor) else float(v) for v in flat]


def loss_views(loss: float, metrics: Sequence[Metric]) -> dict[str, float]:
    """Return the metrics that are functions of the mean loss.

    >>> from lehr.metrics.loss_views import BITS_PER_BYTE
    >>> loss_views(0.0, [BITS_PER_BYTE])
    {'bits_per_byte': 0.0}
    """
    return {m.name: m.compute(loss) for m in metrics if m.of == "loss"}
