"""What a layer costs, dense and of two factors: parameters, operations, the time that a simple model expects, and time.

A dense layer of T positions is one product forward and two backward; of rank r it is two thin ones and four.
"""

from __future__ import annotations

import math

from lehr.base.errors import SettingError
from lehr.lowrank.spectrum import break_even

__all__ = ["flops", "highest", "parameters", "rank_for_ratio", "rounded"]


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
