"""Mixup and CutMix in a run: what is trained on, what the loss takes, what is refused and when."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import exact, points, recipe, records
from torch import Tensor, nn

import lehr
from lehr.augment import cutmix, mixup
from lehr.base import seeds
from lehr.base.durations import RunLength
from lehr.base.errors import DataError, LehrError, SettingError
from lehr.base.protocols import Batch, Method, Place, RunContext
from lehr.losses import Supervised, cross_entropy, focal_loss, label_smoothing, mse, z_loss
from lehr.run.recipe import Recipe
from lehr.training.methods import CutMix, L1Penalty, Mixup


class Seen(Method):
    changes = frozenset({"batch"})

    def __init__(self) -> None:
        self.batches: dict[int, Batch] = {}

    def batch_ready(self, batch: Batch, place: Place) -> Batch:
        self.batches[place.step] = batch
        return batch


def context(**given: Any) -> RunContext:
    return RunContext(model=nn.Linear(1, 1), run=RunLength(10), **given)


def batch(n: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, 8, 8, generator=g), torch.arange(n) % 4


def test_a_batch_is_mixed_by_the_address_of_its_step() -> None:
    x, y = batch()
    for name, settings, mix, alpha in (("mixup", Mixup, mixup, 0.2), ("cutmix", CutMix, cutmix, 1.0)):
        method = settings().build(context(facts={"num_classes": 4}, seed=3, rank=2))
        for step in (0, 7, 0):
            found = method.batch_ready((x, y), Place(step, 0, 10))
            generator = seeds.generator(3, name, 2, step)
            torch.rand((), generator=generator)  # whether to mix at all
            expected = mix(x, y, alpha=alpha, generator=generator, num_classes=4)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_ranks_steps_and_seeds_have_draws_of_their_own() -> None:
    x, y = batch()
    seen = []
    for seed, rank, step in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
        method = Mixup(alpha=1.0).build(context(facts={"num_classes": 4}, seed=seed, rank=rank))
        seen.append(method.batch_ready((x, y), Place(step, 0, 10))[0])
    assert all(not torch.equal(seen[i], seen[j]) for i in range(4) for j in range(i))


def test_a_share_of_the_batches_is_mixed() -> None:
    x, y = batch()
    method = Mixup(probability=0.3, classes=4).build(context())
    mixed = [method.batch_ready((x, y), Place(step, 0, 10))[1].is_floating_point() for step in range(400)]
    assert 0.23 < sum(mixed) / 400 < 0.37


def mixing(*methods: Any, **changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "methods": methods,
        "data": lehr.Data(train=points(), val=points(20, seed=1), batch_size=8),
    }
    return recipe(**fields | changes)


def test_training_is_on_mixtures_and_evaluation_on_the_data(tmp_path: Path) -> None:
    raw, mixed = Seen(), Seen()
    made = mixing(raw, Mixup(alpha=1.0, classes=3), mixed, steps=12, accumulate=2)
    result = lehr.train(made, run_dir=tmp_path / "run")
    assert sorted(mixed.batches) == list(range(12))
    for step in range(12):
        (x, y), (soft_x, q) = raw.batches[step], mixed.batches[step]
        assert x.shape == soft_x.shape and q.shape == (len(y), 3)
        assert torch.allclose(q.sum(dim=1), torch.ones(len(y)))
    x, y = points(20, seed=1)
    assert result.model is not None
    assert result.val_loss == pytest.approx(F.cross_entropy(result.model.eval()(x), y).item(), rel=1e-5)


@pytest.mark.parametrize("loss", [cross_entropy, label_smoothing, focal_loss, z_loss, F.cross_entropy])
def test_every_loss_over_classes_takes_mixtures(tmp_path: Path, loss: Any) -> None:
    made = mixing("mixup", steps=4, objective=Supervised(loss=loss))
    made = lehr.base.settings.override(made, ["methods.mixup.classes=3"])
    result = lehr.train(made, run_dir=tmp_path / "run")
    assert all(torch.isfinite(torch.tensor(r["loss"])) for r in records(tmp_path / "run"))
    assert result.step == 4


def test_both_one_after_the_other_and_a_last_batch_of_one_sample(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(17, 3, 8, 8, generator=g), torch.arange(17) % 4
    made = recipe(
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)),
        data=lehr.Data(train=(x, y), batch_size=8),
        methods=(Mixup(classes=4), CutMix(classes=4)),
        metrics=(),
        epochs=2,
        steps=None,
    )
    assert lehr.train(made, run_dir=tmp_path / "run").step == 6


def test_a_bf16_model_and_a_double_one_are_trained_on_mixtures(tmp_path: Path) -> None:
    x, y = points()
    made = mixing(
        Mixup(classes=3),
        model=lambda: nn.Linear(4, 3).double(),
        data=lehr.Data(train=(x.double(), y), batch_size=8),
        objective=nn.CrossEntropyLoss(),
        metrics=(),
        steps=3,
    )
    assert lehr.train(made, run_dir=tmp_path / "double").step == 3


def test_the_picture_of_the_guide_in_a_loss() -> None:
    """0.7 cat and 0.3 dog: the loss with [0.7, 0.3] is 0.7 of the one loss and 0.3 of the other."""
    logits = torch.tensor([[1.0, -0.5]])
    both = 0.7 * F.cross_entropy(logits, torch.tensor([0])) + 0.3 * F.cross_entropy(logits, torch.tensor([1]))
    total, count = cross_entropy(logits, torch.tensor([[0.7, 0.3]]))
    assert total / count == pytest.approx(both.item(), rel=1e-6)


def test_the_number_of_classes_has_to_be_known_and_is_not_contradicted() -> None:
    with pytest.raises(SettingError, match=r"cutmix needs the number of classes.*give methods\.cutmix\.classes"):
        CutMix().build(context())
    with pytest.raises(SettingError, match="classes=5, but the data has 4; leave classes out"):
        Mixup(classes=5).build(context(facts={"num_classes": 4}))
    assert Mixup(classes=4).build(context(facts={"num_classes": 4}))


@pytest.mark.parametrize("loss", [mse, F.nll_loss, nn.NLLLoss(), nn.L1Loss(), functools.partial(F.nll_loss)])
def test_a_loss_that_takes_no_probabilities_is_refused_before_anything_runs(tmp_path: Path, loss: Any) -> None:
    with pytest.raises(SettingError, match="mixup makes targets of probabilities over classes, which this loss does"):
        Mixup(classes=3).build(context(objective=Supervised(loss=loss)))


def test_batches_that_are_no_pairs_are_refused() -> None:
    method = Mixup(classes=3).build(context())
    for wrong, shown in (
        (torch.zeros(3), "a Tensor"),
        ({"x": torch.zeros(3)}, "a dict"),
        ((torch.zeros(3), torch.zeros(3), torch.zeros(3)), "a tuple of Tensor, Tensor, Tensor"),
        ([torch.zeros(3), [1, 2, 3]], "a list of Tensor, list"),
    ):
        with pytest.raises(SettingError, match=f"mixup needs batches .input, label. of two tensors, .*gives {shown};"):
            method.batch_ready(wrong, Place(0, 0, 10))


def test_token_ids_end_the_run_with_the_reason(tmp_path: Path) -> None:
    made = mixing(
        Mixup(classes=3),
        model=lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3)),
        data=lehr.Data(train=(torch.randint(9, (12, 2)), torch.arange(12) % 3), batch_size=4),
        metrics=(),
        steps=3,
    )
    with pytest.raises(DataError, match="a mean of token ids is another token"):
        lehr.train(made, run_dir=tmp_path / "run")


def test_switched_off_again_everything_is_as_it_was(tmp_path: Path) -> None:
    lehr.train(mixing(Mixup(probability=1e-9, classes=3)), run_dir=tmp_path / "never")
    lehr.train(mixing(), run_dir=tmp_path / "without")
    assert exact(tmp_path / "never") == exact(tmp_path / "without")


def ids() -> tuple[Tensor, Tensor]:
    return torch.randint(9, (12, 2)), torch.arange(12) % 3


@pytest.mark.parametrize(
    "loss",
    [
        functools.partial(cross_entropy, ignore=-1),
        nn.CrossEntropyLoss(ignore_index=0),
        functools.partial(F.cross_entropy, ignore_index=0),
    ],
)
def test_a_loss_that_leaves_labels_out_is_refused(loss: Any) -> None:
    with pytest.raises(SettingError, match=r"mixup: this loss ignores the label (-1|0), which a mixture does not have"):
        Mixup(classes=3).build(context(objective=Supervised(loss=loss)))


def dicts(model: nn.Module, batch: Any) -> Any:
    return cross_entropy(model(batch["x"]), batch["y"])


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        (
            Mixup(classes=4),
            {},
            r"the first batch with mixup: the model gives scores of shape \(8, 3\), but the targets",
        ),
        (Mixup(classes=2), {}, r"the first batch with mixup: labels must be 0 to 1, since there are 2 classes"),
        (CutMix(classes=3), {}, r"the first batch with cutmix: cutmix needs pictures \(B, C, H, W\)"),
        (
            Mixup(classes=3),
            {
                "model": lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3)),
                "data": lehr.Data(train=ids(), batch_size=4),
            },
            "the first batch with mixup: mixup needs inputs that can be added up",
        ),
        (
            Mixup(classes=3),
            {
                "data": lehr.Data(train=[{"x": x, "y": y} for x, y in zip(*points(), strict=True)], batch_size=4),
                "objective": dicts,
            },
            r"mixup needs batches \(input, label\) of two tensors, but the data gives a dict",
        ),
    ],
)
def test_the_first_batch_is_mixed_before_the_run_whatever_the_probability(
    tmp_path: Path, method: Any, changes: dict[str, Any], message: str
) -> None:
    rare = method.model_copy(update={"probability": 1e-9})
    with pytest.raises(LehrError, match=message):
        lehr.Trainer(mixing(rare, metrics=(), **changes), run_dir=tmp_path / "run")


@pytest.mark.parametrize("method", [Mixup(classes=3), L1Penalty()])
def test_a_loss_with_more_in_it_has_no_perplexity_in_training(tmp_path: Path, method: Any) -> None:
    lehr.train(mixing(method, metrics=("perplexity",), steps=4, track={"every": 2}), run_dir=tmp_path / "run")
    found = records(tmp_path / "run")
    assert {r["split"] for r in found} == {"train", "val"}
    assert all(("perplexity" in r) == (r["split"] == "val") for r in found)
