"""Learning-rate schedules: functions from a step to a factor on each group's base rate. `adapter` alone needs torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lehr.schedules.annealing import Annealing, annealing
from lehr.schedules.combine import COMBINATORS, Clipped, Repeated, Scaled, Then, Times
from lehr.schedules.constant import Constant, constant
from lehr.schedules.cosine import Cosine, cosine
from lehr.schedules.cosine_restarts import CosineRestarts, cosine_restarts
from lehr.schedules.cyclic import Cyclic, cyclic, cyclic_height
from lehr.schedules.exponential import Exponential, exponential
from lehr.schedules.expression import parse
from lehr.schedules.function import Function
from lehr.schedules.inverse_sqrt import InverseSqrt, inverse_sqrt
from lehr.schedules.linear import Linear, linear
from lehr.schedules.multi_step import MultiStep, multi_step
from lehr.schedules.noam import Noam, noam
from lehr.schedules.one_cycle import OneCycle, one_cycle, one_cycle_momentum
from lehr.schedules.plateau import Plateau, plateau
from lehr.schedules.polynomial import Polynomial, polynomial
from lehr.schedules.schedule import Schedule, ScheduleSettings, observers
from lehr.schedules.step import StepDecay, step_decay
from lehr.schedules.table import SCHEDULES
from lehr.schedules.warmup import Warmup, warmup
from lehr.schedules.warmup_cosine import WarmupCosine, warmup_cosine
from lehr.schedules.warmup_linear import WarmupLinear, warmup_linear
from lehr.schedules.wsd import WSD, wsd

if TYPE_CHECKING:
    from lehr.schedules.adapter import as_torch as as_torch
    from lehr.schedules.adapter import from_torch as from_torch

__all__ = [
    "COMBINATORS",
    "SCHEDULES",
    "WSD",
    "Annealing",
    "Clipped",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Cyclic",
    "Exponential",
    "Function",
    "InverseSqrt",
    "Linear",
    "MultiStep",
    "Noam",
    "OneCycle",
    "Plateau",
    "Polynomial",
    "Repeated",
    "Scaled",
    "Schedule",
    "ScheduleSettings",
    "StepDecay",
    "Then",
    "Times",
    "Warmup",
    "WarmupCosine",
    "WarmupLinear",
    "annealing",
    "as_torch",
    "constant",
    "cosine",
    "cosine_restarts",
    "cyclic",
    "cyclic_height",
    "exponential",
    "from_torch",
    "inverse_sqrt",
    "linear",
    "multi_step",
    "noam",
    "observers",
    "one_cycle",
    "one_cycle_momentum",
    "parse",
    "plateau",
    "polynomial",
    "step_decay",
    "warmup",
    "warmup_cosine",
    "warmup_linear",
    "wsd",
]


def __getattr__(name: str) -> Any:
    if name in ("as_torch", "from_torch"):
        return getattr(importlib.import_module("lehr.schedules.adapter"), name)
    raise AttributeError(f"module 'lehr.schedules' has no attribute {name!r}")
