"""Compiling the model: few graphs, the same numbers, bare names in the checkpoint, and a fallback that is said once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import points, recipe, run_steps
from torch import Tensor, nn

import lehr
from lehr.base.errors import LehrWarning, NoEffectWarning
from lehr.run.recipe import Evaluate, Save, Track

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _own_compilations() -> Iterator[None]:
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch")
        yield
    torch.compiler.reset()


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 3))


def test_a_short_last_batch_and_evaluation_cost_two_more_graphs_at_most(tmp_path: Path) -> None:
    made = recipe(
        model=chain,
        compile=True,
        steps=20,
        data=lehr.Data(train=points(45), val=points(20, seed=1), batch_size=8),
        evaluate=Evaluate(every=4),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", LehrWarning)
        result = lehr.train(made, run_dir=tmp_path / "compiled")
    assert result.compilations is not None
    assert result.compilations == 3
    eager = lehr.train(made.model_copy(update={"compile": False}), run_dir=tmp_path / "eager")
    assert eager.compilations is None
    assert result.val_loss == pytest.approx(eager.val_loss, rel=1e-4)


def test_a_sequential_is_compiled_too(tmp_path: Path) -> None:
    result = lehr.train(recipe(model=chain, compile=True, steps=6), run_dir=tmp_path / "run")
    assert result.compilations is not None and result.compilations >= 1


def test_checkpoints_of_compiled_and_eager_runs_have_the_same_names_and_load_into_each_other(tmp_path: Path) -> None:
    states = {}
    for compiled in (False, True):
        made = recipe(model=chain, compile=compiled, save=Save(every=3), steps=6)
        trainer = lehr.Trainer(made, run_dir=tmp_path / str(compiled))
        run_steps(trainer, 3)
        states[compiled] = set(trainer.assembly.saver.store.read(trainer.assembly.saver.store.newest())["model"])  # type: ignore[union-attr,arg-type]
    assert states[False] == states[True] == set(chain().state_dict())
    for saved in (False, True):
        made = recipe(model=chain, compile=not saved, save=Save(every=3), steps=6)
        with pytest.warns(LehrWarning, match="the last bits may differ"):
            result = lehr.resume(tmp_path / str(saved), recipe=made, allow_changes=True)
        assert result.step == 6


class Stubborn(nn.Module):
    """A part that torch does not compile."""

    def __init__(self) -> None:
        super().__init__()
        self.net = chain()

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Partly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.sizes = chain(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.sizes += 1  # a different number each time: torch compiles again and again, and gives up
        return self.net(x) * (1.0 if self.sizes < 10**9 else 0.0) + torch.full((1,), float(self.sizes)) * 0


def test_a_compilation_without_effect_is_said(tmp_path: Path) -> None:
    with pytest.warns(NoEffectWarning, match="torch compiled nothing of the model") as caught:
        lehr.train(recipe(model=Stubborn, compile=True, steps=6, track=Track(every=1)), run_dir=tmp_path / "run")
    assert sum(issubclass(w.category, NoEffectWarning) for w in caught) == 1


def test_a_fallback_is_reported_once(tmp_path: Path) -> None:
    torch._dynamo.config.recompile_limit, before = 2, torch._dynamo.config.recompile_limit
    try:
        with pytest.warns(LehrWarning, match="without compiling it") as caught:
            lehr.train(recipe(model=Partly, compile=True, steps=12, track=Track(every=1)), run_dir=tmp_path / "run")
    finally:
        torch._dynamo.config.recompile_limit = before
    assert sum(issubclass(w.category, LehrWarning) for w in caught) == 1
