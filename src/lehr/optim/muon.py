"""Muon for the hidden matrices, AdamW for everything else."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from lehr.base.errors import SettingError
from lehr.base.settings import Settings
from lehr.optim.adamw import AdamW
from lehr.optim.groups import owners

__all__ = ["Muon", "hidden_matrices"]


def hidden_matrices(model: nn.Module, aside: tuple[str, ...] | None = None) -> list[str]:
    """Return the names of the 2-D weights of `nn.Linear` modules, but for those set ``aside``.

    ``aside`` lists the names of modules that stay with AdamW; None stands for the last `nn.Linear` of the model, which
    is its output layer. Embeddings, tied ones too, are never hidden. A fused query-key-value weight is one matrix.

    >>> hidden_matrices(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2)))
    ['0.weight', '1.weight']
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if aside is None:
        aside = (list(linear)[-1],) if linear else ()
    unknown = [name for name in aside if name not in linear]
    if unknown:
        raise SettingError(
            f"aside={list(aside)} names {unknown[0]!r}, which is not an nn.Linear of the model; its nn.Linear modules: "
            f"{', '.join(linear) or 'none'}"
        )
    kept = {id(linear[name]) for name in aside}
    parameters = dict(model.named_parameters())
    return [
        name
        for name, holders in owners(model).items()
        if parameters[name].ndim == 2 and all(isinstance(h, nn.Linear) and id(h) not in kept for h in holders)
    ]


class Muon(Settings):
    """Settings of torch's Muon with AdamW beside it.

    Muon replaces the momentum of a matrix by its nearest semi-orthogonal matrix (5 Newton-Schulz steps), times
    ``lr * sqrt(max(1, rows/columns))``. Source: Jordan et al. 2024. Torch's default decay of 0.1 is off here.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    >>> [type(optimizer).__name__ for optimizer in Muon().build(model)]
    ['Muon', 'AdamW']
    """

    lr: float = Field(default=0.02, gt=0)
    """The base rate of the hidden matrices."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Momentum, in Nesterov's form."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of the hidden matrices."""
    aside: tuple[str, ...] | None = None
    """Modules whose matrices stay with AdamW; the last nn.Linear if not given."""
    adamw: AdamW = AdamW(lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    """The optimizer of everything else."""

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """Return Muon over the hidden matrices and AdamW over the rest."""
        hidden = hidden_matrices(model, self.aside)
        if not hidden:
            raise SettingError(
                f"{type(model).__name__} has no hidden matrices for Muon (2-D weights of nn.Linear modules other than "
                "the last); use optim=adamw"
            )
        parameters = dict(model.named_parameters())
        muon = torch.optim.Muon(
            [parameters[name] for name in hidden],
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        rest = [name for name in owners(model) if name not in set(hidden)]
        return [muon, *self.adamw.build(model, rest)]
