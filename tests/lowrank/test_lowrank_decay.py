"""Decay of the product through the Grams of the factors, against autograd through the product."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lehr.base.seeds import generator
from lehr.lowrank import frobenius_decay, frobenius_decay_


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.integers(0, 9))
def test_gradient_is_autograds_of_the_dense_product(m: int, n: int, rank: int, seed: int) -> None:
    draws = generator(seed, "decay")
    U, V = (torch.randn(k, rank, dtype=torch.float64, generator=draws, requires_grad=True) for k in (m, n))
    wanted = torch.autograd.grad((U @ V.T).square().sum() / 2, (U, V))
    for made, right in zip(frobenius_decay(U.detach(), V.detach()), wanted, strict=True):
        assert torch.allclose(made, right, atol=1e-10)
    one, other = U.detach().clone(), V.detach().clone()
    frobenius_decay_(one, other, 0.01)
    assert torch.allclose(one, U - 0.01 * wanted[0], atol=1e-12)
    assert torch.allclose(other, V - 0.01 * wanted[1], atol=1e-12)


def test_small_decay_shrinks_the_product_by_the_square_of_each_singular_value() -> None:
    """In factors sqrt(s), both shrink by 1 - amount s, so s shrinks by (1 - amount s)^2: large ones more."""
    s = torch.tensor([4.0, 1.0, 0.25])
    U, V = torch.diag(s.sqrt()), torch.diag(s.sqrt())
    frobenius_decay_(U, V, 0.1)
    assert torch.allclose((U @ V.T).diagonal(), s * (1 - 0.1 * s) ** 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_are_summed_in_32(dtype: torch.dtype) -> None:
    U, V = torch.full((70_000, 1), 1.0, dtype=dtype), torch.full((2, 1), 0.5, dtype=dtype)
    of_U, of_V = frobenius_decay(U, V * 0.001)
    assert of_U.dtype == of_V.dtype == dtype
    assert of_V.isfinite().all() and of_V[0, 0].item() == pytest.approx(35, rel=0.01)


def test_it_works_on_parameters_that_train() -> None:
    U, V = (torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2))
    frobenius_decay_(U, V, 0.1)
    assert torch.allclose(U, torch.full((3, 2), 1 - 0.1 * 6)) and U.requires_grad and U.grad is None
