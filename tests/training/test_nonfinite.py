"""Values that are not finite: seen at once, before the weights are touched, and traced to where they came from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Mlp, assert_same, points, recipe, records, weights
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import lehr
from lehr.base.durations import RunLength
from lehr.base.errors import NonFiniteError, RunError, SettingError
from lehr.base.protocols import Batch, Method, Observer, Place
from lehr.run.recipe import Save, Track


def poisoned(sample: int, value: float = math.nan) -> tuple[Tensor, Tensor]:
    x, y = points()
    x[sample, 2] = value
    return x, y


class BadLayer(nn.Module):
    """Divides by zero where the second feature of a sample is the largest of all: late, and in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Mlp(dropout=0.0)
        self.spoil = Spoil()

    def forward(self, x: Tensor) -> Tensor:
        return self.spoil(self.body(x), x)


class Spoil(nn.Module):
    def forward(self, scores: Tensor, x: Tensor) -> Tensor:
        return scores + (0 * x[:, :1]) / (x[:, 1:2] < points()[0][:, 1].max()).float()


class BadGradient(nn.Module):
    """The loss is finite, the gradient of one parameter is not: sqrt at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.gain.abs().sqrt()


def step_of(sample: int, size: int = 8) -> int:
    from lehr.data.order import ShuffledOrder

    order = ShuffledOrder(48, batch_size=size, seed=0)
    return next(i for i in range(6) if sample in order.batch(0, i).tolist())


def failing(run: Path, **changes: Any) -> tuple[lehr.Trainer, NonFiniteError]:
    trainer = lehr.Trainer(recipe(**changes), run_dir=run)
    with pytest.raises(NonFiniteError) as caught:
        trainer.fit()
    return trainer, caught.value


def test_a_bad_sample_is_named_and_the_weights_are_those_before_it(tmp_path: Path) -> None:
    sample = next(s for s in range(48) if step_of(s) == 3)
    data = lehr.Data(train=poisoned(sample), batch_size=8)
    trainer, error = failing(tmp_path / "run", data=data)
    assert f"at step 3: the batch itself is not finite, samples {sample}." in str(error)
    clean = lehr.Trainer(recipe(), run_dir=tmp_path / "clean")
    for batch in clean.batches():
        if clean.loop.clock.step == 3:
            break
        clean.step(batch)
    assert_same(weights(trainer.model), weights(clean.model))
    failure = json.loads((tmp_path / "run" / "failure.json").read_text())
    assert failure["step"] == 3
    assert failure["samples"] == [sample]
    assert failure["kind"] == "input"


def test_a_bad_layer_is_named(tmp_path: Path) -> None:
    sample = int(points()[0][:, 1].argmax())
    _, error = failing(tmp_path / "run", model=BadLayer)
    assert f"at step {step_of(sample)}" in str(error)
    assert f"first appeared in the output of module 'spoil', samples {sample}." in str(error)


def test_a_bad_gradient_is_named(tmp_path: Path) -> None:
    trainer, error = failing(tmp_path / "run", model=BadGradient)
    assert "the gradient norm is nan at step 0: the loss is finite, but the gradient of 'gain' is not" in str(error)
    assert trainer.model.gain.item() == 0.0


def test_a_bad_parameter_is_named(tmp_path: Path) -> None:
    class Broken(Mlp):
        def __init__(self) -> None:
            super().__init__()
            with torch.no_grad():
                self.last.bias[1] = math.inf

    _, error = failing(tmp_path / "run", model=Broken)
    assert "the parameter 'last.bias' itself is not finite" in str(error)
    assert "nonfinite=skip" not in str(error)  # it would be of no help
    assert not any((tmp_path / "run" / "checkpoints").iterdir())


def test_a_bad_loss_is_named(tmp_path: Path) -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return output.mean() / 0.0

    _, error = failing(tmp_path / "run", objective=loss)
    assert "every module's output is finite, but the loss is not" in str(error)


def test_the_microbatch_is_found(tmp_path: Path) -> None:
    sample = next(s for s in range(48) if step_of(s) == 1)
    _, error = failing(tmp_path / "run", data=lehr.Data(train=poisoned(sample, math.inf), batch_size=8), accumulate=4)
    assert f"samples {sample}." in str(error)


def test_buffers_and_optimizer_are_untouched(tmp_path: Path) -> None:
    sample = next(s for s in range(48) if step_of(s) == 2)
    trainer, _ = failing(tmp_path / "run", data=lehr.Data(train=poisoned(sample), batch_size=8))
    assert int(trainer.model.norm.num_batches_tracked) == 2
    assert bool(torch.isfinite(trainer.model.norm.running_mean).all())
    (optimizer,) = trainer.loop.update.optimizers
    assert int(optimizer.state[trainer.model.first.weight]["step"]) == 2


def test_the_run_is_saved_as_it_was_before_the_step_and_goes_on_when_told_to_skip(tmp_path: Path) -> None:
    sample = next(s for s in range(48) if step_of(s) == 4)
    made = recipe(data=lehr.Data(train=poisoned(sample), batch_size=8), save=Save(every=100), steps=6)
    with pytest.raises(NonFiniteError):
        lehr.Trainer(made, run_dir=tmp_path / "run").fit()
    assert (tmp_path / "run" / "checkpoints" / "step-00000004").is_dir()
    with pytest.raises(NonFiniteError, match="at step 4"):
        lehr.resume(tmp_path / "run", recipe=made)
    result = lehr.resume(tmp_path / "run", recipe=made, overrides=["nonfinite=skip"])
    twin = lehr.train(made.model_copy(update={"nonfinite": "skip"}), run_dir=tmp_path / "twin")
    assert (result.step, result.skipped) == (twin.step, twin.skipped)
    assert twin.model is not None and result.model is not None
    assert_same(weights(twin.model), weights(result.model))


def test_skipping_leaves_the_clock_and_counts(tmp_path: Path) -> None:
    sample = next(s for s in range(48) if step_of(s) == 1)
    made = recipe(
        data=lehr.Data(train=poisoned(sample), batch_size=8), nonfinite="skip", track=Track(every=1), steps=12
    )
    result = lehr.train(made, run_dir=tmp_path / "run")
    # each epoch has one such batch in six, so twelve updates take fourteen or fifteen batches
    assert result.step == 12
    assert result.skipped in {2, 3}
    lines = records(tmp_path / "run")
    withheld = [r for r in lines if "withheld" in r]
    assert withheld[0] == {"step": 1, "split": "train", "loss": "nan", "withheld": "nonfinite"}
    rates = [r["lr"] for r in lines if r["split"] == "train" and "withheld" not in r]
    schedule = made.schedule.resolve(RunLength(12, 6))
    assert rates == [0.01 * schedule(step) for step in range(12)]
    assert lines[-1]["loss"] == lines[-1]["loss"]


def test_too_many_in_a_row_end_the_run(tmp_path: Path) -> None:
    x, y = points()
    made = recipe(data=lehr.Data(train=(x * math.nan, y), batch_size=8), nonfinite="skip", max_skipped=4)
    with pytest.raises(RunError, match=r"5 updates in a row were withheld \(nonfinite\) at step 0; at most 4"):
        lehr.Trainer(made, run_dir=tmp_path / "run").fit()


class CountReads(TorchDispatchMode):
    """Counts how often a tensor is turned into a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += "_local_scalar_dense" in str(function)
        return function(*args, **kwargs or {})


def latched(**changes: Any) -> Any:
    return recipe(track=Track(every=5, read="record"), **changes)


def test_with_a_latch_nothing_is_read_between_records(tmp_path: Path) -> None:
    trainer = lehr.Trainer(
        latched(steps=40, data=lehr.Data(train=points(), batch_size=8), save=Save(every=40)), run_dir=tmp_path / "run"
    )
    reads = []
    for batch in trainer.batches():
        with CountReads() as counter:
            trainer.step(batch)
        reads.append(counter.reads)
    between = [count for step, count in enumerate(reads, start=1) if step % 5 and step > 10]
    assert between == [0] * len(between)


def test_without_one_the_cpu_reads_the_norm_and_the_loss_and_nothing_else(tmp_path: Path) -> None:
    trainer = lehr.Trainer(
        recipe(steps=30, data=lehr.Data(train=points(), batch_size=8), track=Track(every=10)), run_dir=tmp_path / "run"
    )
    reads = []
    for batch in trainer.batches():
        with CountReads() as counter:
            trainer.step(batch)
        reads.append(counter.reads)
    assert max(count for step, count in enumerate(reads, start=1) if step % 5 and step > 10) <= 2


def test_a_latched_run_is_the_same_run(tmp_path: Path) -> None:
    one = lehr.train(recipe(track=Track(every=5)), run_dir=tmp_path / "read")
    other = lehr.train(latched(), run_dir=tmp_path / "latched")
    assert one.model is not None and other.model is not None
    for name, value in weights(one.model).items():
        assert torch.allclose(value, weights(other.model)[name], rtol=1e-5, atol=1e-6)
    assert one.val_loss == pytest.approx(other.val_loss, rel=1e-5)


@pytest.mark.parametrize("at", [0, 1, 3, 4])
def test_a_latch_keeps_everything_as_it_was_before_the_bad_step(tmp_path: Path, at: int) -> None:
    """The bad step lies anywhere between two records; what comes after it must not have happened."""
    sample = next(s for s in range(48) if step_of(s) == at)
    data = lehr.Data(train=poisoned(sample), batch_size=8)
    read, error = failing(tmp_path / "read", data=data, track=Track(every=5))
    late = lehr.Trainer(latched(data=data), run_dir=tmp_path / "late")
    with pytest.raises(NonFiniteError) as caught:
        late.fit()
    assert str(caught.value) == str(error)
    for name, value in weights(read.model).items():
        assert torch.allclose(value, weights(late.model)[name], rtol=1e-5, atol=1e-6), name
    assert int(late.model.norm.num_batches_tracked) == at
    for parameter in late.model.parameters():
        for optimizer in late.loop.update.optimizers:
            assert int(optimizer.state[parameter]["step"]) == at if at else True
    assert (late.loop.clock.step, late.loop.clock.samples) == (read.loop.clock.step, read.loop.clock.samples)


def test_an_empty_batch_under_a_latch_is_skipped_as_it_is_without(tmp_path: Path) -> None:
    import functools

    from lehr.losses import Supervised, cross_entropy

    x, y = points()
    y = y.clone()
    y[16:24] = -1
    made = {
        "data": lehr.Data(train=(x, y), batch_size=8, shuffle=False),
        "objective": Supervised(loss=functools.partial(cross_entropy, ignore=-1)),
        "metrics": (),
        "model": lambda: Mlp(dropout=0.0),
        "steps": 10,
    }
    with pytest.warns(UserWarning, match="nothing that counts"):
        one = lehr.train(recipe(**made, track=Track(every=5)), run_dir=tmp_path / "read")
    with pytest.warns(UserWarning, match="nothing that counts"):
        other = lehr.train(latched(**made), run_dir=tmp_path / "late")
    assert one.model is not None and other.model is not None
    assert all(torch.allclose(v, weights(other.model)[n], rtol=1e-4, atol=1e-5) for n, v in weights(one.model).items())
    assert one.step == other.step == 10


def test_a_stop_in_the_middle_of_a_window_looks_at_the_latch_first(tmp_path: Path) -> None:
    sample = next(s for s in range(48) if step_of(s) == 1)

    class StopAt(Observer):
        def step_end(self, place: Place) -> None:
            if place.step == 3:
                raise lehr.base.errors.StopRun("enough")

    made = latched(data=lehr.Data(train=poisoned(sample), batch_size=8), methods=(StopAt(),))
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    trainer.fit()
    assert trainer.loop.clock.step == 1
    assert all(bool(torch.isfinite(value).all()) for value in weights(trainer.model).values())
    assert (tmp_path / "run" / "checkpoints" / "step-00000001").is_dir()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nonfinite": "skip"}, "nonfinite=skip needs to know at each step"),
        ({"optim": "muon"}, "an optimizer has no kernel that can be masked"),
        ({"data": lehr.Data(train=[(torch.zeros(4), 0)] * 8, batch_size=4)}, None),
    ],
)
def test_a_latch_that_cannot_be_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], reason: str | None
) -> None:
    if reason is None:
        lehr.Trainer(latched(**changes), run_dir=tmp_path / "run")
        return
    with pytest.raises(SettingError, match=reason):
        lehr.Trainer(latched(**changes), run_dir=tmp_path / "run")


def test_a_method_that_changes_gradients_rules_a_latch_out(tmp_path: Path) -> None:
    class Noise(Method):
        changes = frozenset({"gradients"})

        def grads_ready(self, model: nn.Module, place: Place) -> None:
            pass

        def batch_ready(self, batch: Batch, place: Place) -> Batch:
            return batch

    with pytest.raises(SettingError, match=r"does not declare 'batch'"):
        lehr.Trainer(latched(methods=(Noise(),)), run_dir=tmp_path / "run")
    Noise.changes = frozenset({"gradients", "batch"})
    with pytest.raises(SettingError, match="a method changes gradients or the model"):
        lehr.Trainer(latched(methods=(Noise(),)), run_dir=tmp_path / "run")
