"""What all settings of optimizers have in common: a rate, a decay, and rules about parts of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.settings import Settings
from lehr.optim.groups import ruled_groups
from lehr.optim.rules import Rule, freeze

__all__ = ["Grouped", "parameters_of"]


class Grouped(Settings):
    """Settings of an optimizer over groups of parameters. A subclass adds its fields and `make`.

    Decay falls on matrices and kernels only, never on biases, norms or embeddings, unless a rule says otherwise.
    """

    lr: float = Field(gt=0)
    """The base rate, which the schedule multiplies."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of matrices and kernels."""
    rules: tuple[Rule, ...] = ()
    """Other rates, decays, or frozen parameters; the later of two rules holds."""
    layer_decay: float | None = Field(default=None, gt=0, le=1)
    """Factor on the rate from each block to the one below it, beside the rules' own."""

    def build(self, model: nn.Module, names: Sequence[str] | None = None) -> list[torch.optim.Optimizer]:
        """Return the optimizer over the trainable parameters of ``model``, or over the named ones.

        Rules that freeze parameters, or train frozen ones, are applied to the model here. The rate of each group at
        this moment is what the schedule multiplies.
        """
        freeze(model, self.rules)
        groups = _sparse_apart(model, self.groups(model, names), None if self.takes_sparse() else type(self).__name__)
        return [self.make(groups)] if groups else []

    def groups(self, model: nn.Module, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return the groups of parameters, each with its rate and its decay."""
        return ruled_groups(
            model,
            names,
            lr=self.lr,
            weight_decay=self.weight_decay,
            rules=self.rules,
            layer_decay=self.layer_decay,
        )

    def takes_sparse(self) -> bool:
        """Whether it takes the gradients of an embedding with ``sparse=True``."""
        return False

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer over ``groups``, which have ``params``, ``lr`` and ``weight_decay``."""
        raise NotImplementedError


def parameters_of(groups: Sequence[dict[str, Any]]) -> list[Tensor]:
    """Return the parameters of all groups."""
    return [parameter for group in groups for parameter in group["params"]]


def _sparse_apart(model: nn.Module, groups: list[dict[str, Any]], refused_by: str | None) -> list[dict[str, Any]]:
    """Return the groups with the weights that get sparse gradients in groups of their own; or refuse them.

    Torch's fused and foreach implementations do not take sparse gradients, and no decay can be added to one.
    """
    embeddings = [
        (name, module.weight)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
    ]
    apart = []
    for group in groups:
        sparse = [(n, w) for n, w in embeddings if any(w is p for p in group["params"])]
        if sparse and (refused_by or group["weight_decay"]):
            what = "sparse gradients" if refused_by else f"weight_decay={group['weight_decay']} on sparse gradients"
            raise SettingError(
                f"{refused_by or 'no optimizer'} cannot take {what}, but the embedding {sparse[0][0]!r} has "
                "sparse=True; use sparse=False" + (", or optim=sgd or optim=adagrad" if refused_by else "")
            )
        weights = [w for _, w in sparse]
        group["params"] = [p for p in group["params"] if all(p is not w for w in weights)]
        if weights:
            apart.append(group | {"params": weights, "foreach": False, "fused": False})
    return [group for group in groups if group["params"]] + apart
