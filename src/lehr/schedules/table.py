"""The schedules that a recipe can name, and when to choose which."""

from __future__ import annotations

from lehr.base.tables import Row, Table
from lehr.schedules.annealing import Annealing
from lehr.schedules.constant import Constant
from lehr.schedules.cosine import Cosine
from lehr.schedules.cosine_restarts import CosineRestarts
from lehr.schedules.cyclic import Cyclic
from lehr.schedules.exponential import Exponential
from lehr.schedules.inverse_sqrt import InverseSqrt
from lehr.schedules.linear import Linear
from lehr.schedules.multi_step import MultiStep
from lehr.schedules.noam import Noam
from lehr.schedules.one_cycle import OneCycle
from lehr.schedules.plateau import Plateau
from lehr.schedules.polynomial import Polynomial
from lehr.schedules.step import StepDecay
from lehr.schedules.warmup import Warmup
from lehr.schedules.warmup_cosine import WarmupCosine
from lehr.schedules.warmup_linear import WarmupLinear
from lehr.schedules.wsd import WSD

__all__ = ["SCHEDULES"]

SCHEDULES = Table(
    "schedule",
    [
        Row(
            name="constant",
            make=Constant,
            summary="the base rate throughout, after an optional linear warm-up",
            choose="are looking for a rate, or trying whether a model learns at all",
        ),
        Row(
            name="warmup_cosine",
            make=WarmupCosine,
            summary="linear warm-up, then a cosine to the floor",
            choose="want the best result of a run of known length, of a Transformer above all",
        ),
        Row(
            name="warmup_linear",
            make=WarmupLinear,
            summary="linear warm-up, then a straight line to the floor",
            choose="want the best result of a short run of known length",
        ),
        Row(
            name="step",
            make=StepDecay,
            summary="times gamma after every so many steps or epochs",
            choose="want a baseline to compare with",
        ),
        Row(
            name="multi_step",
            make=MultiStep,
            summary="times gamma at each milestone",
            choose="want a baseline to compare with whose milestones are given, as a published run lists them",
        ),
        Row(
            name="exponential",
            make=Exponential,
            summary="a smooth exponential decay",
            choose="want a steady decay in a run of unknown length",
        ),
        Row(
            name="cosine",
            make=Cosine,
            summary="half a cosine from the base rate to the floor",
            choose="want the best result of a run of known length that needs no warm-up",
        ),
        Row(
            name="cosine_restarts",
            make=CosineRestarts,
            summary="a cosine again and again, with longer or lower cycles if wanted",
            choose="want several usable models on the way, one at the end of each cycle",
        ),
        Row(
            name="linear",
            make=Linear,
            summary="a straight line between two factors",
            choose="need a straight part of a sequence of schedules",
        ),
        Row(
            name="polynomial",
            make=Polynomial,
            summary="a power of what is left of the run",
            choose="train a segmentation, with power 0.9",
        ),
        Row(
            name="one_cycle",
            make=OneCycle,
            summary="up to a high peak, then far down; the momentum the other way if wanted",
            choose="want the best result of a short run at a high rate, with SGD",
        ),
        Row(
            name="cyclic",
            make=Cyclic,
            summary="to and fro between two bounds",
            choose="know a range of good rates, but not the best",
        ),
        Row(
            name="warmup",
            make=Warmup,
            summary="a rise to the base rate, and no decay",
            choose="see the first steps diverge: put it before any other schedule",
        ),
        Row(
            name="inverse_sqrt",
            make=InverseSqrt,
            summary="linear warm-up, then the inverse square root of the step",
            choose="train a Transformer for an unknown length",
        ),
        Row(
            name="noam",
            make=Noam,
            summary="the first Transformer's rate itself, for optim.lr=1",
            choose="repeat the first Transformer",
        ),
        Row(
            name="wsd",
            make=WSD,
            summary="warm-up, stable, decay",
            choose="may go on with the run later, or end it at several lengths",
        ),
        Row(
            name="annealing",
            make=Annealing,
            summary="geometric cooling to a lowest temperature, as in simulated annealing",
            choose="want an exponential decay that does not fall below a floor",
        ),
        Row(
            name="plateau",
            make=Plateau,
            summary="falls when an evaluation no longer improves",
            choose="want the validation data to say when the rate falls",
        ),
    ],
)
