"""What the first batch shows before anything is trained: metrics that cannot count, parameters that would not learn."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import Mlp, points, recipe
from torch import Tensor, nn

import lehr
from lehr.base.errors import SettingError
from lehr.losses import as_objective
from lehr.losses.objective import Supervised
from lehr.metrics import Metric
from lehr.metrics.accuracy import ACCURACY
from lehr.training.preflight import check_batch


def check(loss: Any, *, model: nn.Module | None = None, batch: Any = None, metrics: tuple[Metric, ...] = ()) -> bool:
    return check_batch(
        model or Mlp(),
        as_objective(loss),
        batch or points(6),
        ids=range(6),
        autocast=contextlib.nullcontext,
        metrics=metrics,
    )


def test_metrics_are_tried_and_those_that_fit_pass() -> None:
    assert check(nn.CrossEntropyLoss(), metrics=(ACCURACY,))
    pair = Metric(name="pair", of="outputs", compute=lambda o, t: (o.sum(), 6), goal="max")
    assert check(nn.CrossEntropyLoss(), metrics=(pair,))


def test_metrics_that_do_not_fit_are_refused_by_name() -> None:
    x, _ = points(6)
    with pytest.raises(SettingError, match="integer labels"):
        check(nn.MSELoss(), batch=(x, torch.zeros(6, 3)), metrics=(ACCURACY,))
    raises = Metric(name="top9", of="outputs", compute=lambda o, t: o.topk(9), goal="max")
    with pytest.raises(SettingError, match=r"the metric 'top9' failed on the first batch.*the model gives a tensor"):
        check(nn.CrossEntropyLoss(), metrics=(raises,))
    mean = Metric(name="mean", of="outputs", compute=lambda o, t: o.mean(), goal="max")
    with pytest.raises(SettingError, match=r"the metric 'mean' returned a tensor.*must return \(sum, count\)"):
        check(nn.CrossEntropyLoss(), metrics=(mean,))


def test_labels_that_only_the_loss_knows_to_ignore_cannot_be_counted() -> None:
    x, y = points(6)
    y[2] = -100

    def own(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    with pytest.raises(SettingError, match=r"'accuracy' cannot count: labels must be 0 to 2.*found -100"):
        check(own, batch=(x, y), metrics=(ACCURACY,))
    assert check(nn.CrossEntropyLoss(), batch=(x, y), metrics=(ACCURACY,))


class Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output * self.scale, target)


def test_a_loss_with_parameters_of_its_own_is_refused() -> None:
    loss = Temperature()
    for given in (loss, loss.forward):
        with pytest.raises(
            SettingError, match=r"Temperature, the loss, has trainable parameters.*\(scale\).*the model"
        ):
            check(given)
    check(Temperature().requires_grad_(False))
    model = Mlp()
    model.temperature = loss
    check(loss, model=model)


def test_a_run_with_such_a_loss_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="put them into the model"):
        lehr.Trainer(recipe(objective=Supervised(loss=Temperature()), metrics=()), run_dir=tmp_path / "run")


def test_sparse_gradients_are_refused_before_the_first_step() -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3, sparse=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.table(x)

    batch = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2])
    with pytest.raises(SettingError, match=r"Embedding 'table' has sparse=True.*use sparse=False"):
        check(nn.CrossEntropyLoss(), model=Sparse(), batch=batch)
