"""Parameters that would silently never learn are named in the first steps, and again after a resume."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from helpers import Mlp, recipe, run_steps
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lehr
from lehr.base.errors import LehrWarning
from lehr.optim import AdamW
from lehr.run.recipe import Save


class Listed(Mlp):
    """Layers in a Python list are not parameters of the module: torch does not see them, nor does the optimizer."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        self.unused = nn.Linear(2, 2)


class CutOff(Mlp):
    """Reentrant activation checkpointing on an input without gradient: nothing inside it learns."""

    def forward(self, x: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hidden = checkpoint(self.first, x, use_reentrant=True)
        return self.last(self.drop(torch.relu(self.norm(hidden))))


class Dead(Mlp):
    """Its first layer gets a gradient that is always 0."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.relu(self.first(x) - 1e4) + x.repeat(1, 2)))


class Forgetful(AdamW):
    """An optimizer that was made before the last layer was added."""

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        assert isinstance(model, Mlp)
        return [torch.optim.AdamW([*model.first.parameters(), *model.norm.parameters()], lr=self.lr)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": Listed}, r"2 trainable parameters got no gradient in the first step.*unused.weight, unused.bias"),
        ({"model": CutOff}, r"2 trainable parameters got no gradient in the first step.*first.weight, first.bias"),
        ({"model": Dead}, r"2 trainable parameters had a gradient of exactly 0 in each of the first 10 steps"),
        ({"optim": Forgetful(lr=0.01)}, r"2 trainable parameters are in no optimizer: last.weight, last.bias"),
    ],
)
def test_what_never_learns_is_named_once(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.warns(LehrWarning, match=message) as caught:
        lehr.train(recipe(**changes), run_dir=tmp_path / "run")
    assert len(caught) == 1
    assert "requires_grad_(False)" in str(caught[0].message)


def test_it_is_said_again_after_a_resume(tmp_path: Path) -> None:
    made = recipe(model=Listed, save=Save(every=5))
    with pytest.warns(LehrWarning, match="got no gradient"):
        run_steps(lehr.Trainer(made, run_dir=tmp_path / "run"), 5)
    with pytest.warns(LehrWarning, match="got no gradient"):
        lehr.resume(tmp_path / "run", recipe=made)


def test_frozen_parameters_and_zero_initialized_projections_are_no_news(tmp_path: Path) -> None:
    class Frozen(Mlp):
        def __init__(self) -> None:
            super().__init__()
            self.first.requires_grad_(False)
            nn.init.zeros_(self.last.weight)

    lehr.train(recipe(model=Frozen), run_dir=tmp_path / "run")


@pytest.mark.parametrize("accumulate", [1, 4])
def test_gradients_are_gone_after_a_step(accumulate: int, tmp_path: Path) -> None:
    trainer = lehr.Trainer(recipe(accumulate=accumulate, steps=3), run_dir=tmp_path / "run")
    for batch in trainer.batches():
        trainer.step(batch)
        assert all(p.grad is None for p in trainer.model.parameters()), "no memory, and no time to fill it with zeros"
