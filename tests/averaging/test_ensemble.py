"""Combined predictions beside formulas in float64: probabilities or logits, weights that are normalized, votes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lehr.averaging import Ensemble, combine, shares_of
from lehr.base.errors import DataError, SettingError
from lehr.losses import cross_entropy


def logits(members: int, rows: int = 7, classes: int = 4, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(rows, classes, generator=g, dtype=torch.float64) for _ in range(members)]


WEIGHTS = st.lists(st.floats(0.01, 10), min_size=3, max_size=3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), WEIGHTS)
def test_the_mean_is_of_probabilities_with_normalized_weights(seed: int, weights: list[float]) -> None:
    given_ = logits(3, seed=seed)
    w = [v / sum(weights) for v in weights]
    expected = sum(v * torch.softmax(z, dim=-1) for v, z in zip(w, given_, strict=True))
    found = combine(given_, weights=weights).exp()
    assert torch.allclose(found, expected, atol=1e-12)
    assert torch.allclose(found.sum(dim=-1), torch.ones(7, dtype=torch.float64))
    scaled = combine(given_, weights=[5 * v for v in weights]).exp()
    assert torch.allclose(found, scaled, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), WEIGHTS)
def test_the_mean_of_logits_is_another_one(seed: int, weights: list[float]) -> None:
    given_ = logits(3, seed=seed)
    w = [v / sum(weights) for v in weights]
    summed = sum(v * z for v, z in zip(w, given_, strict=True))
    assert torch.allclose(combine(given_, "logits", weights=weights), summed - summed.logsumexp(-1, keepdim=True))
    # the geometric mean of the probabilities, made to sum to 1
    product = torch.stack([torch.softmax(z, -1) ** v for v, z in zip(w, given_, strict=True)]).prod(dim=0)
    assert torch.allclose(
        combine(given_, "logits", weights=weights).exp(), product / product.sum(-1, keepdim=True), atol=1e-12
    )


def test_by_hand_where_both_means_and_the_vote_disagree() -> None:
    """0.9, 0.45 and 0.3 for class 0: the means choose it, and two of three vote against it."""
    given_ = [torch.tensor([p, 1 - p], dtype=torch.float64).log() for p in (0.9, 0.45, 0.3)]
    assert combine(given_).exp()[0].item() == pytest.approx(0.55)
    geometric = [(0.9 * 0.45 * 0.3) ** (1 / 3), (0.1 * 0.55 * 0.7) ** (1 / 3)]
    assert combine(given_, "logits").exp()[0].item() == pytest.approx(geometric[0] / sum(geometric))
    assert combine(given_, "vote").exp().tolist() == pytest.approx([1 / 3, 2 / 3])
    assert combine(given_, "vote", weights=[0.6, 0.2, 0.2]).exp().tolist() == pytest.approx([0.6, 0.4])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99))
def test_votes_are_the_mode_where_there_is_one(seed: int) -> None:
    given_ = logits(5, seed=seed)
    votes = combine(given_, "vote")
    for row in range(7):
        counts = [sum(int(z[row].argmax()) == k for z in given_) for k in range(4)]
        assert votes[row].exp().tolist() == pytest.approx([n / 5 for n in counts], abs=1e-6)
        best = [k for k in range(4) if counts[k] == max(counts)]
        mean = [sum(torch.softmax(z[row], -1)[k].item() for z in given_) for k in range(4)]
        assert votes[row].argmax().item() == max(best, key=lambda k: mean[k])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tie_is_decided_by_the_mean_probability(dtype: torch.dtype) -> None:
    one, other = torch.tensor([0.2, 0.0, 0.7, 0.1]), torch.tensor([0.8, 0.1, 0.05, 0.05])
    given_ = [one.to(dtype).log(), other.to(dtype).log()]
    assert combine(given_, "vote").argmax() == 0, "a vote each for 2 and 0, of which 0 has the larger mean"
    assert combine(given_, "vote").exp().tolist() == pytest.approx([0.5, 0, 0.5, 0], abs=1e-6)
    many = [torch.eye(9, dtype=dtype)[k] * (2 if k == 5 else 1) for k in range(9)]
    assert combine(many, "vote").argmax() == 5
    # 0.1 + 0.2 and 0.3 are one share, although not one number
    a, b = torch.tensor([4.0, 0.0], dtype=dtype), torch.tensor([0.0, 1.0], dtype=dtype)
    assert combine([b, b, a], "vote", weights=[0.1, 0.2, 0.3]).argmax() == 0
    assert combine([a, a, 9 * b], "vote", weights=[0.1, 0.2, 0.3]).argmax() == 1


def test_yes_or_no_decisions_are_two_classes() -> None:
    g = torch.Generator().manual_seed(0)
    given_ = [2 * torch.randn(6, generator=g, dtype=torch.float64) for _ in range(3)]
    mean = torch.stack([z.sigmoid() for z in given_]).mean(dim=0)
    assert torch.allclose(combine(given_, dim=None).sigmoid(), mean)
    assert torch.allclose(combine(given_, "logits", dim=None), torch.stack(given_).mean(dim=0))
    votes = torch.stack([z > 0 for z in given_]).double().mean(dim=0)
    assert torch.allclose(combine(given_, "vote", dim=None).sigmoid(), votes, atol=1e-6)
    assert torch.equal(combine(given_, "vote", dim=None) > 0, votes > 0.5)


def test_numbers_have_a_mean() -> None:
    given_ = logits(2)
    assert torch.allclose(combine(given_, "outputs", weights=[0.7, 0.3]), 0.7 * given_[0] + 0.3 * given_[1])
    assert torch.allclose(combine(given_, "outputs", dim=None), (given_[0] + given_[1]) / 2)


@pytest.mark.parametrize("how", ["mean", "logits", "vote"])
def test_classes_may_be_in_another_dimension(how: str) -> None:
    given_ = [z.view(7, 2, 2) for z in logits(3)]
    last = combine(given_, how, dim=-1)
    assert torch.equal(combine([z.movedim(-1, 1) for z in given_], how, dim=1), last.movedim(-1, 1))


def test_the_loss_of_what_is_combined_is_that_of_its_probabilities() -> None:
    given_, y = logits(3), torch.arange(7) % 4
    probabilities = torch.stack([z.softmax(-1) for z in given_]).mean(dim=0)
    total, count = cross_entropy(combine(given_), y)
    assert torch.isclose(total / count, F.nll_loss(probabilities.log(), y))


def test_many_classes_of_which_none_is_likely_do_not_underflow() -> None:
    far = torch.full((1, 3), -200.0)
    far[0, 0] = 0.0
    assert combine([far, far])[0, 1].item() == pytest.approx(-200, abs=1e-3)
    half = combine([far.bfloat16(), far.bfloat16()])
    assert half.dtype == torch.float32 and bool(half.isfinite().all())


def test_an_ensemble_is_a_model() -> None:
    models = [nn.Linear(3, 4) for _ in range(3)]
    ensemble, x = Ensemble(models, weights=[1, 2, 1]), torch.randn(5, 3)
    expected = sum(w * m(x).softmax(-1) for w, m in zip((0.25, 0.5, 0.25), models, strict=True))
    assert torch.allclose(ensemble(x).exp(), expected, atol=1e-6)
    assert len(list(ensemble.parameters())) == 6
    assert not any(m.training for m in ensemble.eval().modules())
    alone = Ensemble(models, weights=[0, 1, 0])(x)
    assert torch.allclose(alone, models[1](x).log_softmax(-1), atol=1e-6), "a member may have no share"


def test_weights_that_make_no_sense_are_refused() -> None:
    assert shares_of(4) == [0.25] * 4
    with pytest.raises(SettingError, match="3 weights were given for 2 members; give one for each"):
        shares_of(2, [1, 2, 3])
    for wrong in ([0, 0], [1, -1], [2, -1], [math.nan, 1], [math.inf, 1]):
        with pytest.raises(SettingError, match="must be 0 or more, and not all of them 0"):
            shares_of(2, wrong)
    with pytest.raises(DataError, match=r"one shape, but they have \[\(2, 3\), \(2, 4\)\]; do all know"):
        combine([torch.zeros(2, 3), torch.zeros(2, 4)])
    with pytest.raises(DataError, match="one shape"):
        combine([])
