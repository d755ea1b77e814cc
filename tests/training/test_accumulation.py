"""Cutting a batch into microbatches, or over processes, does not change the update: ragged, masked or left over."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import Mlp, Tagger, points, recipe, records, weights
from torch import Tensor, nn

import lehr
from lehr.base.durations import RunLength
from lehr.base.errors import LehrWarning, RunError, SettingError
from lehr.losses import Supervised, cross_entropy
from lehr.run.recipe import Recipe

PAD = -1


def ragged(n: int = 16, length: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sequences of very different lengths: padding is `PAD` in the target."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 7, (n, length), generator=generator)
    target = torch.randint(0, 5, (n, length), generator=generator)
    lengths = torch.randint(1, length + 1, (n,), generator=generator)
    target[torch.arange(length)[None] >= lengths[:, None]] = PAD
    return ids, target


def tagging(accumulate: int, **changes: Any) -> Recipe:
    return recipe(
        model=Tagger,
        data=lehr.Data(train=ragged(), batch_size=16),
        objective=Supervised(loss=functools.partial(cross_entropy, ignore=PAD), unit="token"),
        metrics=(),
        schedule="constant",
        accumulate=accumulate,
        clip=None,
        steps=1,
        **changes,
    )


def gradients(trainer: lehr.Trainer) -> dict[str, Tensor]:
    """Return the gradients that the optimizer sees in the first step."""
    seen: dict[str, Tensor] = {}
    update = trainer.loop.update
    real = update.update

    def look(*given: Any) -> None:
        for name, parameter in trainer.model.named_parameters():
            assert parameter.grad is not None
            seen[name] = parameter.grad.clone()
        real(*given)

    update.update = look  # type: ignore[method-assign]
    trainer.fit()
    return seen


def plain_gradients() -> dict[str, Tensor]:
    """The mean over all tokens that count, by torch alone."""
    from lehr.base import seeds

    with seeds.seeded(0, "init"):
        model = Tagger()
    ids, target = ragged()
    F.cross_entropy(model(ids).flatten(0, 1), target.flatten(), ignore_index=PAD).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("accumulate", [1, 2, 3, 5, 16])
def test_ragged_token_batches_give_the_gradient_of_the_whole_batch(tmp_path: Path, accumulate: int) -> None:
    found = gradients(lehr.Trainer(tagging(accumulate), run_dir=tmp_path / "run"))
    for name, expected in plain_gradients().items():
        assert torch.allclose(found[name], expected, rtol=0, atol=1e-10), name


@pytest.mark.parametrize("clip", [None, 0.05])
def test_many_steps_agree_however_the_batch_is_cut(tmp_path: Path, clip: float | None) -> None:
    """7 samples in batches of 3 leave one over; every one of them is trained on, and weighs the same."""
    ends = []
    for accumulate in (1, 2, 3):
        made = tagging(accumulate).model_copy(
            update={"data": lehr.Data(train=ragged(7), batch_size=3), "steps": 9, "clip": clip}
        )
        trainer = lehr.Trainer(made, run_dir=tmp_path / f"run{accumulate}")
        result = trainer.fit()
        assert result.step == 9
        assert trainer.loop.clock.samples == 3 * 7
        ends.append(weights(trainer.model))
    for other in ends[1:]:
        assert all(torch.allclose(ends[0][n], other[n], rtol=0, atol=1e-10) for n in other)


def test_fewer_samples_than_microbatches_in_the_last_batch(tmp_path: Path) -> None:
    made = recipe(data=lehr.Data(train=points(9), batch_size=4), accumulate=4, model=lambda: nn.Linear(4, 3), steps=3)
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    trainer.fit()
    assert (trainer.loop.clock.samples, trainer.loop.clock.microsteps) == (9, 4 + 4 + 1)


def test_more_microbatches_than_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"accumulate=9 cuts a batch of 8 samples.*use 1 to 8"):
        lehr.Trainer(recipe(accumulate=9), run_dir=tmp_path / "run")


def test_records_give_the_mean_over_what_counts(tmp_path: Path) -> None:
    made = tagging(4).model_copy(update={"optim": lehr.optim.AdamW(lr=1e-12)})
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    trainer.fit()
    ids, target = ragged()
    expected = F.cross_entropy(trainer.model(ids).flatten(0, 1), target.flatten(), ignore_index=PAD)
    (record,) = [r for r in records(tmp_path / "run") if r["split"] == "train"]
    assert record["loss"] == pytest.approx(expected.item(), abs=1e-9)
    assert record["tokens"] == int((target != PAD).sum())


def test_a_loss_that_gives_a_mean_is_warned_of_once(tmp_path: Path) -> None:
    def mean(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    with pytest.warns(LehrWarning, match="does not say how many things it counted") as caught:
        lehr.Trainer(recipe(objective=mean, accumulate=2), run_dir=tmp_path / "run").fit()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lehr.Trainer(recipe(objective=nn.CrossEntropyLoss(), accumulate=2), run_dir=tmp_path / "other").fit()


def masked(empty: int, n: int = 16) -> tuple[Tensor, Tensor]:
    ids, target = ragged(n)
    target[:empty] = PAD
    return ids, target


def test_microbatches_without_a_target_add_nothing(tmp_path: Path) -> None:
    data = lehr.Data(train=masked(8), batch_size=16, shuffle=False)
    ends = []
    for accumulate in (1, 4):
        trainer = lehr.Trainer(
            tagging(accumulate).model_copy(update={"data": data, "steps": 3}), run_dir=tmp_path / f"{accumulate}"
        )
        trainer.fit()
        ends.append(weights(trainer.model))
        assert trainer.loop.clock.empty == 0
    assert all(torch.allclose(ends[0][n], ends[1][n], rtol=0, atol=1e-10) for n in ends[0])


def test_a_batch_without_any_target_is_skipped_counted_and_warned_of_once(tmp_path: Path) -> None:
    data = lehr.Data(train=masked(8), batch_size=4, shuffle=False)  # the first two of four batches are empty
    made = tagging(2).model_copy(update={"data": data, "steps": 6})
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    with pytest.warns(LehrWarning, match="nothing that counts") as caught:
        trainer.fit()
    assert len(caught) == 1
    clock = trainer.loop.clock
    assert (clock.step, clock.empty, clock.samples) == (6, 6, 24)
    assert all(bool(torch.isfinite(value).all()) for value in weights(trainer.model).values())
    withheld = [r for r in records(tmp_path / "run") if "withheld" in r]
    assert [r["withheld"] for r in withheld] == ["empty"] * 6


def test_data_without_any_target_at_all_ends_the_run(tmp_path: Path) -> None:
    made = tagging(1).model_copy(update={"data": lehr.Data(train=masked(16), batch_size=4), "max_skipped": 5})
    with (
        pytest.warns(LehrWarning, match="nothing that counts"),
        pytest.raises(RunError, match=r"6 updates in a row.*empty"),
    ):
        lehr.Trainer(made, run_dir=tmp_path / "run").fit()


def test_the_rate_at_a_step_does_not_depend_on_the_cutting(tmp_path: Path) -> None:
    curves = []
    for accumulate, size in ((1, 8), (4, 8), (2, 4)):
        made = recipe(
            accumulate=accumulate, data=lehr.Data(train=points(), batch_size=size), track=lehr.run.recipe.Track(every=1)
        )
        lehr.Trainer(made, run_dir=tmp_path / f"{accumulate}-{size}").fit()
        curves.append([r["lr"] for r in records(tmp_path / f"{accumulate}-{size}") if r["split"] == "train"])
    assert curves[0] == curves[1] == curves[2]
    schedule = recipe().schedule.resolve(RunLength(15))
    assert curves[0] == [0.01 * schedule(step) for step in range(15)]


def test_the_time_line_of_ordinary_and_accumulated_updates(tmp_path: Path) -> None:
    """f: a forward pass of so many samples, U: an update, which is when the clock moves; as in the card's drawing."""
    drawn = {}
    for accumulate in (1, 4):
        events: list[str] = []

        def noted(model: nn.Module, batch: Any, events: list[str] = events) -> tuple[Tensor, int]:
            events.append(f"f{len(batch[0])}")
            return model(batch[0]).square().sum(), len(batch[0])

        size = 2 * accumulate
        made = recipe(
            model=lambda: nn.Linear(4, 3),
            data=lehr.Data(train=points(32), batch_size=size, shuffle=False),
            objective=noted,
            metrics=(),
            accumulate=accumulate,
            steps=16 // size,
        )
        trainer = lehr.Trainer(made, run_dir=tmp_path / f"{accumulate}")
        (step,) = trainer.loop.update.steps
        trainer.loop.update.steps = [lambda e=events, s=step: (e.append("U"), s())]  # type: ignore[misc]
        events.clear()  # of what was tried before the run
        clock, ticks = trainer.loop.clock, []
        for batch in trainer.batches():
            trainer.step(batch)
            ticks.append((clock.step, clock.microsteps, len(events)))
        drawn[accumulate] = " ".join(events)
        passes = accumulate + 1
        assert ticks == [(k, k * accumulate, k * passes) for k in range(1, 16 // size + 1)]
    assert drawn == {1: " ".join(["f2 U"] * 8), 4: " ".join(["f2 f2 f2 f2 U"] * 2)}


def test_dropout_and_batch_norm_run_per_microbatch(tmp_path: Path) -> None:
    trainer = lehr.Trainer(recipe(accumulate=2, model=Mlp, steps=3), run_dir=tmp_path / "run")
    trainer.fit()
    assert int(trainer.model.norm.num_batches_tracked) == 6


def guides_loop(weight: nn.Parameter, batches: list[Tensor], steps: int, epochs: int = 1) -> list[float]:
    """The guide's loop on the loss ``mean(weight * x)``; returns the gradient of each update."""
    taken = []
    optimizer = torch.optim.SGD([weight], lr=0.0)
    optimizer.zero_grad()
    for _ in range(epochs):
        for place, x in enumerate(batches):
            ((weight * x).mean() / steps).backward()
            if (place + 1) % steps == 0:
                assert weight.grad is not None
                taken.append(round(float(weight.grad), 6))
                optimizer.step()
                optimizer.zero_grad()
    return taken


def mean_of_inputs(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
    """Its gradient is the mean of the inputs, whatever the weight."""
    return model(batch[0]).sum(), len(batch[0])


def our_gradients(tmp_path: Path, x: Tensor, batch_size: int, accumulate: int, epochs: int = 1) -> list[float]:
    made = recipe(
        model=lambda: nn.Linear(1, 1, bias=False).double(),
        data=lehr.Data(train=(x[:, None],), batch_size=batch_size, shuffle=False),
        objective=mean_of_inputs,
        schedule="constant",
        metrics=(),
        clip=None,
        accumulate=accumulate,
        steps=None,
        epochs=epochs,
    )
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    steps, taken = trainer.loop.update.steps, list[float]()

    def look() -> None:
        taken.append(round(float(trainer.model.weight.grad), 6))
        for step in steps:
            step()

    trainer.loop.update.steps = [look]
    trainer.fit()
    assert trainer.loop.clock.samples == epochs * len(x)
    return taken


def test_150_microbatches_by_8_leave_nothing_over(tmp_path: Path) -> None:
    """The guide's loop makes 18 updates of them and leaves 6 behind, which the next epoch's first update has as well.

    Each sample's gradient is 1, so that every update's should be 1.
    """
    x = torch.ones(600, dtype=torch.float64)
    weight = nn.Parameter(torch.ones((), dtype=torch.float64))
    assert guides_loop(weight, list(x.split(4)), steps=8) == [1.0] * 18
    assert weight.grad is not None and float(weight.grad) == 6 / 8  # of 24 samples, neither applied nor cleared
    weight.grad = None
    two = guides_loop(weight, list(x.split(4)), steps=8, epochs=2)
    assert two[18] == 14 / 8 and two[:18] + two[19:] == [1.0] * 35
    assert our_gradients(tmp_path, x, batch_size=32, accumulate=8, epochs=2) == [1.0] * 38  # 19 an epoch


def test_a_short_microbatch_weighs_by_its_samples(tmp_path: Path) -> None:
    """9 samples in pieces of 4, 4 and 1, of which only the last has a gradient, of 9: the mean is 1, the guide's 3."""
    x = torch.tensor([0.0] * 8 + [9.0], dtype=torch.float64)
    assert guides_loop(nn.Parameter(torch.ones((), dtype=torch.float64)), list(x.split(4)), steps=3) == [3.0]
    assert our_gradients(tmp_path, x, batch_size=9, accumulate=3) == [1.0]


@pytest.mark.parametrize(("microbatch", "accumulate", "whole"), [(8, 4, 32), (32, 4, 128), (4, 8, 32)])
def test_the_guides_three_sizes(tmp_path: Path, microbatch: int, accumulate: int, whole: int) -> None:
    """Here `batch_size` is that of the update, and `accumulate` cuts it."""
    x = torch.arange(float(whole), dtype=torch.float64)
    assert microbatch * accumulate == whole
    assert our_gradients(tmp_path, x, batch_size=whole, accumulate=accumulate) == [(whole - 1) / 2]
