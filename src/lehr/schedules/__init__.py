"""Learning-rate schedules: pure functions from a step to a factor on each group's base rate. No torch here."""

from lehr.schedules.constant import Constant, constant
from lehr.schedules.schedule import Schedule, ScheduleSettings
from lehr.schedules.table import SCHEDULES
from lehr.schedules.warmup_cosine import WarmupCosine, warmup_cosine
from lehr.schedules.warmup_linear import WarmupLinear, warmup_linear

__all__ = [
    "SCHEDULES",
    "Constant",
    "Schedule",
    "ScheduleSettings",
    "WarmupCosine",
    "WarmupLinear",
    "constant",
    "warmup_cosine",
    "warmup_linear",
]
