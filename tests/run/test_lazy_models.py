"""Lazy modules: their weights follow from the seed and decay like others, since they have shapes before anything else."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from helpers import assert_same, exact, recipe, run_steps, weights
from torch import Tensor, nn

import lehr
from lehr.base.errors import SettingError
from lehr.run.opened import open_run

pytestmark = pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")


def lazy(width: int = 6) -> nn.Module:
    return nn.Sequential(nn.LazyLinear(width), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Dropout(0.2), nn.LazyLinear(3))


class Aside(nn.Module):
    """Has a lazy layer that the forward pass does not come to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.aside = nn.LazyLinear(3), nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x)


def test_initial_weights_follow_from_the_seed_alone(tmp_path: Path) -> None:
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(lehr.Trainer(recipe(model=lazy), run_dir=tmp_path / str(seed)).model)
    other = lehr.Trainer(recipe(model=lazy, seed=1), run_dir=tmp_path / "other").model
    assert_same(weights(models[0]), weights(models[1]))
    assert not torch.equal(models[0][0].weight, other[0].weight)  # type: ignore[index]
    assert models[0].training and int(models[0][1].num_batches_tracked) == 0  # type: ignore[index]


def test_matrices_decay(tmp_path: Path) -> None:
    trainer = lehr.Trainer(recipe(model=lazy), run_dir=tmp_path / "run")
    groups = [group for group, _ in trainer.loop.update.rates]
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(p) for p in trainer.model.parameters() if p.ndim == 2}


def test_left_and_gone_on_with_it_is_the_whole(tmp_path: Path) -> None:
    made = recipe(model=lazy)
    lehr.train(made, run_dir=tmp_path / "whole")
    run_steps(lehr.Trainer(made, run_dir=tmp_path / "run"), 7)
    result = lehr.resume(tmp_path / "run", recipe=made)
    assert exact(tmp_path / "run") == exact(tmp_path / "whole")
    opened = open_run(tmp_path / "run", which="last", recipe=made)
    assert result.model is not None
    assert_same(weights(opened.model), weights(result.model))
    assert opened.evaluate()["loss"] == pytest.approx(result.val_loss)


def test_what_the_first_batch_cannot_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"did not reach 'aside.weight', which is lazy"):
        lehr.Trainer(recipe(model=Aside), run_dir=tmp_path / "run")
    broken = functools.partial(nn.Sequential, nn.LazyLinear(3), nn.Linear(5, 3))
    with pytest.raises(SettingError, match=r"Sequential has lazy modules, .* failed on it: RuntimeError: mat1"):
        lehr.Trainer(recipe(model=broken), run_dir=tmp_path / "run")
