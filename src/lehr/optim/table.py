"""The optimizers that a recipe can name."""

from __future__ import annotations

from lehr.base.tables import Row, Table
from lehr.optim.adamw import AdamW
from lehr.optim.muon import Muon

__all__ = ["OPTIMIZERS"]

OPTIMIZERS = Table(
    "optimizer",
    [
        Row(
            name="adamw",
            make=AdamW,
            summary="Adam with decoupled weight decay; the first choice for Transformers",
        ),
        Row(name="muon", make=Muon, summary="orthogonalized momentum for hidden matrices, AdamW for the rest"),
    ],
)
