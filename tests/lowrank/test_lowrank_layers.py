"""Layers of two factors, of four tensors, and LoRA, against the dense formula and its gradients."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.seeds import generator
from lehr.lowrank import FourTensorLinear, LoRALinear, LowRankConv2d, LowRankLinear, Pair, balanced_pair
from lehr.lowrank.linear import default_linear, linear_of, trainable

MAKERS = {
    "two": lambda dense: LowRankLinear.from_linear(dense, 3),
    "four": lambda dense: FourTensorLinear.from_linear(dense, 3),
    "lora": lambda dense: LoRALinear.from_linear(dense, 3, alpha=6),
    "convolution": lambda dense: LowRankConv2d.from_conv(nn.Conv2d(12, 10, 3, padding=1), 3),
}
each_layer = pytest.mark.parametrize("kind", MAKERS)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "test"), dtype=dtype)


def dense_layer(n: int = 12, m: int = 10, *, bias: bool = True, seed: int = 0) -> nn.Linear:
    return default_linear(n, m, bias=bias, generator=generator(seed, "layer"))


def a_layer(kind: str) -> nn.Module:
    """Return a layer none of whose tensors are zero."""
    layer = MAKERS[kind](dense_layer())
    with torch.no_grad():
        for place, parameter in enumerate(layer.parameters()):
            parameter.add_(0.1 * draw(*parameter.shape, seed=place))
    return layer


def inputs(kind: str) -> Tensor:
    return draw(2, 12, 5, 5) if kind == "convolution" else draw(7, 12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("n", "m", "rank"), [(12, 10, 3), (5, 30, 4), (30, 5, 4), (9, 9, 1)])
def test_output_and_gradients_are_those_of_the_dense_product(n: int, m: int, rank: int, bias: bool) -> None:
    layer = LowRankLinear(n, m, rank, bias=bias, generator=generator(0, "layer")).double()
    U, V = (factor.detach().clone().requires_grad_() for factor in (layer.U, layer.V))
    b = layer.bias.detach().clone().requires_grad_() if bias else None
    x, other = draw(4, 6, n, dtype=torch.float64).requires_grad_(), draw(4, 6, n, dtype=torch.float64).requires_grad_()
    y, wanted = layer(x), F.linear(other, U @ V.T, b)
    assert torch.allclose(y, wanted, atol=1e-12)
    weights = draw(4, 6, m, dtype=torch.float64)
    (y * weights).sum().backward()
    (wanted * weights).sum().backward()
    assert torch.allclose(x.grad, other.grad, atol=1e-12)
    assert torch.allclose(layer.U.grad, U.grad, atol=1e-12) and torch.allclose(layer.V.grad, V.grad, atol=1e-12)
    assert b is None or torch.allclose(layer.bias.grad, b.grad, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 9), st.sampled_from([LowRankLinear, FourTensorLinear]))
def test_full_rank_is_the_dense_function(n: int, m: int, seed: int, kind: type[LowRankLinear]) -> None:
    dense = dense_layer(n, m, seed=seed)
    layer = kind.from_linear(dense, min(n, m))
    x = draw(5, n, seed=seed)
    assert torch.allclose(layer(x), dense(x), atol=1e-5)
    assert torch.allclose(layer.weight, dense.weight, atol=1e-5)
    assert torch.allclose(layer.to_dense()(x), dense(x), atol=1e-5)


def test_truncation_is_the_best_of_its_rank() -> None:
    dense = dense_layer(20, 14)
    values = torch.linalg.svdvals(dense.weight.detach().double())
    for kind in (LowRankLinear, FourTensorLinear):
        layer = kind.from_linear(dense, 5)
        missing = (dense.weight - layer.weight).detach().double().square().sum()
        assert missing.item() == pytest.approx(values[5:].square().sum().item(), rel=1e-4)


def test_activation_balance_lowers_the_error_of_the_output() -> None:
    dense = dense_layer(16, 16, bias=False)
    x = draw(400, 16) * torch.logspace(0, -2, 16)
    plain = LowRankLinear.from_linear(dense, 4)
    aware = LowRankLinear.from_linear(dense, 4, balance="activation", covariance=x.T @ x / len(x))
    errors = [(layer(x) - dense(x)).norm().item() for layer in (plain, aware)]
    assert errors[1] < 0.7 * errors[0]
    assert torch.allclose(aware.U.norm(dim=0), aware.V.norm(dim=0), rtol=1e-3)


def test_beginning_is_spectral_and_of_the_generator_alone() -> None:
    state = torch.get_rng_state()
    layer = LowRankLinear(40, 30, 6, generator=generator(3, "init"))
    again = LowRankLinear(40, 30, 6, generator=generator(3, "init"))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(layer.U, again.U) and torch.equal(layer.V, again.V) and torch.equal(layer.bias, again.bias)
    dense = default_linear(40, 30, generator=generator(3, "init"))
    U, S, Vh = torch.linalg.svd(dense.weight.detach(), full_matrices=False)
    missing = S.norm() / S[:6].norm()  # the norm of the dense weights is kept, and with it the output's size
    assert missing > 1.4
    assert torch.allclose(layer.weight, missing * U[:, :6] * S[:6] @ Vh[:6], atol=1e-5)
    assert torch.allclose(layer.U.T @ layer.U, missing * torch.diag(S[:6]), atol=1e-5)
    assert torch.allclose(layer.V.T @ layer.V, missing * torch.diag(S[:6]), atol=1e-5)
    assert torch.equal(layer.bias, dense.bias)


def test_norm_is_kept_only_where_it_is_asked_for() -> None:
    dense = dense_layer(40, 40)
    kept = LowRankLinear.from_linear(dense, 4, keep_norm=True)
    assert kept.weight.norm().item() == pytest.approx(dense.weight.norm().item(), rel=1e-4)
    best = LowRankLinear.from_linear(dense, 4)
    assert torch.allclose(kept.weight / kept.weight.norm(), best.weight / best.weight.norm(), atol=1e-5)
    assert (dense.weight - best.weight).norm() < (dense.weight - kept.weight).norm()
    for scale in (1e-25, 1e25):
        large = linear_of(scale * dense.weight.detach(), None)
        norm = LowRankLinear.from_linear(large, 4, keep_norm=True).weight.double().norm()
        assert norm.item() == pytest.approx(scale * dense.weight.norm().item(), rel=1e-4)
    zero = LowRankLinear.from_linear(linear_of(torch.zeros(4, 4), None), 2, keep_norm=True)
    assert (zero.weight == 0).all() and zero.V.isfinite().all()


def test_default_linear_has_the_distribution_of_torchs() -> None:
    torch.manual_seed(0)
    ours, torchs = default_linear(64, 400), nn.Linear(64, 400)
    for one, other in zip(ours.parameters(), torchs.parameters(), strict=True):
        assert one.abs().max() <= 1 / 8 and other.abs().max() <= 1 / 8
        assert one.std().item() == pytest.approx(other.std().item(), rel=0.1)


def test_the_guides_beginning_is_hundreds_of_times_too_large() -> None:
    """N(0, 1) in U, S and V gives outputs of size sqrt(r n) for inputs of size 1, where nn.Linear gives 0.58."""
    for n, m, rank in ((768, 3072, 76), (1024, 1024, 102)):
        guides = FourTensorLinear.blank(dense_layer(n, m, bias=False), rank=rank)
        for place, tensor in enumerate((guides.U, guides.S, guides.V)):
            tensor.data = draw(*tensor.shape, seed=place)
        size = guides(draw(200, n, seed=9)).std().item()
        assert 230 < size < 350 and size == pytest.approx((rank * n) ** 0.5, rel=0.15)
    x = draw(500, 256, seed=9)
    assert dense_layer(256, 256)(x).std().item() == pytest.approx(0.58, abs=0.02)
    ours = LowRankLinear(256, 256, 25, bias=False, generator=generator(0, "init"))
    assert ours(x).std().item() == pytest.approx(0.58, abs=0.03)


@pytest.mark.parametrize("rank", [0, -1, 6, 7, 10])
def test_rank_over_the_break_even_is_refused_by_name(rank: int) -> None:
    with pytest.raises(SettingError, match=r"break-even is at m n/\(m \+ n\) = 5\.5; use 1\.\.5"):
        LowRankLinear(12, 10, rank)


def test_rank_at_the_break_even_saves_nothing_and_is_refused() -> None:
    with pytest.raises(SettingError, match=r"= 8\.0; use 1\.\.7"):
        LowRankLinear(16, 16, 8)
    with pytest.raises(SettingError, match="keep it dense"):
        LowRankLinear(16, 1, 1)
    layer = LowRankLinear(16, 16, 7, bias=False)
    assert sum(p.numel() for p in layer.parameters()) == 7 * 32 < 16 * 16


@pytest.mark.parametrize(("n", "m"), [(1024, 1024), (768, 3072)])
def test_parameters_are_counted_by_the_formula(n: int, m: int) -> None:
    rank = int(0.1 * min(m, n))
    layer = LowRankLinear.from_pair(Pair(torch.zeros(m, rank), torch.zeros(n, rank)), torch.zeros(m))
    assert sum(p.numel() for p in layer.parameters()) == rank * (m + n) + m
    gain = m * n / (rank * (m + n))
    assert gain == pytest.approx({1024: 5.02, 768: 8.08}[n], abs=0.01)


def test_factors_that_do_not_fit_are_refused() -> None:
    for left, right in (
        (torch.zeros(3, 2), torch.zeros(4, 1)),
        (torch.zeros(3), torch.zeros(3)),
        (torch.zeros(1, 2, 3),) * 2,
    ):
        with pytest.raises(SettingError, match=r"have to be \(out, r\) and \(in, r\)"):
            LowRankLinear.from_pair(Pair(left, right))


def test_bias_stays_the_same_parameter() -> None:
    dense = dense_layer()
    for layer in (LowRankLinear.from_linear(dense, 3), FourTensorLinear.from_linear(dense, 3)):
        assert layer.bias is dense.bias and layer.to_dense().bias is dense.bias


@each_layer
def test_training_moves_all_that_is_to_train(kind: str) -> None:
    layer = a_layer(kind)
    if kind == "lora":
        layer = MAKERS["lora"](dense_layer())
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in layer.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (layer(inputs(kind)) - 1).square().mean().backward()
        optimizer.step()
    moved = {name for name, value in layer.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if not name.startswith("base.")}


@each_layer
def test_weight_and_dense_form_are_the_same_function(kind: str) -> None:
    layer, x = a_layer(kind), inputs(kind)
    dense = layer.to_dense()
    assert torch.allclose(dense.weight, layer.weight, atol=1e-6)
    assert torch.allclose(dense(x), layer(x), atol=1e-5)
    assert isinstance(dense, nn.Conv2d if kind == "convolution" else nn.Linear)
    assert all(parameter.requires_grad for parameter in dense.parameters())


@each_layer
def test_layers_survive_copies_state_dicts_and_pickles(kind: str) -> None:
    layer, x = a_layer(kind), inputs(kind)
    copied = copy.deepcopy(layer)
    other = MAKERS[kind](dense_layer(seed=5))
    other.load_state_dict(layer.state_dict())
    for twin in (copied, other):
        assert torch.equal(twin(x), layer(x))
        assert repr(twin) == repr(layer)
    with torch.no_grad():
        next(copied.parameters()).add_(1)
    assert not torch.equal(copied(x), layer(x))


@each_layer
def test_layers_compile_into_one_graph(kind: str) -> None:
    layer, x = a_layer(kind), inputs(kind)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), layer(x), atol=1e-6)
    compiled(x).square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters() if p.requires_grad)
    torch.compiler.reset()


@each_layer
def test_layers_compute_in_16_bits_under_autocast(kind: str) -> None:
    layer, x = a_layer(kind), inputs(kind)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().square().sum().backward()
    assert torch.allclose(y.float(), layer(x), atol=0.1)
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters() if p.requires_grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_layer_of_another_dtype_keeps_it(dtype: torch.dtype) -> None:
    dense = dense_layer().to(dtype)
    for layer in (
        LowRankLinear.from_linear(dense, 3),
        FourTensorLinear.from_linear(dense, 3),
        LoRALinear.from_linear(dense, 3),
    ):
        assert {p.dtype for p in layer.parameters()} == {dtype}
        assert layer(draw(2, 12).to(dtype)).dtype == dtype


def test_constructor_takes_device_and_dtype() -> None:
    layer = LowRankLinear(8, 8, 2, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.float64)}


@pytest.mark.parametrize("weight", [torch.zeros(10, 12), torch.ones(10, 12)], ids=["zero", "rank one"])
@pytest.mark.parametrize("kind", [LowRankLinear, FourTensorLinear])
def test_weights_without_rank_still_train(kind: type[LowRankLinear], weight: Tensor) -> None:
    """An output layer that begins at zero has no singular vectors; its factors must not be zero on both sides."""
    layer = kind.from_linear(linear_of(weight, None), 4)
    assert torch.allclose(layer.weight, weight, atol=1e-5)
    x = draw(50, 12)
    target = x @ draw(12, 10, seed=4)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimizer.step()
    assert torch.linalg.svdvals(layer.weight.detach())[3] > 0.1, "all four directions are in use"


def test_directions_of_rounding_alone_are_dead() -> None:
    weight = draw(30, 5) @ draw(5, 20, seed=1)
    pair = trainable(balanced_pair(weight, 12))
    assert (pair.left.norm(dim=0) == 0).tolist() == [False] * 5 + [True] * 7
    assert torch.allclose(pair.left @ pair.right.T, weight, atol=1e-5 * weight.norm().item())
    assert (pair.right.norm(dim=0) > 0.1).all()


def test_trainable_keeps_the_product_and_evens_the_columns() -> None:
    left, right = 1e-12 * draw(6, 3), 1e12 * draw(5, 3, seed=1)
    left[:, 1] = right[:, 1] = 0
    even = trainable(Pair(left, right))
    assert torch.allclose(even.left @ even.right.T, left @ right.T, rtol=1e-4)
    assert torch.allclose(even.left.norm(dim=0)[::2], even.right.norm(dim=0)[::2], rtol=1e-4)
    assert (even.left[:, 1] == 0).all() and (even.right[:, 1] != 0).all()
    assert torch.isnan(trainable(Pair(left + torch.nan, right)).left).all(), "what is not finite is not repaired"


def test_four_tensors_fold_into_two() -> None:
    layer = a_layer("four")
    with torch.no_grad():
        layer.S[1] *= -1
        layer.D[2] *= -3
    x = draw(6, 12)
    folded = layer.folded()
    assert isinstance(folded, LowRankLinear)
    assert torch.allclose(folded(x), layer(x), atol=1e-5)
    wanted = torch.diag(layer.D) @ layer.U @ torch.diag(layer.S) @ layer.V.T
    assert torch.allclose(layer.weight, wanted, atol=1e-6)
    assert torch.allclose(folded.weight, wanted, atol=1e-5)


def test_lora_begins_as_the_base_and_leaves_it_as_it_is() -> None:
    dense, x = dense_layer(), draw(7, 12)
    kept = {name: value.clone() for name, value in dense.state_dict().items()}
    before = dense(x).detach()
    layer = LoRALinear.from_linear(dense, 2, alpha=8, generator=generator(0, "lora"))
    assert torch.equal(layer(x), before)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(4):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
    assert dense.weight.grad is None and dense.bias.grad is None
    assert all(torch.equal(value, kept[name]) for name, value in layer.base.state_dict().items())
    wanted = F.linear(x, dense.weight + 8 / 2 * layer.B @ layer.A, dense.bias)
    assert torch.allclose(layer(x), wanted, atol=1e-5)
    merged = layer.to_dense()
    assert torch.allclose(merged(x), wanted, atol=1e-5)
    assert merged.weight is not dense.weight and merged.bias is not dense.bias


def test_lora_drops_only_what_enters_the_pair_and_only_in_training() -> None:
    layer = LoRALinear.from_linear(dense_layer(), 2, dropout=0.5)
    with torch.no_grad():
        layer.B.fill_(1.0)
    x = draw(50, 12)
    torch.manual_seed(0)
    assert not torch.allclose(layer(x), layer(x))
    assert torch.allclose(layer.base(x), layer.base(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    assert torch.allclose(layer(x), layer.to_dense()(x), atol=1e-5)


def test_lora_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(SettingError, match=r"rank=11 beside a 10x12 matrix; use 1\.\.10"):
        LoRALinear.from_linear(dense_layer(), 11)
    with pytest.raises(SettingError, match="alpha=0"):
        LoRALinear.from_linear(dense_layer(), 2, alpha=0)
    with pytest.raises(SettingError, match="dropout=1"):
        LoRALinear.from_linear(dense_layer(), 2, dropout=1.0)


def test_lora_draws_from_its_generator() -> None:
    state = torch.get_rng_state()
    pair = [LoRALinear.from_linear(dense_layer(), 2, generator=generator(1, "lora")) for _ in range(2)]
    assert torch.equal(pair[0].A, pair[1].A) and torch.equal(torch.get_rng_state(), state)
    assert pair[0].A.abs().max() <= 12**-0.5 and pair[0].alpha == 2
