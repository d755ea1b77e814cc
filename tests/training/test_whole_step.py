"""The update as one graph: the numbers of the eager step, exact resumes, and what it leaves to the eager step."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import OF_SMALL_MODELS, Mlp, assert_same, exact, points, recipe, records, weights
from torch import Tensor, nn

import lehr
from lehr.base.errors import NonFiniteError, SettingError
from lehr.base.protocols import Method, Place
from lehr.optim import OPTIMIZERS, SGD
from lehr.schedules import OneCycle
from lehr.training.methods import EMA, GradientCentralization, L2Penalty, ProgressiveLowRank
from lehr.training.steps.whole import _worth_checking

pytestmark = [
    pytest.mark.slow,  # each compiles, for some seconds
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # torch's own, while it traces an optimizer
]
EVEN = {"data": lehr.Data(train=points(48), val=points(20, seed=1), batch_size=8)}


class Plain(nn.Module):
    """Without noise, and with a part that the loss does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.unused = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def both(tmp_path: Path, **changes: Any) -> tuple[Any, Any]:
    """The results of an eager run and of a whole one."""
    eager = lehr.train(recipe(**changes), run_dir=tmp_path / "eager")
    return eager, lehr.train(recipe(step="whole", **changes), run_dir=tmp_path / "whole")


def assert_close(tmp_path: Path, eager: Any, whole: Any, *, tolerance: float = 2e-5, weights: bool = True) -> None:
    runs = [[r for r in exact(tmp_path / name) if isinstance(r["loss"], float)] for name in ("eager", "whole")]
    for one, other in zip(*runs, strict=True):  # what was skipped has no number
        assert one["loss"] == pytest.approx(other["loss"], rel=tolerance)
    for one, other in zip(eager.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance if weights else float("inf"))


@pytest.mark.filterwarnings("ignore:.*got no gradient in the first step")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_makes_the_eager_step(name: str, tmp_path: Path) -> None:
    optim = OPTIMIZERS[name].make(**OF_SMALL_MODELS.get(name, {}))
    torch.compiler.reset()
    eager, whole = both(tmp_path, model=Plain, optim=optim)
    assert whole.compilations == 1, "the rate changes at each step, and nothing is compiled for it"
    # where a step normalizes directions, weights that have no gradient to speak of are made of its rounding
    rough = name in {"muon", "soap", "adamw_8bit"}
    assert_close(tmp_path, eager, whole, tolerance=0.02 if rough else 5e-5, weights=not rough)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.filterwarnings("ignore:.*got no gradient in the first step")
def test_momentum_in_the_graph_begins_as_in_an_eager_step(nesterov: bool, tmp_path: Path) -> None:
    eager, whole = both(tmp_path, model=Plain, optim=SGD(lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01))
    assert_close(tmp_path, eager, whole)


def test_noise_follows_from_the_step_and_a_resumed_run_is_the_same(tmp_path: Path) -> None:
    made = recipe(step="whole", methods=(EMA(decay=0.9),))
    twin = lehr.train(made, run_dir=tmp_path / "twin")
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    for batch in trainer.batches():
        trainer.step(batch)
        if trainer.loop.clock.step == 7:
            trainer.stop("preempted")
    trainer.finish()
    resumed = lehr.resume(tmp_path / "run", recipe=made)
    assert_same(weights(twin.model), weights(resumed.model))
    assert exact(tmp_path / "twin") == exact(tmp_path / "run")
    eager = lehr.train(made.model_copy(update={"step": "eager"}), run_dir=tmp_path / "eager")
    final = [exact(tmp_path / name)[-1]["loss"] for name in ("twin", "eager")]
    assert final[0] != final[1]
    assert final[0] == pytest.approx(final[1], rel=0.1), "other draws of the same noise"
    assert eager.compilations is None


def test_noise_in_the_graph_is_drawn_anew_at_each_step(tmp_path: Path) -> None:
    made = recipe(
        step="whole", model=lambda: Mlp(dropout=0.5), optim=SGD(lr=1e-12), track=lehr.Track(every=1), steps=12
    )
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    batches = trainer.batches()
    same = next(batches)
    for _ in range(6):
        trainer.step(same)
    batches.close()
    losses = [line["loss"] for line in records(tmp_path / "run") if line["split"] == "train"]
    assert len(set(losses)) == len(losses) == 6


def test_a_short_last_batch_compiles_nothing(tmp_path: Path) -> None:
    torch.compiler.reset()
    data = lehr.Data(train=points(44), val=points(20, seed=1), batch_size=8, drop_last=False)
    eager, whole = both(tmp_path, model=lambda: Mlp(dropout=0.0), data=data, steps=30, optim=SGD(lr=0.1))
    assert whole.compilations == 1
    assert_close(tmp_path, eager, whole)


class Later(Method):
    """Trains the first layer from step 6 on only."""

    changes = frozenset({"model"})

    def run_start(self, model: nn.Module, place: Place) -> None:
        model.a.requires_grad_(place.step >= 6)

    def step_end(self, model: nn.Module, place: Place) -> None:
        model.a.requires_grad_(place.step >= 6)


@pytest.mark.filterwarnings("ignore:.*got no gradient in the first step")
def test_what_is_unfrozen_in_the_middle_trains_from_there_on(tmp_path: Path) -> None:
    torch.compiler.reset()
    eager, whole = both(tmp_path, model=Plain, methods=(Later(),), optim=SGD(lr=0.1))
    assert whole.compilations == 2
    assert_close(tmp_path, eager, whole)


SCALE = 1.0


class Scaled(Plain):
    """A number of its own and one of its file take part in what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale * SCALE


class Scales(Method):
    """Changes the one after three steps, and the other after six."""

    changes = frozenset({"model"})

    def run_start(self, model: nn.Module, place: Place) -> None:
        global SCALE
        SCALE = 1.0

    def step_end(self, model: nn.Module, place: Place) -> None:
        global SCALE
        model.scale = 2.0 if place.step >= 3 else 1.0
        SCALE = 0.25 if place.step >= 6 else 1.0


@pytest.mark.filterwarnings("ignore:.*got no gradient in the first step")
def test_what_a_method_changes_in_the_model_or_its_file_is_seen(tmp_path: Path) -> None:
    eager, whole = both(tmp_path, model=Scaled, methods=(Scales(),), optim=SGD(lr=0.1), steps=9, **EVEN)
    assert_close(tmp_path, eager, whole)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("G['__import_torch_dot_nn_dot_functional'].linear", False),
        ("G['__import_lehr_dot_losses_dot_rows'].as_rows", False),
        ("G['__builtins_dict___0']['zip']", False),
        ("G['__import_torch_dot_nn_dot_modules_dot_module']._global_forward_hooks", True),
        ("G['__import_lehr_recipe_my_recipe'].SCALE", True),
        ("G['__import_torch_utils'].SCALE", True),
        ("G['SCALE']", True),
    ],
)
def test_conditions_on_code_are_not_asked_again_and_those_on_the_recipes_files_are(name: str, asked: bool) -> None:
    guard = SimpleNamespace(is_global=True, name=name)
    assert _worth_checking([guard, SimpleNamespace(is_global=False, name=name)]) == [asked, True]


def test_methods_that_change_gradients_and_a_momentum_that_is_cycled_come_behind_the_graph(tmp_path: Path) -> None:
    eager, whole = both(
        tmp_path,
        model=lambda: Mlp(dropout=0.0),
        methods=(GradientCentralization(),),
        schedule=OneCycle(cycle_momentum=(0.85, 0.95)),
        optim=SGD(lr=0.1, momentum=0.9),
        **EVEN,
    )
    assert_close(tmp_path, eager, whole)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulation_in_the_graph(accumulate: int, tmp_path: Path) -> None:
    eager, whole = both(tmp_path, accumulate=accumulate, model=lambda: Mlp(dropout=0.0), optim=SGD(lr=0.1), **EVEN)
    assert_close(tmp_path, eager, whole)


@pytest.mark.filterwarnings("ignore:.*got no gradient in the first step")
def test_layers_that_are_exchanged_in_the_middle_are_another_graph_and_their_products_decay(tmp_path: Path) -> None:
    torch.compiler.reset()
    method = ProgressiveLowRank(at=6, ratio=0.25, layers=("b",), batches=2, allowed=9.0)
    optim = SGD(lr=0.1, momentum=0.9, weight_decay=0.1)
    eager, whole = both(tmp_path, model=Plain, methods=(method,), optim=optim)
    assert "b.U" in dict(whole.model.named_parameters())
    assert whole.compilations == 2
    assert_close(tmp_path, eager, whole)


@pytest.mark.parametrize("at", [3, 9])
def test_an_update_that_is_not_finite_leaves_everything_as_it_was(at: int, tmp_path: Path) -> None:
    x, y = points(48)
    x[5] = torch.nan
    data = lehr.Data(train=(x, y), val=points(20, seed=1), batch_size=8)
    changes: dict[str, Any] = {"nonfinite": "skip", "model": lambda: Mlp(dropout=0.0), "data": data, "steps": 6 + at}
    eager, whole = both(tmp_path, optim=SGD(lr=0.1, momentum=0.9), **changes)
    assert eager.skipped == whole.skipped > 0
    assert_close(tmp_path, eager, whole)
    for one, other in zip(eager.model.buffers(), whole.model.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_run_that_is_to_stop_there_does(tmp_path: Path) -> None:
    x, y = points(48)
    x[5] = torch.nan
    data = lehr.Data(train=(x, y), val=points(20, seed=1), batch_size=8)
    with pytest.raises(NonFiniteError):
        lehr.train(recipe(step="whole", data=data), run_dir=tmp_path / "run")
    assert "samples" in json.loads((tmp_path / "run" / "failure.json").read_text())


def test_bf16_by_autocast_in_the_graph(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        eager, whole = both(tmp_path, precision="bf16", model=lambda: Mlp(dropout=0.0), optim=SGD(lr=0.1))
    assert_close(tmp_path, eager, whole, tolerance=0.02)


class Reads(nn.Module):
    """Decides on the host what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum().item() > 0 else 2 * self.layer(x)


def test_a_model_that_is_no_graph_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"step=whole cannot make one graph of this recipe: .*; use step=eager"):
        lehr.train(recipe(step="whole", model=Reads), run_dir=tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "fp16"}, "precision=fp16 reads its scale"),
        ({"compile": True}, "compile=true, which compiles a part of it by itself"),
        ({"methods": (L2Penalty(),)}, "a method adds to the loss"),
        ({"track": lehr.Track(read="record")}, "step=whole masks updates by itself"),
    ],
)
def test_what_stands_against_one_graph_is_said_before_anything_is_done(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=said):
        lehr.Trainer(recipe(step="whole", **changes), run_dir=tmp_path / "run")


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SettingError, match=r"no C\+\+ compiler is found"):
        lehr.Trainer(recipe(step="whole"), run_dir=tmp_path / "run")
