"""EMA and SWA in a run: what is averaged when, batch norm for the average, and nothing of it in the training."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import Mlp, assert_same, exact, points, recipe, records, weights
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lehr
from lehr.base.durations import RunLength
from lehr.base.errors import LehrWarning, SettingError
from lehr.base.protocols import Batch, Method, Place, RunContext
from lehr.data.shard import Shard
from lehr.data.validation import training_batches
from lehr.losses import Supervised, cross_entropy
from lehr.optim import ScheduleFreeAdamW
from lehr.run.opened import open_run
from lehr.run.recipe import Evaluate, Recipe, Save
from lehr.training.methods import EMA, SWA, ProximalL1


class Kept(Method):
    """Keeps a copy of the model after each update, and makes torch's averages of it."""

    changes = frozenset({"model"})

    def __init__(self, taken: set[int]) -> None:
        self.taken = taken
        self.models: dict[int, nn.Module] = {}

    def run_start(self, model: nn.Module, place: Place) -> None:
        self.ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
        self.ema.update_parameters(model)
        self.swa = AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn())

    def step_end(self, model: nn.Module, place: Place) -> None:
        self.ema.update_parameters(model)
        if place.step in self.taken:
            self.swa.update_parameters(model)
        self.models[place.step] = copy.deepcopy(model)


def averaging(*methods: Any, **changes: Any) -> Recipe:
    fields: dict[str, Any] = {"methods": methods, "steps": 20, "evaluate": Evaluate(every=5), "save": Save(every=5)}
    return recipe(**fields | changes)


def put_in(trainer: lehr.Trainer, prefix: str) -> Any:
    return next(m for m in trainer.loop.listeners.given if getattr(m, "prefix", None) == prefix)


def test_the_averages_are_torch_s_over_a_run_and_the_training_is_as_without(tmp_path: Path) -> None:
    kept = Kept({12, 14, 16, 18, 20})
    made = averaging(EMA(decay=0.8, warmup=False), SWA(start="55%", every=2, batches=3), kept)
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    trainer.fit()
    for prefix, other in (("ema", kept.ema), ("swa", kept.swa)):
        with put_in(trainer, prefix).put_in():
            assert_same(
                {n: p.detach().clone() for n, p in trainer.model.named_parameters()},
                dict(other.module.named_parameters()),
            )
    lehr.train(averaging(), run_dir=tmp_path / "without")
    own = [{k: v for k, v in r.items() if k[:4] not in {"ema_", "swa_"}} for r in exact(tmp_path / "run")]
    assert own == exact(tmp_path / "without")


def test_before_the_start_the_values_are_the_model_s_own(tmp_path: Path) -> None:
    lehr.train(averaging(SWA(start="50%", every=5)), run_dir=tmp_path / "run")
    found = {r["step"]: r for r in records(tmp_path / "run") if r["split"] == "val"}
    assert sorted(found) == [5, 10, 15, 20]
    assert found[5]["swa_loss"] == found[5]["loss"]
    assert all(found[step]["swa_loss"] != found[step]["loss"] for step in (10, 15, 20))


def test_statistics_for_the_average_are_torch_s_update_bn(tmp_path: Path) -> None:
    """Without dropout, whose draws are nobody's: all six batches of the training data, in their own order."""
    kept = Kept({10, 15, 20})
    made = averaging(SWA(start=10, every=5, batches=100), kept, model=lambda: Mlp(dropout=0.0))
    result = lehr.train(made, run_dir=tmp_path / "run")
    x, _labels = made.data.train
    update_bn([x[i : i + 8] for i in range(0, 48, 8)], kept.swa.module)
    val_x, val_y = made.data.val
    loss = F.cross_entropy(kept.swa.module.eval()(val_x), val_y).item()
    assert result.metrics["swa_loss"] == pytest.approx(loss, rel=1e-5)
    # with the statistics of the last weights it is another one
    stale = copy.deepcopy(kept.swa.module)
    stale.norm.load_state_dict(
        kept.models[20].norm.state_dict() | {"weight": stale.norm.weight, "bias": stale.norm.bias}
    )
    assert result.metrics["swa_loss"] != pytest.approx(F.cross_entropy(stale.eval()(val_x), val_y).item(), rel=1e-3)


def test_the_model_is_its_own_bit_for_bit_after_the_average_was_in_it(tmp_path: Path) -> None:
    trainer = lehr.Trainer(averaging(SWA(start=5, every=1)), run_dir=tmp_path / "run")
    trainer.fit()
    before, state = weights(trainer.model), torch.get_rng_state()
    modes = [m.training for m in trainer.model.modules()]
    with put_in(trainer, "swa").put_in():
        inside = weights(trainer.model)
    assert not torch.equal(inside["norm.running_mean"], before["norm.running_mean"])
    assert_same(weights(trainer.model), before)
    assert torch.equal(torch.get_rng_state(), state), "nor are the run's draws moved"
    assert [m.training for m in trainer.model.modules()] == modes


def test_an_opened_run_has_the_average_with_the_same_values(tmp_path: Path) -> None:
    for every in ("1 epoch", "10%"):
        made = averaging(SWA(start="25%", every=every, batches=4), evaluate=Evaluate(every=5, monitor="swa_loss"))
        run = tmp_path / every.replace(" ", "-")
        result = lehr.train(made, run_dir=run)
        opened = open_run(run, recipe=made, which="last")
        values = opened.evaluate()
        assert values["swa_loss"] == result.metrics["swa_loss"] != values["loss"]


def test_frozen_norms_keep_their_statistics_in_the_run_and_when_it_is_opened(tmp_path: Path) -> None:
    def model() -> nn.Module:
        made = Mlp(dropout=0.0)
        made.norm.eval()
        for parameter in made.norm.parameters():
            parameter.requires_grad_(False)
        return made

    made = averaging(SWA(start=5, every=5), model=model)
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    result = trainer.fit()
    with put_in(trainer, "swa").put_in():
        assert torch.equal(trainer.model.norm.running_mean, torch.zeros(8))
    assert open_run(tmp_path / "run", recipe=made, which="last").evaluate()["swa_loss"] == result.metrics["swa_loss"]


def test_an_objective_that_takes_the_model_is_run_on_the_batches(tmp_path: Path) -> None:
    def objective(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
        return F.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[1])

    values = []
    for kind in (objective, Supervised(loss=cross_entropy)):
        made = averaging(SWA(start=5, every=5), objective=kind, metrics=())
        values.append(lehr.train(made, run_dir=tmp_path / str(len(values))).metrics["swa_loss"])
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_a_last_batch_of_one_sample_has_no_variance_and_is_left_out(tmp_path: Path) -> None:
    made = averaging(
        SWA(start=5, every=5), data=lehr.Data(train=points(49), val=points(20, seed=1), batch_size=8, drop_last=True)
    )
    assert lehr.train(made, run_dir=tmp_path / "run").metrics["swa_loss"] > 0


class Stateful(IterableDataset[Any]):
    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[Any]:
        x, y = points()
        while self.at < len(x):
            self.at += 1
            yield x[self.at - 1], y[self.at - 1]
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


class Uncopied(Stateful):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("it holds a file")


def test_batches_for_batch_norm_do_not_move_a_stream_that_is_trained_on(tmp_path: Path) -> None:
    def made(*methods: Any, stream: Any = Stateful) -> Recipe:
        return averaging(*methods, data=lehr.Data(train=stream(), val=points(20, seed=1), batch_size=10))

    swa = SWA(start=2, every=2, batches=2)
    lehr.train(made(swa), run_dir=tmp_path / "with")
    lehr.train(made(), run_dir=tmp_path / "without")
    own = [{k: v for k, v in r.items() if k[:4] != "swa_"} for r in exact(tmp_path / "with")]
    assert own == exact(tmp_path / "without")
    with pytest.raises(SettingError, match=r"Uncopied has a state, and cannot be copied \(it holds a file\)"):
        lehr.train(made(swa, stream=Uncopied), run_dir=tmp_path / "uncopied")


def test_a_user_s_dataloader_and_another_size_for_validation(tmp_path: Path) -> None:
    train = DataLoader(TensorDataset(*points()), batch_size=8)
    given = lehr.Data(train=train, val=points(20, seed=1), val_batch_size=20)
    assert lehr.train(averaging(SWA(), data=given), run_dir=tmp_path / "run").metrics["swa_loss"] > 0


def test_a_model_without_batch_norm_reads_nothing() -> None:
    def never(limit: int | None) -> Any:
        raise AssertionError

    model = nn.Linear(2, 2)
    method = SWA(start=1, every=1).build(RunContext(model=model, run=RunLength(4), batches=never))
    method.step_end(model, Place(1, 0, 4))
    with method.put_in():
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 101}, r"take the first weights at step 101, but the run ends at 100; start earlier, such as '75%'"),
        ({"start": "95%", "every": 60}, "take the first weights at step 120, but the run ends at 100"),
        ({"every": 0}, "every=0 steps is never and always; give 1 or more"),
    ],
)
def test_a_start_after_the_end_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        SWA(**settings).build(RunContext(model=nn.Linear(1, 1), run=RunLength(100)))


def test_cycles_are_counted_from_the_run_s_beginning() -> None:
    """So that ends of cycles are hit, whatever the start is rounded to."""
    model = nn.Linear(1, 1)
    method = SWA(start="70%", every="25%").build(RunContext(model=model, run=RunLength(40)))
    taken = []
    for step in range(1, 41):
        before = method.state_dict()["average"]["taken"]
        method.step_end(model, Place(step, 0, 40))
        taken += [step] * (method.state_dict()["average"]["taken"] - before)
    assert taken == [30, 40]
    each = SWA(start="0%", every="1%").build(RunContext(model=model, run=RunLength(10)))
    for step in range(1, 11):
        each.step_end(model, Place(step, 0, 10))
    assert each.state_dict()["average"]["taken"] == 10, "1% of ten steps is each of them"


def test_one_bad_sample_spoils_no_statistics(tmp_path: Path) -> None:
    x, y = points()
    x[9] = float("inf")
    made = averaging(
        SWA(start=5, every=5), data=lehr.Data(train=(x, y), val=points(20, seed=1), batch_size=8), nonfinite="skip"
    )
    with pytest.warns(
        LehrWarning, match="1 of 6 batches .* left out of the statistics of batch norm under swa"
    ) as said:
        result = lehr.train(made, run_dir=tmp_path / "run")
    assert math.isfinite(result.metrics["swa_loss"])
    assert sum("left out of the statistics" in str(w.message) for w in said) == 1, "said once"


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(list(zip(*points(), strict=True)))


@pytest.mark.parametrize("stream", [Uncopied, Stream])
def test_batches_that_cannot_be_read_are_refused_before_the_run(stream: Any) -> None:
    model = Mlp()
    context = RunContext(
        model=model,
        run=RunLength(100),
        optimizers=[torch.optim.SGD(model.parameters())],
        batches=training_batches(stream(), lehr.Data(train=stream(), batch_size=4), seed=0, shard=Shard(0, 2)),
    )
    with pytest.raises(SettingError, match=r"batch norm under averaged weights") as refused:
        SWA().build(context)
    assert "validat" not in str(refused.value)
    SWA().build(dataclasses.replace(context, model=nn.Linear(1, 1)))  # which has no batch norm
    SWA().build(dataclasses.replace(context, optimizers=()))  # a run that is only opened, perhaps without its data


def test_statistics_are_made_under_the_autocast_of_the_run() -> None:
    seen = []
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model[0].register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    batch = torch.randn(4, 2), torch.zeros(4, dtype=torch.long)
    context = RunContext(
        model=model,
        run=RunLength(4),
        objective=Supervised(loss=cross_entropy),
        batches=lambda limit: [batch],
        autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    )
    method = SWA(start=1, every=1).build(context)
    method.step_end(model, Place(1, 0, 4))
    with method.put_in():
        pass
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("settings", [EMA(), SWA(), ProximalL1()])
def test_beside_an_optimizer_with_an_average_of_its_own_they_are_refused(settings: Any) -> None:
    model = nn.Linear(2, 2)
    context = RunContext(model=model, run=RunLength(100), optimizers=ScheduleFreeAdamW().build(model))
    with pytest.raises(SettingError, match=r"ScheduleFreeOptimizer evaluates an average of its own, .*; (leave|use)"):
        settings.build(context)
