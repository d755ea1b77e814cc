"""Before the first step: does the model take the data, does the loss take the output, do the labels fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from lehr.base.batches import num_samples, tensors_of
from lehr.base.errors import DataError, LehrError, SettingError
from lehr.base.protocols import Batch
from lehr.base.settings import describe_callable
from lehr.losses.objective import Objective, Supervised, check_sum_and_count
from lehr.losses.rows import label_problem
from lehr.metrics.metric import Metric
from lehr.training.buffers import KeptBuffers

__all__ = ["check_batch", "explain"]


def check_batch(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    *,
    ids: Sequence[int],
    autocast: Callable[[], Any],
    metrics: Sequence[Metric] = (),
) -> bool:
    """Run the model, the loss and the metrics once on ``batch`` and refuse what does not fit; nothing is changed.

    Returns whether the loss counts for itself, so that microbatches of any kind weigh rightly.
    """
    _refuse_untrainable(model, objective)
    counted = True
    kept = KeptBuffers(model)
    kept.keep()
    try:
        with autocast():
            if isinstance(objective, Supervised):
                _check_pair(batch)
                with torch.no_grad():
                    output, target = _called(type(model).__name__, lambda: objective.outputs(model, batch))
                    _refuse(objective.problem(output, target), ids)
                name = describe_callable(objective.loss)
                facts = f"the model gives {_kind(output)}, and the target is {_kind(target)}"
                given = _called(name, lambda: objective(model, batch), facts)
                counted = objective.counts(output, target)
                with torch.no_grad():
                    if objective.val_loss is not None:
                        _try_val_loss(objective, output, target, batch, facts)
                    for metric in metrics:
                        _try_metric(metric, objective, output, target, facts)
            else:
                name = describe_callable(objective)
                given = _called(name, lambda: objective(model, batch))
        check_sum_and_count(given, name)
        if not given[0].requires_grad:
            raise SettingError(
                f"{name} returned a loss without a gradient, so nothing can be learned; look for detach(), item(), "
                "argmax() or no_grad() between the parameters and the loss"
            )
    finally:
        kept.put_back()
    return counted


def _refuse_untrainable(model: nn.Module, objective: Objective) -> None:
    """Refuse parameters that the optimizer would never see, and gradients that it could not put together."""
    own = {id(p) for p in model.parameters()}
    loss = getattr(objective, "loss", objective)
    holder = getattr(loss, "func", loss)
    holder = getattr(holder, "__self__", holder)
    if isinstance(holder, nn.Module):
        outside = [name for name, p in holder.named_parameters() if p.requires_grad and id(p) not in own]
        if outside:
            raise SettingError(
                f"{type(holder).__name__}, the loss, has trainable parameters of its own ({', '.join(outside[:5])}), "
                "which would be neither trained nor saved; put them into the model, or freeze them with "
                "requires_grad_(False)"
            )
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse and module.weight.requires_grad:
            raise SettingError(
                f"the {type(module).__name__} {name!r} has sparse=True, but the norm of sparse gradients cannot be "
                "taken together with the others'; use sparse=False"
            )


def _try_val_loss(objective: Supervised, output: Any, target: Any, batch: Batch, facts: str) -> None:
    name = f"val_loss={describe_callable(objective.val_loss)}"
    try:
        objective.measured(output, target, batch)
    except Exception as error:
        raise SettingError(f"{name} failed on the first batch: {type(error).__name__}: {error}; {facts}") from error


def _try_metric(metric: Metric, objective: Supervised, output: Any, target: Any, facts: str) -> None:
    if metric.of == "outputs":
        given = _called(f"the metric {metric.name!r}", lambda: metric.compute(output, target), facts)
    elif metric.of == "classes":
        scores, labels, counted = objective.classes(output, target)
        found = None if counted is not None else label_problem(scores, labels)
        if found:
            raise SettingError(
                f"the metric {metric.name!r} cannot count: {found[0]}; labels are ignored under "
                "nn.CrossEntropyLoss(ignore_index=...) or cross_entropy(ignore=...)"
            )
        given = _called(f"the metric {metric.name!r}", lambda: metric.compute(scores, labels, counted), facts)
    else:
        return
    if not (isinstance(given, tuple) and len(given) == 2):
        raise SettingError(f"the metric {metric.name!r} returned {_kind(given)}; it must return (sum, count)")


def explain(model: nn.Module, objective: Objective, batch: Batch, ids: Sequence[int]) -> LehrError | None:
    """After a step has raised: return the error that names the samples, where the batch itself was at fault."""
    if not isinstance(objective, Supervised):
        return None
    try:
        with torch.no_grad():
            found = objective.problem(*objective.outputs(model, batch))
            _refuse(found, ids)
    except DataError as error:
        return error
    except Exception:
        return None
    return None


def _check_pair(batch: Batch) -> None:
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise SettingError(
            f"a loss(output, target) needs batches (input, target), but the data gives {_kind(batch)}; let the data "
            "give pairs, or use an objective(model, batch) that takes the batch apart itself"
        )


def _called(name: str, call: Callable[[], Any], facts: str = "check that it takes what the data gives") -> Any:
    try:
        return call()
    except LehrError:
        raise
    except Exception as error:
        raise SettingError(f"{name} failed on the first batch: {type(error).__name__}: {error}; {facts}") from error


def _refuse(problem: tuple[str, list[int]] | None, ids: Sequence[int]) -> None:
    if problem is None:
        return
    text, rows = problem
    named = [ids[row] for row in rows if row < len(ids)]
    where = f" in samples {', '.join(str(i) for i in named[:10])}{' ...' if len(named) > 10 else ''}" if named else ""
    raise DataError(text + where)


def _kind(given: Any) -> str:
    """Describe an input, an output or a target in a few words.

    >>> _kind(torch.zeros(2, 3)), _kind(None), _kind([torch.zeros(2)])
    ('a tensor of shape (2, 3) and type float32', 'NoneType', 'list of 2 samples')
    """
    if isinstance(given, torch.Tensor):
        return f"a tensor of shape {tuple(given.shape)} and type {str(given.dtype).removeprefix('torch.')}"
    name = type(given).__name__
    return f"{name} of {num_samples(given)} samples" if any(True for _ in tensors_of(given)) else name
