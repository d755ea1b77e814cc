"""MSE, MAE and binary cross entropy: by hand, against torch, under masks, and refused where shapes differ."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lehr.base.errors import DataError
from lehr.losses import Supervised, bce, binary_focal_loss, mae, mse
from lehr.metrics import accuracy

LOSSES = {"mse": (mse, F.mse_loss), "mae": (mae, F.l1_loss), "bce": (bce, F.binary_cross_entropy_with_logits)}
EACH = pytest.mark.parametrize(("ours", "torchs"), LOSSES.values(), ids=list(LOSSES))
ALL = pytest.mark.parametrize("loss", [mse, mae, bce, binary_focal_loss])


def drawn(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(shape, generator=generator, dtype=torch.float64)
    return output, torch.rand(shape, generator=generator, dtype=torch.float64)


def test_by_hand() -> None:
    output, target = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 4.0, 1.0])
    assert [float(v) for v in mse(output, target)] == [13.0, 3]  # 0 + 4 + 9
    assert [float(v) for v in mae(output, target)] == [5.0, 3]  # 0 + 2 + 3
    total, count = bce(torch.tensor([0.9, 0.2]).logit(), torch.tensor([1, 0]))
    assert float(total) == pytest.approx(0.10536 + 0.22314, abs=1e-4)  # -ln 0.9, -ln 0.8
    assert count == 2


@EACH
def test_ratio_is_torchs_mean(ours: object, torchs: object) -> None:
    output, target = drawn(0, 5, 3)
    total, count = ours(output, target)
    assert float(total) / count == pytest.approx(float(torchs(output, target)), abs=1e-12)


@ALL
@given(n=st.integers(1, 20), cut=st.integers(0, 20), seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_two_parts_add_up_to_the_whole_and_masks_to_what_is_left(loss: object, n: int, cut: int, seed: int) -> None:
    output, target = drawn(seed, n)
    mask = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.5
    cut = min(cut, n)
    whole, count = loss(output, target, mask=mask)
    parts = [loss(output[s], target[s], mask=mask[s]) for s in (slice(0, cut), slice(cut, n))]
    assert float(whole) == pytest.approx(sum(float(t) for t, _ in parts), abs=1e-9)
    assert int(count) == sum(int(c) for _, c in parts) == int(mask.sum())
    kept, _ = loss(output[mask], target[mask])
    assert float(whole) == pytest.approx(float(kept), abs=1e-9)


@ALL
def test_what_is_masked_reaches_neither_the_sum_nor_the_gradient(loss: object) -> None:
    output, target = drawn(1, 4)
    output[1], target[2] = float("nan"), float("nan")
    output.requires_grad_()
    total, count = loss(output, target, mask=torch.tensor([True, False, False, True]))
    total.backward()
    assert torch.isfinite(total) and int(count) == 2
    assert output.grad is not None
    assert torch.isfinite(output.grad).all() and output.grad[1] == output.grad[2] == 0
    assert torch.isnan(loss(output, target)[0]), "what is not masked is not left out silently"


@ALL
def test_gradients(loss: object) -> None:
    output, target = drawn(2, 3, 2)
    mask = torch.tensor([[True, False], [True, True], [False, True]])
    assert torch.autograd.gradcheck(lambda o: loss(o, target, mask=mask)[0], (output.requires_grad_(),))


@ALL
def test_shapes_are_never_stretched(loss: object) -> None:
    with pytest.raises(DataError, match=r"output has shape \(4, 1\) and the target \(4,\).*squeeze\(-1\)"):
        loss(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(DataError, match=r"mask has shape \(1,\) and type torch.bool"):
        loss(torch.zeros(4), torch.zeros(4), mask=torch.ones(1, dtype=torch.bool))
    with pytest.raises(DataError, match="type torch.float32; it must be of torch.bool"):
        loss(torch.zeros(4), torch.zeros(4), mask=torch.ones(4))
    found = Supervised(loss=loss).problem(torch.zeros(4, 1), torch.zeros(4))
    assert found is not None and "stretch" in found[0]


@ALL
def test_16_bits_are_summed_in_32(loss: object) -> None:
    output, target = torch.full((100_000,), 3.0).half(), torch.zeros(100_000).half()
    total, _ = loss(output, target)
    assert total.dtype == torch.float32 and torch.isfinite(total) and float(total) > 1e4


def test_binary_targets_of_any_type_and_exact_far_from_0() -> None:
    logits = torch.tensor([200.0, -200.0], dtype=torch.float32, requires_grad=True)
    for target in (torch.tensor([0, 1]), torch.tensor([False, True]), torch.tensor([0.0, 1.0], dtype=torch.float64)):
        assert (
            float(bce(logits.detach(), target)[0]) == 400.0
        )  # a probability would have rounded to 1, and its log to -inf
    total, _ = bce(logits, torch.tensor([1, 0]))
    total.backward()
    assert float(total.detach()) == 0.0 and torch.isfinite(logits.grad).all()


def test_binary_targets_outside_0_to_1_are_named() -> None:
    for loss in (bce, binary_focal_loss, functools.partial(bce, mask=None), F.binary_cross_entropy_with_logits):
        found = Supervised(loss=loss).problem(torch.zeros(3), torch.tensor([0.0, 2.0, 1.0]))
        assert found == ("binary targets must be 0 to 1; found 2", [1])
        assert Supervised(loss=loss).problem(torch.zeros(3), torch.tensor([0.0, 0.4, 1.0])) is None
    found = Supervised(loss=bce).problem(torch.zeros(2), torch.tensor([0.0, float("nan")]))
    assert found is not None and found[1] == [1]


@pytest.mark.parametrize("loss", [bce, binary_focal_loss, functools.partial(binary_focal_loss, gamma=1.0)])
def test_accuracy_of_binary_losses_goes_by_the_sign(loss: object) -> None:
    right, count = accuracy(*Supervised(loss=loss).classes(torch.tensor([-1.0, 2.0, 0.2]), torch.tensor([0, 1, 0])))
    assert (int(right), count) == (2, 3)
