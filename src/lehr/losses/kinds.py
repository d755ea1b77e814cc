"""What a loss takes an output and a target for, as far as the loss is one that is known: lehr's and torch's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.settings import describe_callable
from lehr.losses.bce import bce
from lehr.losses.cross_entropy import cross_entropy
from lehr.losses.focal_loss import binary_focal_loss, focal_loss
from lehr.losses.label_smoothing import label_smoothing
from lehr.losses.mae import mae
from lehr.losses.mse import mse
from lehr.losses.z_loss import z_loss

__all__ = [
    "Loss",
    "check_reduction",
    "class_weights",
    "classes_last",
    "elementwise",
    "ignored",
    "keywords",
    "middle",
    "of_classes",
    "of_torch",
    "takes_probabilities",
    "unwrapped",
]

Loss: TypeAlias = Callable[[Any, Any], Any]

_CLASSES_LAST = (cross_entropy, focal_loss, label_smoothing, z_loss)
"""Lehr's own losses over classes."""
_ELEMENTWISE = (
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
    bce,
    binary_focal_loss,
    mae,
    mse,
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
"""Losses that compare element by element, of which most of torch's stretch one of two shapes over the other."""


def unwrapped(loss: Loss) -> Any:
    """Return the function that a `functools.partial` binds, or the loss itself."""
    return loss.func if isinstance(loss, functools.partial) else loss


def keywords(loss: Loss) -> dict[str, Any]:
    """Return what a `functools.partial` binds by name."""
    return loss.keywords if isinstance(loss, functools.partial) else {}


def check_reduction(loss: Loss) -> Loss:
    """Refuse a loss of torch's that was told not to take the mean: what to divide by is then unknown."""
    reduction = keywords(loss).get("reduction", getattr(loss, "reduction", "mean"))
    of_the_batch = reduction == "batchmean" and (unwrapped(loss) is F.kl_div or isinstance(loss, nn.KLDivLoss))
    if reduction != "mean" and not of_the_batch:  # "batchmean" divides by the samples
        raise SettingError(
            f"{describe_callable(unwrapped(loss))} with reduction={reduction!r} does not say what to divide by; "
            "use reduction='mean', or a function that returns (sum, count)"
        )
    return loss


def of_torch(loss: Loss) -> bool:
    """Whether ``loss`` is a cross entropy of torch's, whose sum and count `sum_and_count` asks for."""
    return unwrapped(loss) in (F.cross_entropy, F.nll_loss) or isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss)


def of_classes(loss: Loss) -> bool:
    """Whether ``loss`` is a cross entropy over classes, or made of one.

    >>> of_classes(functools.partial(label_smoothing, smoothing=0.2)), of_classes(bce)
    (True, False)
    """
    return _ours(loss) or of_torch(loss)


def takes_probabilities(loss: Loss) -> bool:
    """Whether ``loss`` takes probabilities of classes as well as labels."""
    return of_classes(loss) and not (unwrapped(loss) is F.nll_loss or isinstance(loss, nn.NLLLoss))


def classes_last(loss: Loss, given: Tensor) -> Tensor:
    """Return scores or probabilities with their classes last, where a loss over classes has them in dimension 1.

    >>> import torch
    >>> classes_last(F.cross_entropy, torch.zeros(2, 5, 3)).shape, classes_last(cross_entropy, torch.zeros(2, 5)).shape
    (torch.Size([2, 3, 5]), torch.Size([2, 5]))
    """
    return given.movedim(1, -1) if of_torch(loss) and given.ndim > 1 else given


def elementwise(loss: Loss) -> bool:
    """Whether ``loss`` compares an output and a target of one shape, element by element."""
    base = unwrapped(loss)
    return any(base is known for known in _ELEMENTWISE) or isinstance(base, _ELEMENTWISE_MODULES)


def middle(loss: Loss) -> float | None:
    """Return the output above which a binary cross entropy means class 1, or None for any other loss."""
    base = unwrapped(loss)
    if base in (F.binary_cross_entropy_with_logits, bce, binary_focal_loss) or isinstance(base, nn.BCEWithLogitsLoss):
        return 0.0
    return 0.5 if base is F.binary_cross_entropy or isinstance(base, nn.BCELoss) else None


def ignored(loss: Loss) -> int | None:
    """Return the label that a loss over classes leaves out."""
    if _ours(loss):
        return keywords(loss).get("ignore")
    value = keywords(loss).get("ignore_index", getattr(unwrapped(loss), "ignore_index", -100))
    return value if isinstance(value, int) else None


def class_weights(loss: Loss) -> Tensor | None:
    """Return the weights of the classes that a loss of torch's divides by."""
    weight = keywords(loss).get("weight", getattr(unwrapped(loss), "weight", None)) if of_torch(loss) else None
    return weight if isinstance(weight, Tensor) else None


def _ours(loss: Loss) -> bool:
    return any(unwrapped(loss) is own for own in _CLASSES_LAST)  # a callable may have no hash
