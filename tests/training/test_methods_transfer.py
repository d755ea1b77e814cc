"""Gradual unfreezing: what trains at which step, and that a resume at any boundary goes on bit for bit."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import OF_SMALL_MODELS, assert_same, exact, points, recipe, run_steps, same_files, weights
from torch import Tensor, nn

import lehr
from lehr.base.durations import RunLength
from lehr.base.errors import LehrWarning, SettingError
from lehr.base.protocols import RunContext
from lehr.base.settings import override
from lehr.optim import OPTIMIZERS, SGD, AdamW, Muon, Rule
from lehr.run.recipe import Save
from lehr.training.methods import EMA, GradualUnfreezing


class Stack(nn.Sequential):
    """Four blocks: depths 0 to 3, two of them with batch norm, one with dropout."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(4, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(8, 8),
            nn.ReLU(),
            nn.Linear(8, 3),
        )


BOUNDARIES = [3, 6, 9]
BLOCKS = [{"9"}, {"9", "7"}, {"9", "7", "3", "4"}, {"9", "7", "3", "4", "0", "1"}]
"""The modules that train, phase by phase."""


def unfreezing(method: Any = None, **changes: Any) -> lehr.Recipe:
    method = method or GradualUnfreezing(every=3)
    fields: dict[str, Any] = {"model": Stack, "methods": (method,), "steps": 12, "schedule": "constant"}
    return recipe(**fields | {"optim": AdamW(lr=0.01, weight_decay=0.3)} | changes)


def phase(step: int) -> int:
    """Return in which phase the update after ``step`` updates is."""
    return sum(step >= boundary for boundary in BOUNDARIES)


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Return the modules of which anything has changed, statistics included."""
    return {name.partition(".")[0] for name in after if not torch.equal(before[name], after[name])}


DECAYING = {
    "adamw": AdamW(lr=0.01, weight_decay=0.3),
    "sgd": SGD(lr=0.01, momentum=0.9, weight_decay=0.3),
    "dampened": SGD(lr=0.01, momentum=0.9, dampening=0.5, weight_decay=0.3),
    "muon": Muon(weight_decay=0.1),
}
OTHERS = {
    row.name: row.make(**OF_SMALL_MODELS.get(row.name, {}))
    for row in OPTIMIZERS.values()
    if not row.needs and row.name not in DECAYING
}


@pytest.mark.parametrize("optim", [*DECAYING.values(), *OTHERS.values()], ids=[*DECAYING, *OTHERS])
def test_each_update_moves_the_blocks_of_its_phase_and_nothing_else(tmp_path: Path, optim: Any) -> None:
    """Neither decay, nor momentum, nor running statistics touch what is frozen; and nobody is warned of it."""
    trainer = lehr.Trainer(unfreezing(optim=optim), run_dir=tmp_path / "run")
    before = weights(trainer.model)
    for batch in trainer.batches():
        step = trainer.loop.clock.step
        assert {name: trainer.model.get_submodule(name).training for name in ("1", "4")} == {
            name: name in BLOCKS[phase(step)] for name in ("1", "4")
        }
        trainer.step(batch)
        after = weights(trainer.model)
        assert moved(before, after) == BLOCKS[phase(step)], step
        before = after


def test_frozen_blocks_have_no_gradient_and_no_state(tmp_path: Path) -> None:
    trainer = lehr.Trainer(unfreezing(), run_dir=tmp_path / "run")
    run_steps(trainer, 5)
    (optimizer,) = trainer.loop.update.optimizers
    held = {name for name, p in trainer.model.named_parameters() if optimizer.state.get(p)}
    assert {name.partition(".")[0] for name in held} == BLOCKS[1]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(trainer.model.parameters()))


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_resume_at_each_step_goes_on_bit_for_bit(tmp_path: Path, cut: int) -> None:
    """At every boundary, and before and after it."""
    made = unfreezing(save=Save(every=1, keep=20))
    lehr.train(made, run_dir=tmp_path / "whole")
    run_steps(lehr.Trainer(made, run_dir=tmp_path / "cut"), cut)
    lehr.resume(tmp_path / "cut", recipe=made)
    last = Path("checkpoints") / "step-00000012"
    same_files(tmp_path / "whole" / last, tmp_path / "cut" / last, ["model.safetensors", "optimizer.safetensors"])
    assert exact(tmp_path / "cut") == exact(tmp_path / "whole")


def test_phases_may_have_any_unit_and_a_name(tmp_path: Path) -> None:
    """An epoch has 6 steps."""
    run = RunLength(1000, steps_per_epoch=6)
    assert GradualUnfreezing().boundaries(run, 3) == [6, 12, 18]
    assert GradualUnfreezing(every="0.25 epochs").boundaries(run, 3) == [2, 3, 5]
    assert GradualUnfreezing(every="10%").boundaries(run, 3) == [100, 200, 300]
    assert GradualUnfreezing(at=("1 epoch", 20)).boundaries(run, 3) == [6, 20]
    made = override(recipe(), ["methods=gradual_unfreezing", "methods.0.every=2 epochs"])
    assert made.methods == (GradualUnfreezing(every="2 epochs"),)
    assert override(made, ['methods.0.at=["5%", 20]']).methods == (GradualUnfreezing(at=("5%", 20)),)


def test_blocks_below_the_last_time_stay_frozen(tmp_path: Path) -> None:
    trainer = lehr.Trainer(unfreezing(GradualUnfreezing(at=(2, 4))), run_dir=tmp_path / "run")
    before = weights(trainer.model)
    trainer.fit()
    assert moved(before, weights(trainer.model)) == BLOCKS[2]


def test_what_rules_freeze_stays_frozen(tmp_path: Path) -> None:
    rules = (Rule(pattern="0.*", frozen=True), Rule(pattern="1.*", frozen=True))
    trainer = lehr.Trainer(unfreezing(optim=AdamW(lr=0.01, rules=rules)), run_dir=tmp_path / "run")
    before = weights(trainer.model)
    trainer.fit()
    assert moved(before, weights(trainer.model)) == BLOCKS[2]
    assert not trainer.model[1].training and trainer.model[4].training


def test_a_norm_that_was_made_in_evaluation_mode_stays_in_it(tmp_path: Path) -> None:
    def made() -> nn.Module:
        model = Stack()
        model[4].eval()
        return model

    with pytest.warns(LehrWarning, match="1 modules with parameters are in evaluation mode"):
        trainer = lehr.Trainer(unfreezing(model=made), run_dir=tmp_path / "run")
    trainer.fit()
    assert not trainer.model[4].training and trainer.model[1].training
    assert trainer.model[4].weight.requires_grad


@pytest.mark.parametrize("order", [0, 1])
def test_an_average_beside_it_changes_nothing(tmp_path: Path, order: int) -> None:
    alone = lehr.Trainer(unfreezing(), run_dir=tmp_path / "alone")
    alone.fit()
    methods = [GradualUnfreezing(every=3), EMA(decay=0.9)]
    both = lehr.Trainer(unfreezing(methods=methods[:: 1 - 2 * order]), run_dir=tmp_path / "both")
    both.fit()
    assert_same(weights(alone.model), weights(both.model))


def test_microbatches_make_no_difference_to_what_trains(tmp_path: Path) -> None:
    trainer = lehr.Trainer(unfreezing(accumulate=2), run_dir=tmp_path / "run")
    before = weights(trainer.model)
    run_steps(trainer, 3)
    assert moved(before, weights(trainer.model)) == BLOCKS[0]


def test_it_says_when_blocks_would_never_train(tmp_path: Path) -> None:
    with pytest.warns(LehrWarning, match=r"1 of 3 blocks would join only after the run's 12 steps"):
        lehr.Trainer(unfreezing(GradualUnfreezing(every=5)), run_dir=tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lehr.Trainer(unfreezing(GradualUnfreezing(at=(5,))), run_dir=tmp_path / "other")


def built(settings: GradualUnfreezing, model: nn.Module, **changes: Any) -> Any:
    return settings.build(RunContext(model=model, run=RunLength(100, 10), **changes))


def test_several_processes_are_refused() -> None:
    with pytest.raises(SettingError, match=r"cannot run in 2 processes.*freeze for the whole run with rules"):
        built(GradualUnfreezing(), Stack(), world=2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every": 3, "at": (3,)}, r"every=3 steps and at=\.\.\. both say when blocks join"),
        ({"at": ()}, r"at=\[\] lets no block join"),
        ({"every": 0}, r"every=0 steps is 0 updates; a phase needs one or more"),
        ({"every": "0.01 epochs"}, r"every=0.01 epochs is 0.1 updates"),
        ({"at": (6, 3)}, r"at=\['6 steps', '3 steps'\] is \[6, 3\] in steps; each must be later"),
        ({"at": (3, 3)}, r"each must be later than the one before"),
        ({"at": (0, 3)}, r"is \[0, 3\] in steps; each must be later than the one before, from 1 on"),
        ({"at": (1, 2, 3, 4)}, r"has 4 times, but only 3 blocks are below the uppermost; give 3 at the most"),
    ],
)
def test_phases_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        built(GradualUnfreezing(**given), Stack())


def test_a_model_of_one_block_and_data_without_a_length_are_refused() -> None:
    with pytest.raises(
        SettingError, match=r"nothing to unfreeze: all parameters of Linear that train are in one block"
    ):
        built(GradualUnfreezing(), nn.Linear(2, 2))
    with pytest.raises(SettingError, match=r"'1 epochs' cannot be turned into steps"):
        GradualUnfreezing().build(RunContext(model=Stack(), run=RunLength(100)))


def test_ordinary_data_of_one_epoch_unfreezes_nothing_and_says_so(tmp_path: Path) -> None:
    data = lehr.Data(train=points(96), val=points(20, seed=1), batch_size=8)
    with pytest.warns(LehrWarning, match=r"3 of 3 blocks would join only after the run's 12 steps"):
        lehr.Trainer(unfreezing(GradualUnfreezing(), data=data), run_dir=tmp_path / "run")
