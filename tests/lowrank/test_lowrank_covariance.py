"""Second moments of inputs against what numpy says, nothing of the model changed, and what makes them unusable."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lehr.base.errors import NonFiniteError, SettingError
from lehr.lowrank.balance import balanced_pair
from lehr.lowrank.covariance import second_moments, weighted_spectrum
from lehr.lowrank.inputs import look_at_inputs, positions, rows


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 3))


def test_moments_are_means_over_all_positions_of_all_batches() -> None:
    net = model()
    batches = [drawn(size, 6, seed=size) for size in (5, 9, 2)]
    moments = second_moments(net, ["0", "4"], batches, net)
    x = torch.cat(batches).double().numpy()
    np.testing.assert_allclose(moments["0"].numpy(), np.einsum("ti,tj->ij", x, x) / 16, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        hidden = net.eval()[:4](torch.cat(batches)).double().numpy()
    np.testing.assert_allclose(moments["4"].numpy(), hidden.T @ hidden / 16, rtol=1e-5, atol=1e-6)


def test_nothing_is_left_changed() -> None:
    net = model().train()
    net[1].eval()
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()

    def forward(batch: Tensor) -> None:
        torch.rand(3)
        net(input=batch)

    def failing(batch: Tensor) -> None:
        net(batch)
        raise KeyError("from the forward pass")

    second_moments(net, ["0"], [drawn(4, 6)], forward)
    with pytest.raises(KeyError):
        second_moments(net, ["0"], [drawn(4, 6)], failing)
    assert [m.training for m in net.children()] == [True, False, True, True, True] and net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_positions_of_sequences_and_keyword_arguments_count() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(input=x) + self.layer(x)

    net, x = Named(), drawn(3, 5, 4)
    flat = x.reshape(-1, 4)
    assert torch.allclose(second_moments(net, ["layer"], [x], net)["layer"], flat.T @ flat / 15, atol=1e-6)


@settings(deadline=None)
@given(
    st.sampled_from([(3, 1, 1, 1), (3, 2, 1, 1), ((3, 2), 1, (1, 0), 1), (2, (2, 1), 0, 2), (3, 1, "same", 1)]),
    st.sampled_from(["zeros", "reflect", "circular"]),
)
def test_rows_of_a_convolution_times_its_matrix_are_its_output(how: tuple, mode: str) -> None:
    kernel, stride, padding, dilation = how
    conv = nn.Conv2d(2, 5, kernel, stride=stride, padding=padding, dilation=dilation, padding_mode=mode, bias=False)
    x = drawn(3, 2, 7, 6)
    out = conv(x).movedim(1, -1).reshape(-1, 5)
    unfolded = rows(conv, x)
    assert torch.allclose(unfolded @ conv.weight.reshape(5, -1).T, out, atol=1e-5)
    assert positions(conv, x) == len(unfolded) == len(out)
    assert positions(conv, x[0]) * 3 == len(out)


def test_groups_are_refused() -> None:
    conv = nn.Conv2d(4, 4, 3, groups=2)
    with pytest.raises(SettingError, match="2 groups is no single matrix"):
        second_moments(conv, [""], [drawn(1, 4, 8, 8)], conv)


def test_half_precision_is_summed_in_full() -> None:
    layer, x = nn.Linear(4, 4), drawn(4000, 4) + 3
    exact = (x.double().T @ x.double() / 4000).float()

    def under_autocast(batch: Tensor) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layer(batch)

    assert torch.allclose(second_moments(layer, [""], [x], under_autocast)[""], exact, rtol=1e-5)
    small = layer.bfloat16()
    moment = second_moments(small, [""], [x.bfloat16()], small)[""]
    assert moment.dtype == torch.float32
    rounded = x.bfloat16().double()
    assert torch.allclose(moment, (rounded.T @ rounded / 4000).float(), rtol=1e-5)


def test_ranks_add_up() -> None:
    """Two processes with batches of different sizes get the moment of all; here their sums are handed over."""
    layer, batches = nn.Linear(3, 2), [drawn(4, 3, seed=1), drawn(7, 3, seed=2)]
    sent: list[list[Tensor]] = []
    for batch in batches:
        values: list[Tensor] = []
        second_moments(layer, [""], [batch], layer, sum_over=lambda v, values=values: values.append(v.clone()) or v)
        sent.append(values)
    others = iter(sent[1])
    got = second_moments(layer, [""], batches[:1], layer, sum_over=lambda value: value + next(others))[""]
    assert torch.allclose(got, second_moments(layer, [""], batches, layer)[""])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
def test_inputs_that_are_not_finite_are_named(bad: float) -> None:
    net, x = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)), drawn(5, 2)
    x[3, 1] = bad
    with pytest.raises(NonFiniteError, match="what enters '0'"):
        second_moments(net, ["0", "2"], [x], net)


def test_names_that_lead_nowhere_are_refused() -> None:
    net = model()
    with pytest.raises(SettingError, match="no layer 'head'"):
        second_moments(net, ["head"], [drawn(4, 6)], net)
    with pytest.raises(SettingError, match="never run on these batches: 4"):
        second_moments(net, ["0", "4"], [drawn(4, 6)], net[0])
    words = nn.Embedding(5, 3)
    with pytest.raises(SettingError, match="no floating tensor"):
        second_moments(words, [""], [torch.zeros(2, dtype=torch.long)], words)
    with pytest.raises(SettingError, match="only empty batches"):
        second_moments(net[0], [""], [drawn(0, 6)], net[0])


def test_the_weights_that_attention_reads_by_itself_are_not_seen() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x = drawn(2, 3, 8)
    with pytest.raises(SettingError, match="never run on these batches: out_proj"):
        second_moments(attention, ["out_proj"], [x], lambda x: attention(x, x, x))


def test_the_fast_path_of_torchs_transformer_is_seen() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0)
    seen: dict[str, tuple[int, ...]] = {}
    look_at_inputs(
        layer, ["linear1", "linear2"], [drawn(2, 3, 8)], layer, lambda n, m, x: seen.update({n: tuple(x.shape)})
    )
    assert seen == {"linear1": (2, 3, 8), "linear2": (2, 3, 16)}


def test_weighted_spectrum_is_what_is_lost_of_the_output() -> None:
    x = drawn(500, 12).double() @ torch.diag(torch.logspace(0, -2, 12).double())
    W = drawn(7, 12, seed=1).double()
    moment = x.T @ x / 500
    S = weighted_spectrum(W, moment)
    assert S.shape == (7,)
    for rank in (1, 3, 6):
        pair = balanced_pair(W, rank, balance="activation", covariance=moment)
        lost = (F.linear(x, W) - F.linear(x, pair.left @ pair.right.T)).square().sum(dim=1).mean()
        assert lost.item() == pytest.approx(S[rank:].square().sum().item(), rel=0.02)
    assert S.square().sum().item() == pytest.approx(F.linear(x, W).square().sum(dim=1).mean().item(), rel=1e-6)


def test_weighted_spectrum_of_singular_moments_kernels_and_none() -> None:
    x = drawn(3, 12).double()
    S = weighted_spectrum(drawn(7, 12), x.T @ x / 3)
    assert S.isfinite().all() and (S[3:] < 1e-6 * S[0]).all()  # three positions give three directions
    kernel = drawn(4, 2, 3, 3)
    assert torch.allclose(weighted_spectrum(kernel), torch.linalg.svdvals(kernel.reshape(4, 18).double()))
    assert torch.allclose(weighted_spectrum(kernel, torch.eye(18)), weighted_spectrum(kernel))
    with pytest.raises(SettingError, match=r"use \(18, 18\)"):
        weighted_spectrum(kernel, torch.eye(2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weighted_spectrum_of_what_is_not_finite_is_flagged(bad: float) -> None:
    W, C = drawn(4, 6), torch.eye(6)
    for weight, moment in ((W * bad, C), (W * bad, None), (W, C * bad)):
        assert bool(weighted_spectrum(weight, moment).isnan().all())
