"""One battery over the table of losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import Mlp, points
from torch import Tensor, nn

from lehr.base.settings import plain
from lehr.losses import LOSSES, Supervised, as_objective, cross_entropy


def batch_for(name: str) -> tuple[Tensor, Tensor]:
    x, labels = points(12)
    if name in ("mse", "mae"):
        return x, x[:, :3] - x[:, 1:]
    return x, nn.functional.one_hot(labels, 3) if name.startswith(("bce", "binary")) else labels


def made(name: str) -> Any:
    return LOSSES[name].make(loss=cross_entropy, teacher=Mlp) if name == "distillation" else as_objective(name)


EACH = pytest.mark.parametrize("name", list(LOSSES))


@EACH
def test_every_row_is_an_objective_that_descends(name: str) -> None:
    torch.manual_seed(0)
    model, batch, objective = nn.Linear(4, 3), batch_for(name), made(name)
    assert isinstance(objective, Supervised)
    assert objective.problem(*objective.outputs(model, batch)) is None
    assert LOSSES[name].summary and LOSSES[name].choose
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        total, count = objective(model, batch)
        (total / count).backward()
        optimizer.step()
        losses.append(total.item() / float(count))
    assert losses[-1] < 0.9 * losses[0]


@EACH
def test_every_row_adds_up_over_microbatches(name: str) -> None:
    model, (x, y), objective = nn.Linear(4, 3), batch_for(name), made(name)
    whole, count = objective(model, (x, y))
    parts = [objective(model, (x[s], y[s])) for s in (slice(0, 5), slice(5, 12))]
    assert float(whole.detach()) == pytest.approx(sum(float(t.detach()) for t, _ in parts), rel=1e-5)
    assert float(count) == sum(float(c) for _, c in parts)


@EACH
def test_every_row_is_described_and_measured(name: str) -> None:
    objective = made(name)
    fields = plain(objective)
    assert fields["kind"] == ("Distilled" if name == "distillation" else "Supervised")
    assert fields["loss"].startswith("lehr.losses.")
    model, (x, y) = nn.Linear(4, 3), batch_for(name)
    with torch.no_grad():
        output, target = objective.outputs(model, (x, y))
        total, _ = objective.measured(output, target, (x, y))
    judge = {
        "mse": nn.MSELoss,
        "mae": nn.L1Loss,
        "bce": nn.BCEWithLogitsLoss,
        "binary_focal_loss": nn.BCEWithLogitsLoss,
    }
    expected = judge.get(name, nn.CrossEntropyLoss)(reduction="sum")(output, y.float() if name.startswith("b") else y)
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
