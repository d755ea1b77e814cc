"""Mixup and CutMix beside formulas written out in float64; their draws come from the generator that is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lehr.augment import cut_box, cutmix, mixup, mixup_pairs
from lehr.augment.draws import draw_share
from lehr.base.errors import DataError, SettingError
from lehr.losses import cross_entropy

both = pytest.mark.parametrize("mix", [mixup, cutmix])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = generator(5)
    return torch.rand(n, 3, 10, 12, generator=g, dtype=torch.float64).to(dtype), torch.randint(0, 4, (n,), generator=g)


def test_the_picture_of_the_guide() -> None:
    """0.7 of a cat, [1, 0], and 0.3 of a dog, [0, 1], are [0.7, 0.3]."""
    from lehr.augment.targets import mix_targets

    cat, dog = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert torch.allclose(mix_targets(cat, dog, 0.7, 2), torch.tensor([[0.7, 0.3]]))
    assert torch.equal(mix_targets(torch.tensor([0]), torch.tensor([1]), 0.7, 2), mix_targets(cat, dog, 0.7, 2))


def test_mixup_is_the_formula() -> None:
    x, y = pictures()
    mixed, q = mixup(x, y, alpha=0.8, generator=generator(1), num_classes=4)
    again, y_a, y_b, share = mixup_pairs(x, y, alpha=0.8, generator=generator(1))
    assert torch.equal(mixed, again) and torch.equal(y_a, y)
    assert 0.01 < share < 0.99
    # whom each sample met, found without the code's permutation
    met = [
        next(j for j in range(6) if torch.allclose(mixed[i], share * x[i] + (1 - share) * x[j], atol=1e-12))
        for i in range(6)
    ]
    assert sorted(met) == list(range(6)) and torch.equal(y[met], y_b)
    expected = torch.zeros(6, 4, dtype=torch.float64)
    for i in range(6):
        expected[i, y[i]] += share
        expected[i, y[met[i]]] += 1 - share
    assert q.dtype == torch.float64
    assert torch.allclose(q, expected, atol=1e-15)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.1, 0.2, 1.0, 5.0]))
def test_mixed_targets_and_mixed_losses_agree(seed: int, alpha: float) -> None:
    """share CE(a) + (1 - share) CE(b) is the cross entropy with the soft targets, in lehr's and in torch's."""
    logits = torch.randn(6, 4, generator=generator(seed), dtype=torch.float64)
    x, y = pictures()
    _, q = mixup(x, y, alpha=alpha, generator=generator(seed), num_classes=4)
    _, y_a, y_b, share = mixup_pairs(x, y, alpha=alpha, generator=generator(seed))
    of_pairs = share * F.cross_entropy(logits, y_a) + (1 - share) * F.cross_entropy(logits, y_b)
    total, count = cross_entropy(logits, q)
    assert torch.isclose(total / count, of_pairs, rtol=1e-12)
    assert torch.isclose(F.cross_entropy(logits, q), of_pairs, rtol=1e-12)


def test_cutmix_pastes_one_box_and_counts_its_area() -> None:
    seen = set()
    for seed in range(30):
        x, y = torch.arange(6.0)[:, None, None, None].expand(6, 3, 10, 12), torch.arange(6)
        mixed, q = cutmix(x, y, alpha=1.0, generator=generator(seed), num_classes=6)
        assert torch.equal(x[:, 0, 0, 0], torch.arange(6.0)), "the input is left as it is"
        for i in range(6):
            other = [v for v in mixed[i].unique().tolist() if v != i]
            assert len(other) <= 1
            for j in other:
                inside = (mixed[i] == j).all(dim=0)
                rows, columns = inside.any(dim=1), inside.any(dim=0)
                assert torch.equal(inside, rows[:, None] & columns[None]), "it is a box"
                assert q[i, int(j)].item() == pytest.approx(inside.double().mean().item(), abs=1e-6)
                seen.add(int(inside.sum()))
        assert torch.allclose(q.sum(dim=1), torch.ones(6))
    assert len(seen) > 10


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 100))
def test_a_box_lies_in_the_picture_and_is_not_larger_than_asked_for(h: int, w: int, share: float, seed: int) -> None:
    top, bottom, left, right = cut_box(h, w, share, generator(seed))
    assert 0 <= top <= bottom <= h and 0 <= left <= right <= w
    assert (bottom - top) * (right - left) <= (1 - share) * h * w + 1e-9


def test_boxes_have_the_formula_s_size_where_they_are_not_cut_off() -> None:
    """A share of 0.75 cuts out half of each side."""
    boxes = [cut_box(40, 80, 0.75, generator(seed)) for seed in range(300)]
    sizes = {(b - t, r - left) for t, b, left, r in boxes if t > 0 and b < 40 and left > 0 and r < 80}
    assert sizes == {(20, 40)}
    centres = torch.tensor([((t + b) / 2, (left + r) / 2) for t, b, left, r in boxes])
    assert torch.allclose(centres.mean(dim=0), torch.tensor([20.0, 40.0]), atol=2.5)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 8.0])
def test_shares_have_the_moments_of_the_beta_distribution(alpha: float) -> None:
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1)); a small alpha does not underflow."""
    g = generator()
    shares = torch.tensor([draw_share(alpha, g) for _ in range(4000)], dtype=torch.float64)
    assert bool(((shares >= 0) & (shares <= 1)).all())
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)


def test_a_tiny_alpha_gives_one_of_both_samples() -> None:
    g = generator()
    assert {draw_share(1e-6, g) for _ in range(50)} == {0.0, 1.0}


@both
def test_draws_come_from_the_generator_alone(mix: Any) -> None:
    x, y = pictures()
    before = torch.get_rng_state()
    results = [mix(x, y, alpha=1.0, generator=generator(seed), num_classes=4) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not torch.equal(results[0][0], results[2][0])
    g = generator(0)
    first = mix(x, y, alpha=1.0, generator=g, num_classes=4)
    second = mix(x, y, alpha=1.0, generator=g, num_classes=4)
    assert not torch.equal(first[0], second[0]), "a second call draws anew"


@both
def test_a_batch_of_one_and_targets_that_are_probabilities(mix: Any) -> None:
    x, y = pictures(1)
    mixed, q = mix(x, y, alpha=1.0, generator=generator(), num_classes=4)
    assert torch.allclose(mixed, x, atol=1e-15)
    assert torch.allclose(q, F.one_hot(y, 4).double(), atol=1e-15)
    x, y = pictures()
    soft = torch.rand(6, 4, generator=generator(2), dtype=torch.float64).softmax(dim=1)
    hard = mix(x, F.one_hot(y, 4).double(), alpha=1.0, generator=generator(3), num_classes=4)
    assert torch.allclose(hard[1], mix(x, y, alpha=1.0, generator=generator(3), num_classes=4)[1])
    assert torch.allclose(mix(x, soft, alpha=1.0, generator=generator(3), num_classes=4)[1].sum(dim=1), soft.sum(dim=1))


@both
def test_targets_of_16_bit_inputs_have_32(mix: Any) -> None:
    x, y = pictures(dtype=torch.bfloat16)
    mixed, q = mix(x, y, alpha=1.0, generator=generator(), num_classes=4)
    assert (mixed.dtype, q.dtype) == (torch.bfloat16, torch.float32)


def test_mixup_takes_any_shape_and_cutmix_pictures_of_bytes() -> None:
    mixed, _ = mixup(torch.rand(4, 7), torch.arange(4), alpha=1.0, generator=generator(), num_classes=4)
    assert mixed.shape == (4, 7)
    given_ = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=generator())
    mixed, q = cutmix(given_, torch.arange(4), alpha=1.0, generator=generator(), num_classes=4)
    assert (mixed.dtype, q.dtype) == (torch.uint8, torch.float32)


def test_what_cannot_be_mixed_is_refused() -> None:
    x, y = pictures()
    for alpha in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(SettingError, match=r"must be more than 0, such as 0\.2"):
            mixup(x, y, alpha=alpha, generator=generator(), num_classes=4)
    how = {"alpha": 1.0, "generator": generator(), "num_classes": 4}
    with pytest.raises(DataError, match=r"torch\.int64: a mean of token ids is another token"):
        mixup(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, dtype=torch.long), **how)
    with pytest.raises(DataError, match=r"pictures \(B, C, H, W\), but the input has shape \(6, 3\)"):
        cutmix(x[:, :, 0, 0], y, **how)
    for mix in (mixup, cutmix):
        with pytest.raises(DataError, match="6 .* and 5 targets"):
            mix(x, y[:5], **how)
        for wrong in (y.double(), torch.zeros(6, 3), torch.zeros(6, 4, dtype=torch.long)):
            with pytest.raises(DataError, match=r"integer labels \(B,\), or probabilities \(B, 4\)"):
                mix(x, wrong, **how)
        for label in (-100, 4):
            with pytest.raises(DataError, match=r"labels must be 0 to 3.*found .*to be ignored cannot be mixed"):
                mix(x, torch.tensor([0, 1, 2, 3, 0, label]), **how)
