"""`Supervised`: a plain ``loss(output, target)`` as an objective.

Torch's own cross entropy and `nn.NLLLoss` are asked for their sum and the number of targets that they counted, so they
stay exact with ignored labels and class weights. Any other loss that returns a mean is taken times the number of
samples, which is exact when every sample weighs the same.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, model_validator
from torch import Tensor, nn

from lehr.base.batches import num_samples
from lehr.base.errors import SettingError
from lehr.base.protocols import Batch
from lehr.base.settings import Settings, describe_callable
from lehr.base.tensors import in_full
from lehr.losses.kinds import (
    Loss,
    check_reduction,
    classes_last,
    elementwise,
    ignored,
    keywords,
    middle,
    of_classes,
    of_torch,
    takes_probabilities,
    unwrapped,
)
from lehr.losses.rows import label_problem, probability_problem

__all__ = ["Supervised", "sum_and_count"]


class Supervised(Settings):
    """The objective ``loss(model(*inputs), target)`` on batches ``(*inputs, target)``.

    >>> from lehr.losses.cross_entropy import cross_entropy
    >>> total, count = Supervised(loss=cross_entropy)(nn.Identity(), (torch.zeros(4, 2), torch.tensor([0, 1, 1, 0])))
    >>> round(float(total) / count, 3)
    0.693
    """

    loss: Annotated[Loss, AfterValidator(check_reduction)]
    """``loss(output, target)``, returning (sum, count) or a mean over the batch."""
    val_loss: Annotated[Loss, AfterValidator(check_reduction)] | None = None
    """What evaluations report as the loss in place of ``loss``: the plain cross entropy beside a smoothed one."""
    unit: Literal["sample", "token"] = "sample"
    """What the count counts."""

    @model_validator(mode="after")
    def _check(self) -> Supervised:
        left_out = ignored(self.loss) if of_classes(self.loss) else None
        if of_torch(self.loss) and left_out == -100:  # torch's default, which says nothing about the labels
            left_out = None
        if left_out is not None and self.val_loss is not None and of_classes(self.val_loss):
            other = ignored(self.val_loss)
            if other != left_out:
                raise SettingError(
                    f"loss ignores the label {left_out} and val_loss {'none' if other is None else other}; give both "
                    "the same"
                )
        return self

    def __call__(self, model: nn.Module, batch: Batch, /) -> tuple[Tensor, Tensor | float]:
        """Return the sum and the count of the loss on one batch."""
        *inputs, target = batch
        return sum_and_count(self.loss, model(*inputs), target, batch)

    def outputs(self, model: nn.Module, batch: Batch) -> tuple[Any, Any]:
        """Return the model's output and the target, for metrics that need both."""
        *inputs, target = batch
        return model(*inputs), target

    def measured(self, output: Any, target: Any, batch: Batch) -> tuple[Tensor, Tensor | float]:
        """Return the sum and the count of the loss that evaluations report, for what `outputs` returned.

        >>> from lehr.losses import cross_entropy, label_smoothing
        >>> smoothed = Supervised(loss=label_smoothing, val_loss=cross_entropy)
        >>> total, _count = smoothed.measured(torch.tensor([[9.0, 0.0]]), torch.tensor([0]), None)
        >>> round(float(total), 5)
        0.00012
        """
        return sum_and_count(self.loss if self.val_loss is None else self.val_loss, output, target, batch)

    def measures_its_loss(self) -> bool:
        """Whether training minimizes what evaluations report, so that perplexity and the like are true of both."""
        return self.val_loss is None

    def fingerprint(self) -> str | None:
        """Return a digest of the weights that it brings with it, such as a teacher's; None without any."""
        return None

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
        loss = self._understood()
        if (half := middle(loss)) is not None and output.shape == target.shape:
            return torch.stack([2 * half - output, output], dim=-1), (target > 0.5).long(), None
        known = of_classes(loss)
        scores = classes_last(loss, output) if known else output
        if known and target.is_floating_point() and target.shape == output.shape:
            return scores, classes_last(loss, target).argmax(dim=-1), None
        if target.is_floating_point() or scores.shape[:-1] != target.shape:
            raise SettingError(
                f"a metric of classes needs scores (..., classes) and integer labels (...), but the output has shape "
                f"{tuple(output.shape)} and the target shape {tuple(target.shape)} and type {target.dtype}; leave the "
                "metric out, or use a Metric(of='outputs')"
            )
        left_out = ignored(loss) if known else None
        return scores, target, None if left_out is None else target != left_out

    def counts(self, output: Any, target: Any) -> bool:
        """Whether the loss reports its own count, so that ragged and masked microbatches weigh rightly."""
        return of_torch(self.loss) or isinstance(self.loss(output, target), tuple)

    def problem(self, output: Any, target: Any) -> tuple[str, list[int]] | None:
        """Say what is wrong with an output and a target before the loss sees them; None when they fit."""
        if not isinstance(output, Tensor) or not isinstance(target, Tensor):
            return None
        if of_classes(self.loss):
            if target.is_floating_point() and target.shape == output.shape and takes_probabilities(self.loss):
                return probability_problem(classes_last(self.loss, target))
            if target.is_floating_point() and target.ndim == output.ndim and takes_probabilities(self.loss):
                return (
                    f"the model gives scores of shape {tuple(output.shape)}, but the targets are probabilities of "
                    f"shape {tuple(target.shape)}; both must be of the same classes"
                ), []
            scores = classes_last(self.loss, output)
            return label_problem(scores, target, ignore=ignored(self.loss), shape=tuple(output.shape))
        if output.shape != target.shape and elementwise(self.loss):
            return (
                f"the model's output has shape {tuple(output.shape)} and the target {tuple(target.shape)}; an "
                "elementwise loss would stretch one over the other. Make the shapes equal, for example with "
                "output.squeeze(-1)"
            ), []
        return None if middle(self.loss) is None else _binary_problem(target)

    def _understood(self) -> Loss:
        """Return the loss that says what the classes are: what evaluations use, where that is a known one."""
        known = self.val_loss is not None and (of_classes(self.val_loss) or middle(self.val_loss) is not None)
        return self.val_loss if known and self.val_loss is not None else self.loss


def _binary_problem(target: Tensor) -> tuple[str, list[int]] | None:
    """Say what is wrong with the target of a binary cross entropy.

    >>> _binary_problem(torch.tensor([0.0, 1.0, 2.0]))
    ('binary targets must be 0 to 1; found 2', [2])
    """
    bad = ~((target >= 0) & (target <= 1))
    if not bool(bad.any()):
        return None
    samples = bad.reshape(bad.shape[0], -1).any(dim=1).nonzero()[:, 0].tolist() if bad.ndim else []
    found = ", ".join(f"{v:g}" for v in torch.unique(target[bad])[:5].tolist())
    return f"binary targets must be 0 to 1; found {found}", samples


def sum_and_count(loss: Loss, output: Any, target: Any, batch: Batch = None) -> tuple[Tensor, Tensor | float]:
    """Return the sum and the count of ``loss(output, target)``, whatever convention the loss follows.

    ``batch`` is what the output and the target are from; a target that is no tensor does not tell how many samples it
    has.

    >>> total, count = sum_and_count(F.mse_loss, torch.ones(4, 2), torch.zeros(4, 2))
    >>> float(total), count
    (4.0, 4)
    """
    if of_torch(loss):
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
    function = unwrapped(loss)
    if isinstance(loss, nn.Module):
        function = F.cross_entropy if isinstance(loss, nn.CrossEntropyLoss) else F.nll_loss
        settings = {n: getattr(loss, n) for n in ("weight", "ignore_index", "label_smoothing") if hasattr(loss, n)}
    else:
        settings = dict(keywords(loss))
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
