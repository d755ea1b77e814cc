"""Repeated measurements with intervals: of times, which scatter anyhow, and of losses over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from lehr.base.errors import SettingError

__all__ = ["CONFIDENCE", "Interval", "Verdict", "least_pairs", "mean_interval", "median_interval", "verdict"]

CONFIDENCE = 0.99
"""How sure an interval is if nothing else is asked for."""
LEAST = 0.04
"""Differences up to this share are no gain: processes of one recipe differ, and two pairs of them by that much;"""
LEAST_OF_ONE = 0.05
"""one pair by this."""

Verdict = Literal["faster", "slower", "no evidence"]


@dataclass(frozen=True)
class Interval:
    """A median and the bounds between which the true one lies with the confidence asked for."""

    median: float
    low: float
    high: float


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the sample's median and the interval of the sign test for the median it is drawn around.

    Between the k-th smallest and the k-th largest of n values, with the largest k for which
    ``2 P(Binomial(n, 1/2) < k) <= 1 - confidence``. No distribution is assumed, and k - 1 outliers on either side do
    not move the bounds at all. Raises SettingError for fewer values than `least_pairs`.

    >>> median_interval([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 9.0])
    Interval(median=1.35, low=1.0, high=9.0)
    """
    n, least = len(values), least_pairs(confidence)
    if n < least:
        raise SettingError(f"{n} measurements cannot give an interval of {confidence:.4g}; {least} are needed")
    ordered = sorted(values)
    k = _rank(n, confidence)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return Interval(median=middle, low=ordered[k - 1], high=ordered[n - k])


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the mean and Student's interval for it, which supposes that values scatter as a bell: seeds of a run do.

    ``mean +- t s / sqrt(n)``, with the quantile t of n - 1 degrees of freedom. It takes as few as two values, and is
    then very wide. Source: Student, Biometrika 6 (1908).

    >>> found = mean_interval([1.0, 2.0, 3.0], 0.95)
    >>> f"{found.median:.2f}, {found.low:.2f} to {found.high:.2f}"
    '2.00, -0.48 to 4.48'
    """
    if len(values) < 2:
        raise SettingError(f"{len(values)} measurement has no interval; make at least 2, and better 5")
    middle = statistics.mean(values)
    half = _student(confidence, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(median=middle, low=middle - half, high=middle + half)


def _student(confidence: float, degrees: int) -> float:
    """Return t with ``P(|T| < t) = confidence``: ``T = sqrt(nu) tan(a)``, a of the density ``cos(a)^(nu - 1)``."""

    def mass(end: float, parts: int = 400) -> float:
        step = end / parts  # Simpson's rule
        weights = (1 if i in (0, parts) else 4 if i % 2 else 2 for i in range(parts + 1))
        return step / 3 * sum(w * math.cos(i * step) ** (degrees - 1) for i, w in enumerate(weights))

    whole, low, high = mass(math.pi / 2), 0.0, math.pi / 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if mass(middle) < confidence * whole else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def least_pairs(confidence: float = CONFIDENCE) -> int:
    """Return the least number of measurements that can give an interval of this confidence.

    >>> least_pairs(0.99), least_pairs(0.95)
    (8, 6)
    """
    if not 0 < confidence < 1:
        raise SettingError(f"confidence={confidence:g} is no share between 0 and 1; use 0.99 or 0.95")
    return max(2, math.ceil(1 - math.log2(1 - confidence)))


def _rank(n: int, confidence: float) -> int:
    """Return the largest k for which ``2 P(Binomial(n, 1/2) < k)`` is within what the confidence leaves."""
    allowed = Fraction(1 - confidence) * 2**n / 2  # exact: 2.0**n is no number any more from n = 1024 on
    k, ways, below = 0, 1, 1  # n choose k, and the sum of those up to it
    while below <= allowed:
        ways = ways * (n - k) // (k + 1)
        k, below = k + 1, below + ways
    return k


def verdict(ratio: Interval, least: float = LEAST) -> Verdict:
    """Return what an interval of "how many times as fast" says: a winner only where all of it is on one side.

    >>> verdict(Interval(1.2, 1.1, 1.3)), verdict(Interval(1.1, 0.9, 1.3)), verdict(Interval(1.005, 1.001, 1.008))
    ('faster', 'no evidence', 'no evidence')
    """
    if ratio.low > 1 + least:
        return "faster"
    return "slower" if ratio.high < 1 / (1 + least) else "no evidence"
