"""What is minimized: a function of the model and a batch that returns a sum and a count.

A plain ``loss(output, target)`` is accepted and wrapped. Torch's own cross entropy and `nn.NLLLoss` are asked for their
sum and the number of targets that they counted, so they stay exact with ignored labels and class weights. Any other
loss that returns a mean is taken times the number of samples, which is exact when every sample weighs the same.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from pydantic import AfterValidator
from torch import Tensor, nn

from lehr.base.batches import num_samples
from lehr.base.errors import DataError, SettingError
from lehr.base.protocols import Batch
from lehr.base.settings import Settings, describe_callable
from lehr.losses.cross_entropy import cross_entropy, in_full, label_problem

__all__ = ["Objective", "Supervised", "as_objective", "sum_and_count"]

Loss: TypeAlias = Callable[[Any, Any], Any]

_ELEMENTWISE = frozenset(
    {
        F.binary_cross_entropy,
        F.binary_cross_entropy_with_logits,
        F.gaussian_nll_loss,
        F.hinge_embedding_loss,
        F.huber_loss,
        F.kl_div,
        F.l1_loss,
        F.mse_loss,
        F.multilabel_soft_margin_loss,
        F.poisson_nll_loss,
        F.smooth_l1_loss,
        F.soft_margin_loss,
    }
)
_ELEMENTWISE_MODULES = (
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.GaussianNLLLoss,
    nn.HingeEmbeddingLoss,
    nn.HuberLoss,
    nn.KLDivLoss,
    nn.L1Loss,
    nn.MSELoss,
    nn.MultiLabelSoftMarginLoss,
    nn.PoissonNLLLoss,
    nn.SmoothL1Loss,
    nn.SoftMarginLoss,
)
"""Losses that compare element by element, of which most stretch one of two shapes over the other."""


def _unwrapped(loss: Loss) -> Any:
    return loss.func if isinstance(loss, functools.partial) else loss


def _keywords(loss: Loss) -> dict[str, Any]:
    return loss.keywords if isinstance(loss, functools.partial) else {}


def _check_reduction(loss: Loss) -> Loss:
    """Refuse a loss of torch's that was told not to take the mean: what to divide by is then unknown."""
    reduction = _keywords(loss).get("reduction", getattr(loss, "reduction", "mean"))
    of_the_batch = reduction == "batchmean" and (_unwrapped(loss) is F.kl_div or isinstance(loss, nn.KLDivLoss))
    if reduction != "mean" and not of_the_batch:  # "batchmean" divides by the samples
        raise SettingError(
            f"{describe_callable(_unwrapped(loss))} with reduction={reduction!r} does not say what to divide by; "
            "use reduction='mean', or a function that returns (sum, count)"
        )
    return loss


@runtime_checkable
class Objective(Protocol):
    """``objective(model, batch) -> (sum, count)``; ``count`` is a number or a 0-d tensor."""

    def __call__(self, model: nn.Module, batch: Batch, /) -> tuple[Tensor, Tensor | float]:
        """Return the summed loss over the batch and the number of things summed."""


class Supervised(Settings):
    """The objective ``loss(model(*inputs), target)`` on batches ``(*inputs, target)``.

    >>> total, count = Supervised(loss=cross_entropy)(nn.Identity(), (torch.zeros(4, 2), torch.tensor([0, 1, 1, 0])))
    >>> round(float(total) / count, 3)
    0.693
    """

    loss: Annotated[Loss, AfterValidator(_check_reduction)]
    """``loss(output, target)``, returning (sum, count) or a mean over the batch."""
    unit: Literal["sample", "token"] = "sample"
    """What the count counts."""

    def __call__(self, model: nn.Module, batch: Batch, /) -> tuple[Tensor, Tensor | float]:
        """Return the sum and the count of the loss on one batch."""
        *inputs, target = batch
        return sum_and_count(self.loss, model(*inputs), target, batch)

    def outputs(self, model: nn.Module, batch: Batch) -> tuple[Any, Any]:
        """Return the model's output and the target, for metrics that need both."""
        *inputs, target = batch
        return model(*inputs), target

    def classes(self, output: Any, target: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return scores (..., classes), labels (...) and a mask of the labels that count (None for all).

        They are what the loss takes them for: a cross entropy of torch's has the classes in dimension 1, ignores labels
        and takes probabilities too; a binary cross entropy decides for each of its outputs. Under any other loss, the
        classes are last.

        >>> binary = Supervised(loss=nn.BCEWithLogitsLoss())
        >>> scores, labels, _ = binary.classes(torch.tensor([2.0]), torch.tensor([1.0]))
        >>> scores.tolist(), labels.tolist()
        ([[-2.0, 2.0]], [1])
        """
        if not (isinstance(output, Tensor) and isinstance(target, Tensor)):
            raise SettingError(
                f"a metric of classes needs an output and a target that are tensors, but they are "
                f"{type(output).__name__} and {type(target).__name__}; use a Metric(of='outputs')"
            )
        if (middle := _middle(self.loss)) is not None and output.shape == target.shape:
            return torch.stack([2 * middle - output, output], dim=-1), (target > 0.5).long(), None
        known = _class_scores(self.loss, output)
        scores = output if known is None else known
        if known is not None and target.is_floating_point() and target.shape == output.shape:
            return scores, target.movedim(1 if target.ndim > 1 else 0, -1).argmax(dim=-1), None
        if target.is_floating_point() or scores.shape[:-1] != target.shape:
            raise SettingError(
                f"a metric of classes needs scores (..., classes) and integer labels (...), but the output has shape "
                f"{tuple(output.shape)} and the target shape {tuple(target.shape)} and type {target.dtype}; leave the "
                "metric out, or use a Metric(of='outputs')"
            )
        ignored = None if known is None else _ignored(self.loss)
        return scores, target, None if ignored is None else target != ignored

    def counts(self, output: Any, target: Any) -> bool:
        """Whether the loss reports its own count, so that ragged and masked microbatches weigh rightly."""
        return _of_torch(self.loss) or isinstance(self.loss(output, target), tuple)

    def problem(self, output: Any, target: Any) -> tuple[str, list[int]] | None:
        """Say what is wrong with an output and a target before the loss sees them; None when they fit."""
        if not isinstance(output, Tensor) or not isinstance(target, Tensor):
            return None
        classes = _class_scores(self.loss, output)
        if classes is not None and target.dtype != output.dtype:
            return label_problem(classes, target, ignore=_ignored(self.loss), shape=tuple(output.shape))
        if output.shape != target.shape and _elementwise(self.loss):
            return (
                f"the model's output has shape {tuple(output.shape)} and the target {tuple(target.shape)}; an "
                "elementwise loss would stretch one over the other. Make the shapes equal, for example with "
                "output.squeeze(-1)"
            ), []
        return None


def _class_scores(loss: Loss, output: Tensor) -> Tensor | None:
    """Return the output with its classes last when the loss is a cross entropy over classes, else None."""
    base = _unwrapped(loss)
    if base is cross_entropy:
        return output
    if _of_torch(loss):
        return output.movedim(1, -1) if output.ndim > 1 else output
    return None


def _elementwise(loss: Loss) -> bool:
    base = _unwrapped(loss)
    return base in _ELEMENTWISE or isinstance(base, _ELEMENTWISE_MODULES)


def _middle(loss: Loss) -> float | None:
    """Return the output above which a binary cross entropy means class 1, or None for any other loss."""
    base = _unwrapped(loss)
    if base is F.binary_cross_entropy_with_logits or isinstance(base, nn.BCEWithLogitsLoss):
        return 0.0
    return 0.5 if base is F.binary_cross_entropy or isinstance(base, nn.BCELoss) else None


def _ignored(loss: Loss) -> int | None:
    if _unwrapped(loss) is cross_entropy:
        return _keywords(loss).get("ignore")
    value = _keywords(loss).get("ignore_index", getattr(_unwrapped(loss), "ignore_index", -100))
    return value if isinstance(value, int) else None


def _of_torch(loss: Loss) -> bool:
    """Whether ``loss`` is a cross entropy of torch's, whose sum and count `sum_and_count` asks for."""
    return _unwrapped(loss) in (F.cross_entropy, F.nll_loss) or isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss)


def sum_and_count(loss: Loss, output: Any, target: Any, batch: Batch = None) -> tuple[Tensor, Tensor | float]:
    """Return the sum and the count of ``loss(output, target)``, whatever convention the loss follows.

    ``batch`` is what the output and the target are from; a target that is no tensor does not tell how many samples it
    has.

    >>> total, count = sum_and_count(F.mse_loss, torch.ones(4, 2), torch.zeros(4, 2))
    >>> float(total), count
    (4.0, 4)
    """
    if _of_torch(loss):
        return _torch_cross_entropy(loss, output, target)
    given = loss(output, target)
    if isinstance(given, tuple):
        total, count = given
        return total, count
    if not isinstance(given, Tensor) or given.ndim != 0:
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise SettingError(
            f"{describe_callable(loss)} returned {shape}; a loss must return a mean over the batch (a 0-d tensor) "
            "or a tuple (sum, count)"
        )
    samples = _num_samples(target, batch)
    return in_full(given) * samples, samples


def _torch_cross_entropy(loss: Any, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor | float]:
    """Torch's mean, taken apart: its sum, and the divisor that it uses (weights of the targets that count)."""
    function = _unwrapped(loss)
    if isinstance(loss, nn.Module):
        function = F.cross_entropy if isinstance(loss, nn.CrossEntropyLoss) else F.nll_loss
        settings = {n: getattr(loss, n) for n in ("weight", "ignore_index", "label_smoothing") if hasattr(loss, n)}
    else:
        settings = dict(_keywords(loss))
    output = in_full(output)
    weight: Tensor | None = settings.get("weight")
    if weight is not None:
        settings["weight"] = weight = weight.to(output.dtype)
    total = function(output, target, **settings | {"reduction": "sum"})
    if target.is_floating_point():  # probabilities: torch divides by the number of rows
        return total, target.numel() // target.shape[1 if target.ndim > 1 else 0]
    counted = target != settings.get("ignore_index", -100)
    if weight is None:
        return total, counted.sum()
    return total, weight[target.clamp(0, len(weight) - 1)].where(counted, 0).sum()


def _num_samples(target: Any, batch: Batch) -> int:
    if isinstance(target, Tensor):
        return target.shape[0] if target.ndim else 1
    if isinstance(target, dict):
        return _num_samples(next(iter(target.values())), batch)
    if isinstance(target, list | tuple):
        return len(target) if batch is None else num_samples(batch)
    return len(target)


def as_objective(given: Any) -> Objective:
    """Return ``given`` as an objective: a function whose first parameter is ``model`` is one; any other is a loss.

    >>> type(as_objective(F.cross_entropy)).__name__
    'Supervised'
    >>> def mine(model, batch):
    ...     return model(batch).sum(), len(batch)
    >>> as_objective(mine) is mine
    True
    """
    if isinstance(given, Supervised):
        return given
    if not callable(given):
        raise SettingError(
            f"objective={given!r} cannot be called; give a loss(output, target) or an objective(model, batch)"
        )
    if isinstance(given, nn.Module):
        return Supervised(loss=given)
    try:
        parameters = list(inspect.signature(given).parameters)
    except (TypeError, ValueError):  # a built-in without a signature
        parameters = []
    if parameters[:1] == ["model"]:
        objective: Objective = given
        return objective
    return Supervised(loss=given)


def check_sum_and_count(given: Any, name: str) -> None:
    """Refuse what an objective returned when it is not a 0-d tensor with a gradient and a count.

    >>> check_sum_and_count(3.0, "mine")
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: mine returned float; an objective returns (sum, count): a 0-d tensor and a number
    """
    if not (isinstance(given, tuple) and len(given) == 2):
        raise SettingError(
            f"{name} returned {type(given).__name__}; an objective returns (sum, count): a 0-d tensor and a number"
        )
    total, count = given
    if not isinstance(total, Tensor) or total.ndim != 0:
        shape = tuple(total.shape) if isinstance(total, Tensor) else type(total).__name__
        raise SettingError(f"{name} returned a sum of shape {shape}; it must be a 0-d tensor: use .sum()")
    if float(count) < 0:
        raise DataError(f"{name} returned the count {float(count)}; a count is 0 or more")
