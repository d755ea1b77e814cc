"""Checkpoints every so many steps, and the best one by perplexity."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import assert_same, points, recipe, records, weights
from torch import Tensor, nn

import lehr
from lehr.base.protocols import Method, Place
from lehr.checkpoint import CheckpointStore
from lehr.optim import SGD
from lehr.run.opened import open_run
from lehr.run.recipe import Evaluate, Save


class Kept(Method):
    """Keeps a copy of the weights after each update."""

    changes = frozenset({"model"})

    def __init__(self) -> None:
        self.after: dict[int, dict[str, Tensor]] = {}

    def step_end(self, model: nn.Module, place: Place) -> None:
        self.after[place.step] = weights(model)


def saved(run: Path) -> list[str]:
    return [path.name for path in CheckpointStore(run / "checkpoints").paths()]


@pytest.mark.parametrize(("every", "expected"), [(4, [4, 8, 12, 14]), (7, [7, 14]), (5, [5, 10, 14])])
def test_every_so_many_steps_and_at_the_end(tmp_path: Path, every: int, expected: list[int]) -> None:
    """Each has the weights of its own step."""
    kept = Kept()
    made = recipe(steps=14, save=Save(every=every, keep=9, best=False), methods=(kept,))
    lehr.train(made, run_dir=tmp_path / "run")
    assert saved(tmp_path / "run") == [f"step-{step:08}" for step in expected]
    for step in expected:
        file = tmp_path / "run" / "checkpoints" / f"step-{step:08}" / "model.safetensors"
        assert_same(safetensors.torch.load_file(file), kept.after[step])


def test_a_thousand_and_two_thousand(tmp_path: Path) -> None:
    """The guide's distance: of 2500 steps, those after 1000 and 2000, and the last."""
    made = recipe(
        model=lambda: nn.Linear(4, 3),
        steps=2500,
        save=Save(every=1000, keep=3, best=False),
        evaluate=Evaluate(every="100%"),
        track={"every": 500},
    )
    lehr.train(made, run_dir=tmp_path / "run")
    assert saved(tmp_path / "run") == ["step-00001000", "step-00002000", "step-00002500"]


def noisy(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points of which a third have a random class."""
    x, y = points(n, seed=seed)
    return x, torch.cat([torch.randint(0, 3, (n // 3,), generator=torch.Generator().manual_seed(seed)), y[n // 3 :]])


def test_the_best_is_where_perplexity_was_lowest(tmp_path: Path) -> None:
    """The rate is made far too high after step 12, so that the last is not the best."""
    kept, held_out = Kept(), noisy(40, seed=1)
    made = recipe(
        model=lambda: nn.Linear(4, 3),
        data=lehr.Data(train=noisy(48, seed=0), val=held_out, batch_size=8),
        metrics=("perplexity", "accuracy"),
        optim=SGD(lr=0.2, momentum=0.0),
        schedule=lambda step: 1.0 if step < 12 else 100.0,
        clip=None,
        steps=20,
        evaluate=Evaluate(every=3, monitor="perplexity"),
        save=Save(every=20, keep=1),
        methods=(kept,),
    )
    lehr.train(made, run_dir=tmp_path / "run")
    expected = {}
    for step in (3, 6, 9, 12, 15, 18, 20):
        scores = nn.functional.linear(held_out[0], kept.after[step]["weight"], kept.after[step]["bias"])
        expected[step] = float(nn.functional.cross_entropy(scores, held_out[1]).exp())
    measured = {r["step"]: r["perplexity"] for r in records(tmp_path / "run") if r["split"] == "val"}
    assert measured == pytest.approx(expected, rel=1e-5)
    lowest = min(expected, key=expected.__getitem__)
    assert lowest <= 12 and expected[20] > 2 * expected[lowest]
    best = open_run(tmp_path / "run", which="best", recipe=made)
    assert best.step == lowest and open_run(tmp_path / "run", which="last", recipe=made).step == 20
    assert_same(weights(best.model), kept.after[lowest])
    state = json.loads((tmp_path / "run" / "checkpoints" / "step-00000020" / "state.json").read_text())
    assert state["scores"]["best"] == measured[lowest] == pytest.approx(math.exp(state["scores"]["best_loss"]))
