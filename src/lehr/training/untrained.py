"""Parameters that silently never train: not in an optimizer, without a gradient, or with one that stays zero."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import nn

from lehr.base.errors import LehrWarning

__all__ = ["Untrained"]

PATIENCE = 10
"""Steps that a gradient may be zero: behind a zero-initialized projection it is, for a step or two."""


class Untrained:
    """Looks at the gradients of the first steps of a process and warns of trainable parameters that nothing reaches.

    Parameters that are frozen at the first step, as a method may have it for a while, are not looked at.

    >>> model = nn.Linear(2, 2)
    >>> Untrained(model, [torch.optim.SGD([model.weight], lr=1.0)]).not_held
    ['bias']
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        held = {p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.not_held = [name for name, p in trainable.items() if p not in held]
        self._parameters = {name: p for name, p in trainable.items() if p in held}
        self._norms = torch.zeros(())
        self._looked = 0

    def look(self) -> bool:
        """Look at the gradients of one step; returns whether there is nothing more to look for."""
        if self._looked == 0:
            self._parameters = {name: p for name, p in self._parameters.items() if p.requires_grad}
            without = [name for name, p in self._parameters.items() if p.grad is None]
            self._warn(self.not_held, "are in no optimizer")
            self._warn(without, "got no gradient in the first step: the loss does not depend on them")
        if not self._parameters:
            return True
        gradients = [torch.zeros(()) if p.grad is None else p.grad for p in self._parameters.values()]
        self._norms = self._norms.to(gradients[0].device) + torch.stack(
            [norm.to(gradients[0].device).float() for norm in torch._foreach_norm(gradients)]
        )
        self._looked += 1
        if self._looked < PATIENCE:
            return False
        still = [n for (n, p), size in zip(self._parameters.items(), self._norms.tolist(), strict=True) if size == 0]
        reached = [n for n in still if self._parameters[n].grad is not None]
        self._warn(reached, f"had a gradient of exactly 0 in each of the first {PATIENCE} steps")
        return True

    @staticmethod
    def _warn(names: list[str], what: str) -> None:
        if names:
            shown = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
            warnings.warn(
                f"{len(names)} trainable parameters {what}: {shown}. They will not learn; freeze them "
                "(requires_grad_(False)) if that is meant",
                LehrWarning,
                stacklevel=2,
            )
