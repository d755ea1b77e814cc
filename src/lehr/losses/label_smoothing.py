"""Label smoothing: cross entropy against targets that are not quite sure."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.losses.rows import NEVER, as_rows, num_rows

__all__ = ["label_smoothing", "smoothing_of_torch"]

Convention = Literal["torch", "guide"]


def smoothing_of_torch(smoothing: float, classes: int, convention: Convention) -> float:
    """Return the smoothing that torch's cross entropy has to be given; the two conventions differ by K/(K - 1).

    >>> smoothing_of_torch(0.1, 5, "torch"), smoothing_of_torch(0.1, 5, "guide")
    (0.1, 0.125)
    """
    if convention not in ("torch", "guide"):
        raise SettingError(f"convention={convention!r} is unknown; use 'torch' or 'guide'")
    limit = 1.0 if convention == "torch" else (classes - 1) / classes
    if smoothing == 0:
        return 0.0
    if not 0 < smoothing < limit:
        raise SettingError(
            f"smoothing={smoothing} with {classes} classes and convention={convention!r}; use 0 or more, and less than "
            f"{limit:.3g}, so that the true class keeps the largest share"
        )
    return smoothing if convention == "torch" else smoothing * classes / (classes - 1)


def label_smoothing(
    logits: Tensor,
    target: Tensor,
    *,
    smoothing: float = 0.1,
    convention: Convention = "torch",
    ignore: int | None = None,
) -> tuple[Tensor, Tensor | int]:
    """Return ``sum_i -sum_k q_ik log softmax(logits_i)_k`` for smoothed targets q, and the number that count.

    With K classes and smoothing ε, ``convention="torch"`` spreads ε over all classes: ε/K each, and 1 - ε more for the
    true one. ``"guide"`` spreads it over the wrong ones: ε/(K - 1) each, and 1 - ε for the true one. The first with
    ε K/(K - 1) is the second with ε. Shapes and ``ignore`` are those of `cross_entropy`; soft targets are smoothed in
    the same way. Source: Szegedy et al. 2016, arXiv 1512.00567.

    The value is no cross entropy with the labels: do not take exp of it. Raises `SettingError` for a smoothing that
    leaves the true class no larger share than the others.

    >>> import torch
    >>> logits, target = torch.tensor([[2.0, 0.0, 0.0, 0.0, 0.0]]), torch.tensor([0])
    >>> [round(float(label_smoothing(logits, target, convention=name)[0]), 4) for name in ("torch", "guide")]
    [0.5927, 0.6327]
    """
    logits, target = as_rows(logits, target, ignore)
    amount = smoothing_of_torch(smoothing, logits.shape[-1], convention)
    skip = NEVER if ignore is None else ignore
    total = F.cross_entropy(logits, target, reduction="sum", ignore_index=skip, label_smoothing=amount)
    return total, num_rows(target, ignore)
