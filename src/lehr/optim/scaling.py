"""What to make of the rate when the batch changes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lehr.base.errors import SettingError
from lehr.base.tables import did_you_mean

__all__ = ["ScaledRate", "scale_beta", "scale_rate"]

Scaling: TypeAlias = Literal["linear", "sqrt"]

_LINEAR = ("sgd", "schedule_free_sgd", "lars")
_SQRT = ("adam", "adamw", "adamw_8bit", "nadam", "radam", "adamax", "rmsprop", "adagrad", "lamb", "schedule_free_adamw")
_RULES: dict[str, Scaling] = {**dict.fromkeys(_LINEAR, "linear"), **dict.fromkeys(_SQRT, "sqrt")}
_REASONS = {
    "linear": "one step of a k times larger batch stands for k small steps of SGD, as long as the weights move little",
    "sqrt": "an adaptive optimizer divides by the gradient's size, which noise dominates and which falls as 1/sqrt(k)",
}


@dataclass(frozen=True, kw_only=True)
class ScaledRate:
    """The rate for another batch size, and what to do beside it."""

    lr: float
    rule: Scaling
    factor: float
    """How many times as large the batch is."""
    warmup: str | None
    """For a larger batch, the length of a warm-up for the schedule: five epochs, as Goyal et al. had it; else None."""
    reason: str


def scale_rate(
    lr: float,
    *,
    batch_size: int,
    to: int,
    rule: Scaling | None = None,
    for_optimizer: str | None = None,
) -> ScaledRate:
    """Return the rate for batches of ``to`` samples, where ``lr`` was right for ``batch_size``.

    With ``k = to / batch_size``: ``lr * k`` ("linear": SGD; Goyal et al. 2017, arXiv 1706.02677) or ``lr * sqrt(k)``
    ("sqrt": the Adam family; Malladi et al. 2022, arXiv 2205.10287, which also changes the betas: `scale_beta`, and
    divides eps by ``sqrt(k)``). Give the rule, or the name of the optimizer to have it chosen. Either is a first guess,
    which holds up to some batch size only. Batch sizes are those of an update: cutting it into microbatches changes
    nothing.

    >>> scale_rate(0.001, batch_size=32, to=256, for_optimizer="sgd").lr
    0.008
    >>> round(scale_rate(0.001, batch_size=32, to=256, for_optimizer="adamw").lr, 5)
    0.00283
    """
    if not (lr > 0 and math.isfinite(lr)) or batch_size < 1 or to < 1:
        raise SettingError(
            f"scale_rate(lr={lr}, batch_size={batch_size}, to={to}): the rate must be above 0, batch sizes 1 or more"
        )
    if (rule is None) == (for_optimizer is None):
        raise SettingError("give rule='linear' or rule='sqrt', or for_optimizer='adamw' to have it chosen; one of them")
    if for_optimizer is not None:
        rule = _rule_of(for_optimizer)
    if rule not in _REASONS:
        raise SettingError(f"rule={rule!r} is no rule of scaling; use 'linear' or 'sqrt'")
    factor = to / batch_size
    return ScaledRate(
        lr=lr * (factor if rule == "linear" else math.sqrt(factor)),
        rule=rule,
        factor=factor,
        warmup="5 epochs" if factor > 1 else None,
        reason=_REASONS[rule],
    )


def _rule_of(optimizer: str) -> Scaling:
    if optimizer not in _RULES:
        raise SettingError(
            f"no rule is established for the optimizer {optimizer!r}{did_you_mean(optimizer, _RULES)}; known: "
            f"{', '.join(_RULES)}. Look for the rate anew, or give rule= yourself"
        )
    return _RULES[optimizer]


def scale_beta(beta: float, factor: float) -> float:
    """Return ``1 - k (1 - beta)``: the beta of Adam under which a mean over updates spans the same samples.

    Source: Malladi et al. 2022 (arXiv 2205.10287).

    >>> round(scale_beta(0.999, 8), 6), round(scale_beta(0.9, 8), 6)
    (0.992, 0.2)
    """
    scaled = 1 - factor * (1 - beta)
    if not (0 <= beta < 1 and factor > 0 and scaled >= 0):
        raise SettingError(
            f"beta={beta} cannot be scaled to a batch {factor:g} times as large: a beta from 0 to 1 spans "
            f"{1 / (1 - beta) if beta < 1 else math.inf:g} updates, and the factor must be above 0 and at most that"
        )
    return scaled
