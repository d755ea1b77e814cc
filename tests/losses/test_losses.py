"""Sums and counts against torch's means, in float64, with masks and weights; and what is wrong with a batch."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lehr.base.errors import SettingError
from lehr.losses import Supervised, as_objective, cross_entropy
from lehr.losses.objective import check_sum_and_count, sum_and_count

torch.manual_seed(0)
LOGITS = torch.randn(12, 5, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 3, 4, -100, 0, 1, -100, 3, 4, 0])
KEPT = LABELS.clamp(min=0)
WEIGHT = torch.tensor([0.5, 1.0, 2.0, 1.5, 3.0], dtype=torch.float64)


def mean(pair: tuple) -> float:
    total, count = pair
    return float(total) / float(count)


def test_worked_by_hand() -> None:
    """Spec section 2.5: the truth at probability 0.7 costs -ln 0.7 = 0.357."""
    total, count = cross_entropy(torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([0]))
    assert float(total) == pytest.approx(0.357, abs=5e-4)
    assert count == 1


def test_cross_entropy_is_torchs_mean() -> None:
    assert mean(cross_entropy(LOGITS, KEPT)) == pytest.approx(float(F.cross_entropy(LOGITS, KEPT)), abs=1e-12)
    expected = F.cross_entropy(LOGITS, LABELS)
    assert mean(cross_entropy(LOGITS, LABELS, ignore=-100)) == pytest.approx(float(expected), abs=1e-12)


def test_cross_entropy_of_sequences_has_classes_last() -> None:
    logits, labels = LOGITS.reshape(3, 4, 5), KEPT.reshape(3, 4)
    assert mean(cross_entropy(logits, labels)) == pytest.approx(float(F.cross_entropy(LOGITS, KEPT)), abs=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=WEIGHT),
        nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=3),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        F.cross_entropy,
    ],
    ids=["plain", "weights", "weights and ignored", "smoothed", "function"],
)
def test_torchs_own_cross_entropy_is_taken_apart_exactly(loss: object) -> None:
    labels = KEPT if getattr(loss, "ignore_index", -100) == 3 else LABELS
    assert mean(sum_and_count(loss, LOGITS, labels)) == pytest.approx(float(loss(LOGITS, labels)), abs=1e-12)


def test_cross_entropy_of_probabilities_and_of_pictures() -> None:
    soft = torch.softmax(torch.randn(12, 5, dtype=torch.float64), dim=1)
    loss = nn.CrossEntropyLoss()
    assert mean(sum_and_count(loss, LOGITS, soft)) == pytest.approx(float(loss(LOGITS, soft)), abs=1e-12)
    pixels, classes = LOGITS.reshape(3, 4, 5).movedim(2, 1), KEPT.reshape(3, 4)
    assert mean(sum_and_count(loss, pixels, classes)) == pytest.approx(float(loss(pixels, classes)), abs=1e-12)


@given(st.integers(1, 30), st.integers(0, 2**31))
def test_counts_ignore_what_is_masked(n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 5, (n,), generator=generator)
    logits = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    total, count = cross_entropy(logits, labels, ignore=-1)
    assert int(count) == int((labels >= 0).sum())
    by_hand = -sum(
        float(torch.log_softmax(logits[i], 0)[label]) for i, label in enumerate(labels.tolist()) if label >= 0
    )
    assert float(total) == pytest.approx(by_hand, abs=1e-9)


def test_torch_s_cross_entropy_with_settings_counts_what_it_counts() -> None:
    output, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    total, count = sum_and_count(functools.partial(F.cross_entropy, ignore_index=2, reduction="mean"), output, target)
    assert int(count) == 4
    assert float(total / count) == pytest.approx(float(F.cross_entropy(output, target, ignore_index=2)))


def test_any_mean_is_weighed_by_its_samples() -> None:
    total, count = sum_and_count(F.mse_loss, torch.ones(6, 2), torch.zeros(6, 2))
    assert (float(total), count) == (6.0, 6)


def test_a_loss_that_returns_a_pair_is_taken_at_its_word() -> None:
    total, count = sum_and_count(lambda o, t: (o.sum(), 7), torch.ones(3), torch.ones(3))
    assert (float(total), count) == (3.0, 7)


def test_what_is_an_objective_and_what_is_a_loss() -> None:
    def objective(model: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, int]:
        return model(batch).sum(), len(batch)

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - target).abs().mean()

    assert as_objective(objective) is objective
    assert isinstance(as_objective(loss), Supervised)
    assert isinstance(as_objective(nn.MSELoss()), Supervised)


def test_which_losses_count_for_themselves() -> None:
    output, target = torch.zeros(2, 3), torch.tensor([0, 1])
    for loss in (nn.CrossEntropyLoss(), functools.partial(cross_entropy, ignore=0), F.cross_entropy):
        assert Supervised(loss=loss).counts(output, target)
    assert Supervised(loss=lambda o, t: (o.sum(), len(t))).counts(output, target)
    assert not Supervised(loss=nn.MSELoss()).counts(output, output)


def test_a_sum_or_no_reduction_does_not_say_what_to_divide_by() -> None:
    with pytest.raises(SettingError, match=r"reduction='sum'.*use reduction='mean'"):
        as_objective(nn.MSELoss(reduction="sum"))
    with pytest.raises(SettingError, match="reduction='none'"):
        Supervised(loss=functools.partial(F.cross_entropy, reduction="none"))
    with pytest.raises(SettingError, match="cannot be called"):
        as_objective(3)


def test_a_loss_per_sample_is_refused() -> None:
    with pytest.raises(SettingError, match=r"returned \(3,\); a loss must return a mean"):
        sum_and_count(lambda o, t: (o - t).abs(), torch.ones(3), torch.ones(3))
    with pytest.raises(SettingError, match="returned float"):
        sum_and_count(lambda o, t: 1.0, torch.ones(3), torch.ones(3))
    with pytest.raises(SettingError, match=r"sum of shape \(2,\)"):
        check_sum_and_count((torch.ones(2), 2), "mine")
    with pytest.raises(SettingError, match="returned Tensor"):
        check_sum_and_count(torch.ones(()), "mine")


@pytest.mark.parametrize(
    "loss", [cross_entropy, F.cross_entropy, nn.CrossEntropyLoss()], ids=["ours", "function", "module"]
)
def test_labels_out_of_range_are_named_with_their_rows(loss: object) -> None:
    found = Supervised(loss=loss).problem(torch.zeros(4, 3), torch.tensor([0, 3, 2, 9]))
    assert found is not None
    assert "labels must be 0 to 2" in found[0]
    assert "found 3, 9" in found[0]
    assert found[1] == [1, 3]


def test_negative_labels_that_are_not_the_ignored_one() -> None:
    assert Supervised(loss=nn.CrossEntropyLoss()).problem(torch.zeros(2, 3), torch.tensor([-100, 0])) is None
    found = Supervised(loss=nn.CrossEntropyLoss()).problem(torch.zeros(2, 3), torch.tensor([-1, 0]))
    assert found is not None and found[1] == [0]


def test_shapes_that_would_be_stretched_are_named() -> None:
    found = Supervised(loss=F.mse_loss).problem(torch.zeros(4, 1), torch.zeros(4))
    assert found is not None and "stretch" in found[0] and "squeeze(-1)" in found[0]
    assert Supervised(loss=F.mse_loss).problem(torch.zeros(4), torch.zeros(4)) is None


def test_scores_of_the_wrong_shape_and_labels_of_the_wrong_type_are_named() -> None:
    found = Supervised(loss=cross_entropy).problem(torch.zeros(4, 2, 3), torch.zeros(4, dtype=torch.long))
    assert found is not None and "(4, 'classes')" in found[0]
    found = Supervised(loss=cross_entropy).problem(torch.zeros(4, 3), torch.zeros(4, dtype=torch.float64))
    assert found is not None and "must be integers" in found[0]


def test_negative_log_likelihood_counts_as_cross_entropy_does() -> None:
    log = torch.log_softmax(LOGITS, dim=1)
    for loss in (
        nn.NLLLoss(),
        nn.NLLLoss(weight=WEIGHT, ignore_index=3),
        F.nll_loss,
        functools.partial(F.nll_loss, weight=WEIGHT),
    ):
        labels = KEPT if getattr(loss, "ignore_index", -100) == 3 else LABELS
        assert mean(sum_and_count(loss, log, labels)) == pytest.approx(float(loss(log, labels)), abs=1e-12)
    total, count = sum_and_count(nn.NLLLoss(), log, torch.full_like(LABELS, -100))
    assert (float(total), int(count)) == (0.0, 0)


def test_divergence_by_batchmean_divides_by_the_samples() -> None:
    target = torch.softmax(torch.randn(12, 5, dtype=torch.float64), dim=1)
    for loss in (nn.KLDivLoss(reduction="batchmean"), functools.partial(F.kl_div, reduction="batchmean")):
        total, count = sum_and_count(as_objective(loss).loss, torch.log_softmax(LOGITS, dim=1), target)
        assert count == 12
        by_hand = F.kl_div(torch.log_softmax(LOGITS, dim=1), target, reduction="sum")
        assert float(total) == pytest.approx(float(by_hand))
    with pytest.raises(SettingError, match="batchmean"):
        as_objective(nn.MSELoss(reduction="batchmean"))


@pytest.mark.parametrize(
    "loss",
    [cross_entropy, F.cross_entropy, nn.CrossEntropyLoss(weight=torch.ones(3).half()), lambda o, t: o.square().mean()],
    ids=["ours", "function", "weights", "a mean"],
)
def test_sums_of_half_precision_do_not_overflow(loss: object) -> None:
    output = (torch.randn(100_000, 3) * 2).half()
    total, count = sum_and_count(loss, output, torch.zeros(100_000, dtype=torch.long))
    assert total.dtype == torch.float32
    assert 0.5 < float(total) / float(count) < 10


def test_a_list_of_tensors_has_as_many_samples_as_entries() -> None:
    """Targets of detection: 9 boxes in each of 8 pictures are 8 samples."""
    boxes = [torch.zeros(9)] * 8
    total, count = sum_and_count(lambda o, t: o.mean(), torch.ones(8, 2), boxes)
    assert (float(total), count) == (8.0, 8)
    loss = Supervised(loss=lambda o, t: o.mean())
    assert loss(nn.Identity(), (torch.ones(8, 2), boxes))[1] == 8
    assert loss(nn.Identity(), (torch.ones(8, 2), [torch.zeros(8), torch.zeros(8)]))[1] == 8  # two parts of 8 samples


@pytest.mark.parametrize(
    "loss",
    [
        nn.PoissonNLLLoss(),
        F.poisson_nll_loss,
        functools.partial(F.gaussian_nll_loss, var=1.0),
        nn.SoftMarginLoss(),
        nn.HingeEmbeddingLoss(),
        nn.KLDivLoss(reduction="batchmean"),
        nn.HuberLoss(),
        F.binary_cross_entropy,
    ],
)
def test_no_loss_of_torchs_is_stretched(loss: object) -> None:
    assert "stretch" in Supervised(loss=loss).problem(torch.zeros(4, 1), torch.zeros(4))[0]  # type: ignore[index]


def test_the_list_of_elementwise_losses_is_whole() -> None:
    """Of all losses of torch's that take (output, target), those that stretch (N, 1) over (N,) are refused."""
    for name in torch.nn.modules.loss.__all__:
        try:
            loss = getattr(nn, name)()
            loss(torch.full((4, 1), 0.5), torch.ones(4))
        except Exception:  # it takes something else, or refuses the shapes itself
            continue
        assert Supervised(loss=loss).problem(torch.zeros(4, 1), torch.zeros(4)), name
    for name in dir(F):
        try:
            if name.endswith(("loss", "entropy", "logits", "div")):
                loss = getattr(F, name)
                loss(torch.full((4, 1), 0.5), torch.ones(4))
            else:
                continue
        except Exception:
            continue
        assert Supervised(loss=loss).problem(torch.zeros(4, 1), torch.zeros(4)), name
