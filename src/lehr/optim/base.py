"""What all settings of optimizers have in common: a rate, a decay, and rules about parts of the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.settings import Settings
from lehr.optim.groups import ruled_groups
from lehr.optim.rules import Rule, freeze

__all__ = ["Grouped", "parameters_of", "sparse_embeddings"]


class Grouped(Settings):
    """Settings of an optimizer over groups of parameters. A subclass adds its fields and `make`.

    Decay falls on matrices and kernels only, never on biases, norms or embeddings, unless a rule says otherwise.
    """

    takes_sparse: ClassVar[bool] = False
    """Whether it takes the gradients of an embedding with ``sparse=True``."""

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
        groups = self.groups(model, names)
        if not self.takes_sparse:
            _refuse_sparse(model, groups, type(self).__name__)
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

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer over ``groups``, which have ``params``, ``lr`` and ``weight_decay``."""
        raise NotImplementedError


def parameters_of(groups: Sequence[dict[str, Any]]) -> list[Tensor]:
    """Return the parameters of all groups."""
    return [parameter for group in groups for parameter in group["params"]]


def sparse_embeddings(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and weights of embeddings whose gradients are sparse.

    >>> [name for name, _ in sparse_embeddings(nn.Sequential(nn.Embedding(3, 2, sparse=True), nn.Linear(2, 2)))]
    ['0']
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse and module.weight.requires_grad:
            yield name, module.weight


def _refuse_sparse(model: nn.Module, groups: Sequence[dict[str, Any]], settings: str) -> None:
    held = {id(parameter) for parameter in parameters_of(groups)}
    for name, weight in sparse_embeddings(model):
        if id(weight) in held:
            raise SettingError(
                f"{settings} does not take sparse gradients, but the embedding {name!r} has sparse=True; "
                "use sparse=False, or optim=sgd or optim=adagrad"
            )
