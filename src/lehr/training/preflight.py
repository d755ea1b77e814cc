"""Before the first step: does the model take the data, does the loss take the output, do the labels fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from lehr.base.batches import num_samples
from lehr.base.errors import DataError, LehrError, SettingError
from lehr.base.protocols import Batch
from lehr.base.settings import describe_callable
from lehr.losses.objective import Objective, Supervised, check_sum_and_count
from lehr.training.buffers import KeptBuffers

__all__ = ["check_batch", "explain"]


def check_batch(
    model: nn.Module,
    objective: Objective,
    batch: Batch,
    *,
    ids: Sequence[int],
    autocast: Callable[[], Any],
) -> None:
    """Run the model and the loss once on ``batch`` and refuse what does not fit; nothing of the model is changed."""
    kept = KeptBuffers(model)
    kept.keep()
    try:
        with torch.no_grad(), autocast():
            if isinstance(objective, Supervised):
                _check_pair(batch)
                output, target = _called(model, lambda: objective.outputs(model, batch))
                _refuse(objective.problem(output, target), ids)
            given = objective(model, batch)
        name = describe_callable(objective.loss if isinstance(objective, Supervised) else objective)
        check_sum_and_count(given, name)
    finally:
        kept.put_back()


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


def _called(model: nn.Module, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except LehrError:
        raise
    except Exception as error:
        raise SettingError(
            f"{type(model).__name__} failed on the first batch: {type(error).__name__}: {error}. "
            "Check that the model takes what the data gives"
        ) from error


def _refuse(problem: tuple[str, list[int]] | None, ids: Sequence[int]) -> None:
    if problem is None:
        return
    text, rows = problem
    named = [ids[row] for row in rows if row < len(ids)]
    where = f" in samples {', '.join(str(i) for i in named[:10])}{' ...' if len(named) > 10 else ''}" if named else ""
    raise DataError(text + where)


def _kind(batch: Batch) -> str:
    if isinstance(batch, torch.Tensor):
        return f"one tensor of shape {tuple(batch.shape)}"
    return f"{type(batch).__name__} of {num_samples(batch)} samples"
