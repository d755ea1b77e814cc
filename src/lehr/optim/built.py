"""What settings made of a model: one optimizer or several, of kinds that the loop can step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lehr.base.errors import SettingError

__all__ = ["as_optimizers"]


def as_optimizers(built: Any, settings: str) -> list[torch.optim.Optimizer]:
    """Return what ``build`` of the ``settings`` gave as a list of optimizers, and refuse what is none.

    >>> as_optimizers(torch.optim.SGD([torch.zeros(1)], lr=0.1), "mine")
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: mine.build returned a SGD; it must return a list of optimizers: [SGD(...)]
    """
    if not isinstance(built, Sequence) or not all(isinstance(o, torch.optim.Optimizer) for o in built):
        name = type(built).__name__
        what = f": [{name}(...)]" if isinstance(built, torch.optim.Optimizer) else " of torch.optim.Optimizer"
        raise SettingError(f"{settings}.build returned a {name}; it must return a list of optimizers{what}")
    if not built:
        raise SettingError(f"{settings}.build returned no optimizer, so nothing would be trained; return one or more")
    for optimizer in built:
        if isinstance(optimizer, torch.optim.LBFGS):
            raise SettingError(
                f"{settings}.build returned LBFGS, which calls the model itself, several times a step; "
                "use an optimizer that takes one gradient a step, such as AdamW"
            )
    return list(built)
