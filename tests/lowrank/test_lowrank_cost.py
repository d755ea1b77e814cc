"""What layers cost: the guide's own numbers worked out, torch's count of operations, and what is timed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lehr.base.errors import SettingError
from lehr.lowrank.cost import (
    Machine,
    amdahl,
    flops,
    highest,
    measured_gain,
    modelled_gain,
    modelled_seconds,
    parameters,
    rank_for_ratio,
    rounded,
)
from lehr.lowrank.spectrum import break_even

sizes = st.integers(1, 64)


def counted(m: int, n: int, tokens: int, rank: int | None) -> int:
    """Return the operations of forward and backward as torch counts them."""
    x = torch.ones(tokens, n, requires_grad=True)
    if rank is None:
        weights = [torch.ones(m, n, requires_grad=True)]
    else:
        weights = [torch.ones(m, rank, requires_grad=True), torch.ones(n, rank, requires_grad=True)]
    with FlopCounterMode(display=False) as counter:
        out = F.linear(x, weights[0]) if rank is None else F.linear(x @ weights[1], weights[0])
        torch.autograd.grad(out.sum(), (x, *weights))
    return counter.get_total_flops()


@pytest.mark.parametrize("rank", [None, 1, 5])
@pytest.mark.parametrize(("m", "n", "tokens"), [(16, 24, 10), (7, 5, 3), (32, 8, 1)])
def test_operations_are_what_torch_counts(m: int, n: int, tokens: int, rank: int | None) -> None:
    forward, backward = flops(m, n, tokens, rank)
    assert forward + backward == counted(m, n, tokens, rank)
    assert backward == 2 * forward


@settings(deadline=None)
@given(sizes, sizes, st.integers(1, 64))
def test_break_even_is_where_factors_stop_saving(m: int, n: int, rank: int) -> None:
    saves = parameters(m, n, rank) < parameters(m, n)
    assert saves == (rank < break_even(m, n)) == (sum(flops(m, n, 9, rank)) < sum(flops(m, n, 9)))


@settings(deadline=None)
@given(sizes, sizes, st.floats(0.01, 0.99))
def test_the_highest_rank_is_under_the_cap_and_the_next_is_not(m: int, n: int, cap: float) -> None:
    rank = highest(m, n, cap)
    assert rank <= cap * m * n / (m + n) + 1e-9 and rank + 1 > cap * m * n / (m + n)


def test_the_guides_square_layer() -> None:
    """1024 x 1024 at 10 %: rank 102 and 5.02 times; the guide's "5-10x" is more than its own formula gives."""
    rank = rank_for_ratio(1024, 1024, 0.1)
    assert rank == 102
    assert parameters(1024, 1024) / parameters(1024, 1024, rank) == pytest.approx(5.02, abs=0.005)
    assert flops(1024, 1024, 1)[0] / flops(1024, 1024, 1, rank)[0] == pytest.approx(5.02, abs=0.005)


def test_a_tenth_saves_five_times_for_squares_and_eight_for_feed_forward_layers() -> None:
    tenth = 0.1 * 768
    assert 768 * 768 / (tenth * (768 + 768)) == pytest.approx(5.0)
    rank = rank_for_ratio(3072, 768, 0.1)
    assert rank == 76
    assert parameters(3072, 768) / parameters(3072, 768, rank) == pytest.approx(8.1, abs=0.05)


def test_the_guides_selective_plan() -> None:
    """Attention 0.47 M, not 0.24 M; feed-forward 0.88 M at rank 115, not 1.4 M, nor the 3.5 M of the rank it used."""
    assert 4 * parameters(768, 768) == pytest.approx(2.36e6, rel=1e-3)
    assert 4 * parameters(768, 768, rank_for_ratio(768, 768, 0.1)) == pytest.approx(0.47e6, rel=0.01)
    assert 2 * parameters(3072, 768) == pytest.approx(4.72e6, rel=1e-3)
    rank = rank_for_ratio(3072, 768, 0.15)
    assert rank == 115
    assert 2 * parameters(3072, 768, rank) == pytest.approx(0.88e6, rel=0.01)
    assert 2 * parameters(3072, 768, int(0.15 * 3072)) == pytest.approx(3.53e6, rel=0.01)
    embedding = 30522 * 768
    whole = embedding + 4 * parameters(768, 768) + 2 * parameters(3072, 768)
    after = embedding + 4 * parameters(768, 768, 76) + 2 * parameters(3072, 768, 115)
    assert after / whole == pytest.approx(0.81, abs=0.005)  # mostly the embedding, which stays


@settings(deadline=None)
@given(st.floats(0.5, 5000), st.sampled_from([None, 1, 8, 16, 64]), st.booleans())
def test_rounding(rank: float, multiple: int | None, up: bool) -> None:
    near = rounded(rank, multiple, up=up)
    step = multiple or (8 if rank < 64 else 16 if rank < 256 else 64)
    assert near % step == 0 and near >= step
    if up:
        assert near >= rank - 1e-6 and (near == step or near - step < rank)
    else:
        assert abs(near - rank) <= step / 2 or near == step


def test_ratios_and_multiples_that_make_no_sense_are_refused() -> None:
    assert rank_for_ratio(100, 100, 0.29) == 29  # which is 28.999999999999996 as a product
    for ratio in (0.0, 1.1):
        with pytest.raises(SettingError, match="more than 0 and at most 1"):
            rank_for_ratio(8, 8, ratio)
    with pytest.raises(SettingError, match="multiple=0"):
        rounded(5, 0)


@settings(deadline=None)
@given(st.integers(8, 512), st.integers(8, 512), st.integers(1, 4096))
def test_the_model_grows_with_the_rank_and_never_promises_more_than_the_operations(m: int, n: int, tokens: int) -> None:
    ranks = range(1, int(break_even(m, n)), 8)
    seconds = [modelled_seconds(m, n, tokens, rank) for rank in ranks]
    assert seconds == sorted(seconds)
    for rank in ranks:
        assert modelled_gain(m, n, rank, tokens) <= parameters(m, n) / parameters(m, n, rank) + 1e-9


def test_the_model_without_memory_and_calls_counts_operations() -> None:
    free = Machine(bytes_per_second=1e30, call_seconds=0)
    assert modelled_gain(768, 768, 76, 100, machine=free) == pytest.approx(768 * 768 / (76 * 2 * 768))
    seconds = modelled_seconds(768, 768, 100, machine=free)
    assert seconds == pytest.approx(sum(flops(768, 768, 100)) / free.flops_per_second)


def test_the_model_expects_little_of_few_positions() -> None:
    assert modelled_gain(256, 256, 25, 4096) > 2
    assert modelled_gain(64, 64, 6, 32) < 1


def test_what_is_timed_agrees_with_the_model_about_large_layers_and_draws_nothing_global() -> None:
    state = torch.get_rng_state()
    gain = measured_gain(512, 512, 48, tokens=1024, repeats=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert gain.lowest <= gain.median <= gain.highest and gain.dense_seconds > 0
    assert gain.median > 1.2  # a factor of 5 in operations; loose, for machines that are busy
    with torch.no_grad():
        assert measured_gain(64, 64, 8, tokens=8, repeats=1).median > 0


def test_a_measured_machine_is_plausible() -> None:
    machine = Machine.measured(torch.empty(0, dtype=torch.float64))
    assert machine.element_bytes == 8
    assert 1e8 < machine.flops_per_second < 1e16 and 1e7 < machine.bytes_per_second < 1e14
    assert 1e-8 < machine.call_seconds < 1e-2


def test_amdahl() -> None:
    assert amdahl(0.0, 8.0) == 1 and amdahl(1.0, 8.0) == 8
    assert amdahl(0.5, 2.0) == pytest.approx(4 / 3)
