"""What a layer costs, dense and of two factors: parameters, operations, the time that a simple model expects, and time.

A dense layer is one product of matrices forward and two backward; of rank r it is two thin ones and four. Thin ones
are bound by memory sooner, so the gain in time is less than that in operations; the fewer positions, the less.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lehr.base.errors import SettingError
from lehr.base.seeds import generator
from lehr.lowrank.spectrum import break_even

__all__ = [
    "Gain",
    "Machine",
    "amdahl",
    "flops",
    "highest",
    "measured_gain",
    "modelled_gain",
    "modelled_seconds",
    "parameters",
    "rank_for_ratio",
    "rounded",
]


def parameters(out_features: int, in_features: int, rank: int | None = None) -> int:
    """Return the elements of a matrix, or of its two factors of ``rank``; biases are the same in both.

    >>> parameters(768, 768), parameters(768, 768, rank=76)
    (589824, 116736)
    """
    return out_features * in_features if rank is None else rank * (out_features + in_features)


def flops(out_features: int, in_features: int, tokens: int, rank: int | None = None) -> tuple[int, int]:
    """Return the floating-point operations (forward, backward) of ``tokens`` positions.

    Forward ``2 T m n`` or ``2 T r (m + n)``; backward twice that, for the gradients of the input and of the weights.

    >>> flops(1024, 1024, 1, rank=102)
    (417792, 835584)
    """
    forward = 2 * tokens * parameters(out_features, in_features, rank)
    return forward, 2 * forward


def rank_for_ratio(out_features: int, in_features: int, ratio: float) -> int:
    """Return the rank that is ``ratio`` of the smaller side, rounded down, at least 1.

    Raises SettingError for a ratio outside (0, 1].

    >>> rank_for_ratio(768, 3072, 0.15), rank_for_ratio(10, 4, 0.1)
    (115, 1)
    """
    if not 0 < ratio <= 1:
        raise SettingError(f"ratio={ratio:g} of the smaller side as rank; use more than 0 and at most 1, such as 0.1")
    return max(1, math.floor(min(out_features, in_features) * ratio + 1e-9))


def rounded(rank: float, multiple: int | None = None, *, up: bool = False) -> int:
    """Return the nearest multiple, or with ``up`` the next one from ``rank`` on; at least one multiple.

    Without ``multiple`` it is 8 below 64, 16 below 256, 64 from there: few sizes, which matrix units like.

    >>> rounded(76.8), rounded(25.6), rounded(25.6, up=True), rounded(300), rounded(3, 1)
    (80, 24, 32, 320, 3)
    """
    if multiple is None:
        multiple = 8 if rank < 64 else 16 if rank < 256 else 64
    if multiple < 1:
        raise SettingError(f"multiple={multiple} to round ranks to; use 1 or more")
    steps = math.ceil(rank / multiple - 1e-9) if up else math.floor(rank / multiple + 0.5)
    return multiple * max(1, steps)


def highest(out_features: int, in_features: int, cap: float) -> int:
    """Return the highest rank that ``cap`` of the break-even rank allows; 0 where there is none.

    Raises SettingError for a cap outside (0, 1).

    >>> highest(256, 256, 0.7)
    89
    """
    if not 0 < cap < 1:
        raise SettingError(f"cap={cap:g} of the break-even rank; use more than 0 and less than 1, such as 0.7")
    return math.floor(cap * break_even(out_features, in_features) + 1e-9)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the time of a product of matrices follows from; the defaults are about one thread of a server's CPU."""

    flops_per_second: float = 6e10
    """In a large product."""
    bytes_per_second: float = 2.5e9
    """Read and written, into memory that was just allocated, as the results of a layer are."""
    call_seconds: float = 2e-5
    """Of a product with hardly anything in it, and what autograd adds to it."""
    element_bytes: int = 4

    @classmethod
    def measured(cls, like: Tensor | None = None) -> Machine:
        """Return the figures of the device and type of ``like`` (of a CPU in float32), measured in a second or so.

        >>> Machine.measured().flops_per_second > 0
        True
        """
        like = torch.empty(0) if like is None else like
        draws = generator(0, "machine")
        size = 1024 if like.device.type == "cpu" else 8192
        matrix, small = (torch.randn(n, n, generator=draws).to(like) for n in (size, 8))
        long, leaf = matrix.flatten().repeat(8), small.clone().requires_grad_()

        def three_products() -> None:
            with torch.enable_grad():
                torch.autograd.grad(F.linear(leaf, leaf), leaf, small)

        product, copied, calls = (
            min(_seconds(run, like.device) for _ in range(5))
            for run in (lambda: matrix @ matrix, lambda: long + 1, three_products)
        )
        return cls(
            flops_per_second=2 * size**3 / product,
            bytes_per_second=2 * long.numel() * long.element_size() / copied,
            call_seconds=calls / 3,
            element_bytes=like.element_size(),
        )


def modelled_seconds(
    out_features: int, in_features: int, tokens: int, rank: int | None = None, *, machine: Machine = Machine()
) -> float:
    """Return the time of a forward and backward pass that a simple model expects, biases and activations left out.

    Of each product of (a, b) with (b, c): ``2abc / F + (ab + bc + ac) e / B + t`` with operations F and bytes B per
    second, e bytes an element, and t per call.

    >>> 2.2 < modelled_seconds(256, 256, 4096) / modelled_seconds(256, 256, 4096, rank=25) < 2.4
    True
    """
    m, n, T = out_features, in_features, tokens
    if rank is None:
        products = [(T, n, m), (T, m, n), (m, T, n)]
    else:
        r = rank
        products = [(T, n, r), (T, r, m), (T, m, r), (m, T, r), (T, r, n), (n, T, r)]
    return sum(
        2 * a * b * c / machine.flops_per_second
        + (a * b + b * c + a * c) * machine.element_bytes / machine.bytes_per_second
        + machine.call_seconds
        for a, b, c in products
    )


def modelled_gain(
    out_features: int, in_features: int, rank: int, tokens: int, *, machine: Machine = Machine()
) -> float:
    """Return how many times faster than dense the model expects a layer of rank ``rank`` to be.

    >>> 4.5 < modelled_gain(3072, 768, 76, 4096) < 5.5, modelled_gain(64, 64, 6, 8) < 1
    (True, True)
    """
    dense = modelled_seconds(out_features, in_features, tokens, machine=machine)
    return dense / modelled_seconds(out_features, in_features, tokens, rank, machine=machine)


class Gain(NamedTuple):
    """How many times faster a layer of two factors was than the dense one, over pairs of runs."""

    median: float
    lowest: float
    highest: float
    dense_seconds: float
    """Median time of the dense layer, forward and backward."""


def measured_gain(
    out_features: int, in_features: int, rank: int, tokens: int, *, repeats: int = 7, like: Tensor | None = None
) -> Gain:
    """Time forward and backward, with a bias and the gradient of the input: dense and low-rank in turn, on this device.

    On the device and in the type of ``like`` (a CPU's float32); the global generators are not used. A pair is one run
    of each after the other, so that a machine whose speed drifts treats both alike. Cost: 1 + ``repeats`` runs of each.

    >>> measured_gain(64, 64, 8, tokens=16, repeats=3).median > 0
    True
    """
    like = torch.empty(0) if like is None else like
    draws = generator(0, "gain", out_features, in_features, rank, tokens)

    def drawn(*shape: int, grad: bool = True) -> Tensor:
        return torch.randn(*shape, generator=draws).to(like).requires_grad_(grad)

    x, bias, upstream = drawn(tokens, in_features), drawn(out_features), drawn(tokens, out_features, grad=False)
    W, U, V = drawn(out_features, in_features), drawn(out_features, rank), drawn(in_features, rank)

    def dense() -> None:
        torch.autograd.grad(F.linear(x, W, bias), (x, W, bias), upstream)

    def factored() -> None:
        torch.autograd.grad(F.linear(x @ V, U, bias), (x, U, V, bias), upstream)

    taken: list[tuple[float, float]] = []
    with torch.enable_grad():
        for repeat in range(1 + repeats):
            # the order is turned round each time, and the first pair only warms up
            order = (dense, factored) if repeat % 2 else (factored, dense)
            seconds = {run: _seconds(run, like.device) for run in order}
            taken.append((seconds[dense], seconds[factored]))
    ratios = [first / second for first, second in taken[1:]]
    return Gain(statistics.median(ratios), min(ratios), max(ratios), statistics.median(first for first, _ in taken[1:]))


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one run: the mean of as many as take 5 ms, where one takes less."""
    count, taken = 1, 0.0
    while taken < 5e-3:
        start = time.perf_counter()
        for _ in range(count):
            run()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        taken = time.perf_counter() - start
        per_run, count = taken / count, count * 4
    return per_run


def amdahl(share: float, gain: float) -> float:
    """Return the gain of a whole of which ``share`` becomes ``gain`` times as fast (Amdahl 1967).

    >>> round(amdahl(0.6, 5.0), 3)
    1.923
    """
    return 1 / (1 - share + share / gain)
