"""Dropout, of single values and of whole channels; the modules are torch's own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Dropout
from torch.nn import Dropout2d as SpatialDropout

from lehr.base.errors import SettingError

__all__ = ["Dropout", "SpatialDropout", "check_rate", "inverted_dropout"]


def check_rate(p: float) -> float:
    """Return a rate of dropping, and refuse one outside of [0, 1).

    >>> check_rate(1.0)
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: p=1.0 is not a rate of dropping; use 0 <= p < 1, where 0 drops nothing
    """
    if not 0 <= p < 1:
        raise SettingError(f"p={p} is not a rate of dropping; use 0 <= p < 1, where 0 drops nothing")
    return p


def inverted_dropout(
    x: Tensor, p: float, *, shared: int = 0, training: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    """Return x·m/(1 − p) with m = 1 at rate 1 − p and 0 at rate p; the expected value is x.

    ``Dropout`` and ``SpatialDropout`` do the same from torch's global generator. Here the draws may come from a
    ``generator`` of your own, and the last ``shared`` dimensions have one draw together: 2 drops whole channels of
    (B, C, H, W). Without ``training`` nothing happens: because of the division there is nothing to scale in
    evaluation. Sources: Srivastava et al. 2014; Tompson et al. 2015 (arXiv 1411.4280) for whole channels.

    Raises: `SettingError` for p outside of [0, 1), or when ``shared`` leaves no dimension to draw over.

    >>> from lehr.base.seeds import generator
    >>> inverted_dropout(torch.ones(99), 0.5, generator=generator(0, "example")).unique()
    tensor([0., 2.])
    >>> inverted_dropout(torch.ones(3), 0.5, training=False)
    tensor([1., 1., 1.])
    """
    check_rate(p)
    if not 0 <= shared < max(x.ndim, 1):
        raise SettingError(f"shared={shared} for a tensor of {x.ndim} dimensions; use 0..{max(x.ndim - 1, 0)}")
    if not training or p == 0:
        return x
    shape = x.shape[: x.ndim - shared] + (1,) * shared
    kept = x.new_empty(shape).bernoulli_(1 - p, generator=generator)
    return x * kept.div_(1 - p)
