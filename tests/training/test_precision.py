"""Mixed precision: one clip on true gradients, overflows that leave no trace, and slow or lossy formats said aloud."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
from helpers import Mlp, assert_same, points, recipe, records, weights
from torch import Tensor, nn

import lehr
from lehr.base.durations import RunLength
from lehr.base.errors import LehrWarning, RunError
from lehr.base.protocols import Batch, Method, Place
from lehr.optim.clip import global_norm
from lehr.run.recipe import Save, Track
from lehr.training.precision import autocast, scaler, warn_if_bf16_is_slower, warn_of_low_precision_weights


def quiet() -> Mlp:
    return Mlp(dropout=0.0)


class Watch(Method):
    """Notes the norm of the gradients that the optimizer is about to get."""

    changes = frozenset({"gradients"})

    def __init__(self) -> None:
        self.norms: list[float] = []

    def grads_ready(self, model: nn.Module, place: Place) -> None:
        self.norms.append(global_norm([p.grad for p in model.parameters() if p.grad is not None]).item())


class Overflow(Method):
    """Makes the loss infinite at some calls of the step."""

    changes = frozenset({"batch", "loss"})

    def __init__(self, *calls: int) -> None:
        self.calls, self.seen = set(calls), -1

    def batch_ready(self, batch: Batch, place: Place) -> Batch:
        self.seen += 1
        return batch

    def loss_ready(self, total: Tensor, count: Tensor | float, model: nn.Module, place: Place) -> Tensor:
        return total * math.inf if self.seen in self.calls else total


def test_the_clip_is_one_and_on_the_unscaled_sum(tmp_path: Path) -> None:
    x, y = points()
    norms: dict[str, list[float]] = {}
    clipped: dict[str, list[float]] = {}
    for precision, accumulate in (("fp32", 1), ("fp16", 4)):
        watch = Watch()
        made = recipe(
            model=lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)),
            data=lehr.Data(train=(x, y), batch_size=16),
            precision=precision,
            accumulate=accumulate,
            clip=0.05,
            methods=(watch,),
            track=Track(every=1),
            steps=6,
        )
        trainer = lehr.Trainer(made, run_dir=tmp_path / precision)
        if precision == "fp16":
            assert trainer.loop.update.scaler is not None
            assert trainer.loop.update.scaler.get_scale() == 2.0**16
        trainer.fit()
        norms[precision] = [r["grad_norm"] for r in records(tmp_path / precision) if r["split"] == "train"]
        clipped[precision] = watch.norms
    assert norms["fp16"] == pytest.approx(norms["fp32"], rel=1e-2)
    assert norms["fp16"][0] == pytest.approx(norms["fp32"][0], rel=1e-3)  # the same weights: rounding alone
    for precision in norms:
        assert len(clipped[precision]) == 6
        assert min(norms[precision]) > 0.05
        assert clipped[precision] == pytest.approx([0.05] * 6, rel=1e-4)


def test_an_overflow_moves_nothing_but_the_scale_and_the_data(tmp_path: Path) -> None:
    made = recipe(precision="fp16", model=quiet, methods=(Overflow(0, 3, 4),), track=Track(every=1), steps=9)
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    trainer.fit()
    clock = trainer.loop.clock
    assert (clock.step, clock.skipped, clock.empty) == (9, 3, 0)
    assert trainer.loop.update.scaler is not None
    assert trainer.loop.update.scaler.get_scale() == 2.0**13
    lines = [r for r in records(tmp_path / "run") if r["split"] == "train"]
    assert [r["step"] for r in lines if "withheld" in r] == [0, 2, 2]
    schedule = made.schedule.resolve(RunLength(9, 6))
    assert [r["lr"] for r in lines if "withheld" not in r] == [0.01 * schedule(step) for step in range(9)]
    assert lines[-1]["skipped"] == 3
    (optimizer,) = trainer.loop.update.optimizers
    assert {int(state["step"]) for state in optimizer.state.values()} == {9}
    assert int(trainer.model.norm.num_batches_tracked) == 9


def test_overflows_in_a_row_end_the_run(tmp_path: Path) -> None:
    made = recipe(precision="fp16", methods=(Overflow(*range(2, 30)),), max_skipped=3)
    with pytest.raises(RunError, match=r"4 updates in a row were withheld \(overflow\) at step 2; at most 3"):
        lehr.Trainer(made, run_dir=tmp_path / "run").fit()


def test_the_scale_is_part_of_the_state(tmp_path: Path) -> None:
    made = recipe(precision="fp16", model=quiet, methods=(Overflow(1),), save=Save(every=5))
    whole = lehr.train(made, run_dir=tmp_path / "whole")
    part = lehr.Trainer(made.model_copy(update={"methods": (Overflow(1),)}), run_dir=tmp_path / "part")
    for batch in part.batches():
        part.step(batch)
        if part.loop.clock.step == 5:
            break
    rest = lehr.resume(tmp_path / "part", recipe=made.model_copy(update={"methods": (Overflow(),)}))
    assert whole.model is not None and rest.model is not None
    assert_same(weights(whole.model), weights(rest.model))
    assert whole.skipped == rest.skipped == 1


def test_the_precision_is_what_was_asked_for() -> None:
    with autocast("bf16", "cpu")():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16
    with autocast("fp16", "cpu")():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float16
    assert scaler("bf16", "cpu") is None
    assert scaler("fp32", "cpu") is None


def test_bf16_is_timed_on_the_cpu_and_warned_of_when_slower() -> None:
    def objective(model: nn.Module, batch: Tensor) -> tuple[Tensor, int]:
        return model(batch).square().sum(), len(batch)

    model = quiet()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ratio = warn_if_bf16_is_slower(objective, model, torch.randn(8, 4))
    assert ratio > 0
    assert [f"takes {ratio:.2f} times as long" in str(w.message) for w in caught] == [True] * (ratio > 1)
    assert all(p.grad is None for p in model.parameters())


def test_timing_bf16_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LehrWarning)
        trainer = lehr.Trainer(recipe(precision="bf16"), run_dir=tmp_path / "run")
    assert int(trainer.model.norm.num_batches_tracked) == 0
    assert all(p.grad is None for p in trainer.model.parameters())
    assert trainer.loop.loader.state_dict().items() >= {"epoch": 0, "batch": 0}.items()


def test_parameters_of_low_precision_are_warned_of() -> None:
    with pytest.warns(LehrWarning, match=r"2 parameters are torch.bfloat16 \(first: 'weight'\)"):
        warn_of_low_precision_weights(nn.Linear(2, 2).bfloat16())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_low_precision_weights(nn.Linear(2, 2))
        warn_of_low_precision_weights(nn.Linear(2, 2).bfloat16().requires_grad_(False))


def test_small_updates_move_fp32_weights_under_bf16(tmp_path: Path) -> None:
    """At a rate of 1e-5 pure bf16 weights of size 1 would stand still."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LehrWarning)
        trainer = lehr.Trainer(
            recipe(precision="bf16", model=quiet, optim=lehr.optim.AdamW(lr=1e-5), schedule="constant"),
            run_dir=tmp_path / "run",
        )
        before = weights(trainer.model)
        trainer.fit()
    moved = [name for name, p in trainer.model.named_parameters() if not torch.equal(before[name], p)]
    assert moved == [name for name, _ in trainer.model.named_parameters()]
