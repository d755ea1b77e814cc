"""Small models, data and recipes that many tests share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lehr
from lehr.losses import Supervised, cross_entropy
from lehr.optim import AdamW
from lehr.run.recipe import Evaluate, Recipe, Save, Track
from lehr.schedules import WarmupCosine


class Mlp(nn.Module):
    """With dropout and batch norm, so that noise and buffers matter."""

    def __init__(self, width: int = 8, dropout: float = 0.1, classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))))


class Tagger(nn.Module):
    """Token ids to scores, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.out = nn.Linear(6, 5)
        self.double()

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(torch.tanh(self.embedding(ids)))


OF_SMALL_MODELS: dict[str, dict[str, Any]] = {"projected": {"min_size": 2}}
"""What an optimizer of the table needs where the model is as small as here."""


def points(n: int = 48, seed: int = 0, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Return points in four dimensions whose class follows from them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    return x, x[:, :classes].argmax(dim=1)


def recipe(**changes: Any) -> Recipe:
    """Return a small recipe; 48 samples in batches of 8 are 6 steps an epoch."""
    fields: dict[str, Any] = {
        "model": Mlp,
        "data": lehr.Data(train=points(), val=points(20, seed=1), batch_size=8),
        "objective": Supervised(loss=cross_entropy),
        "metrics": ("accuracy",),
        "optim": AdamW(lr=0.01),
        "schedule": WarmupCosine(warmup=2),
        "steps": 15,
        "evaluate": Evaluate(every=5),
        "save": Save(every=5),
        "track": Track(every=2),
    }
    if "data" in changes and changes["data"].val is None:
        del fields["evaluate"]  # it would have no effect, and that is warned of
    return Recipe(**fields | changes)


def records(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def exact(run: Path) -> list[dict[str, Any]]:
    """Return the records without the clock's fields, which may differ between a run and its twin."""
    clock = ("seconds", "per_second")
    return [{k: v for k, v in record.items() if not k.endswith(clock)} for record in records(run)]


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all weights and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Compare bit for bit."""
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"these differ: {different}"


def run_steps(trainer: lehr.Trainer, steps: int) -> list[Any]:
    """Make so many steps in a loop of the user's own; returns the batches."""
    batches: list[Any] = []
    for batch in trainer.batches():
        trainer.step(batch)
        batches.append(batch)
        if len(batches) == steps:
            break
    return batches


def same_files(one: Path, other: Path, names: Sequence[str]) -> None:
    """Compare files byte for byte."""
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
