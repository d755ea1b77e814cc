"""The methods that a recipe can name."""

from __future__ import annotations

from lehr.base.tables import Row, Table
from lehr.training.methods.adaptive_clip import AdaptiveGradientClipping
from lehr.training.methods.centralize import GradientCentralization
from lehr.training.methods.clip_value import ClipByValue
from lehr.training.methods.cutmix import CutMix
from lehr.training.methods.dynamic_lowrank import DynamicLowRank
from lehr.training.methods.ema import EMA
from lehr.training.methods.gradient_noise import GradientNoise
from lehr.training.methods.lora import LoRA
from lehr.training.methods.lowrank_layers import LowRankLayers
from lehr.training.methods.mixup import Mixup
from lehr.training.methods.penalty import ElasticNet, L1Penalty, L2Penalty
from lehr.training.methods.progressive_lowrank import ProgressiveLowRank
from lehr.training.methods.proximal_l1 import ProximalL1
from lehr.training.methods.stabilize import StabilizeGradients
from lehr.training.methods.swa import SWA
from lehr.training.methods.unfreeze import GradualUnfreezing

__all__ = ["METHODS"]

METHODS = Table(
    "method",
    [
        Row(name="ema", make=EMA, summary="exponential moving average of the weights, evaluated beside them"),
        Row(name="swa", make=SWA, summary="equal average of the weights late in the run, evaluated beside them"),
        Row(name="mixup", make=Mixup, summary="weighted sums of two samples and of their labels"),
        Row(name="cutmix", make=CutMix, summary="a box of another picture in each, and its label by area"),
        Row(
            name="clip_by_value",
            make=ClipByValue,
            summary="clamps each element of the gradients",
            choose="want a bound on each element; by norm is the usual choice",
        ),
        Row(
            name="adaptive_gradient_clipping",
            make=AdaptiveGradientClipping,
            summary="clips each unit's gradient against the size of its weights",
            choose="train a network without batch norm on large batches",
        ),
        Row(
            name="gradient_noise",
            make=GradientNoise,
            summary="adds normal noise to the gradients, which fades with the step",
            choose="train a very deep plain network that gets stuck at the start",
        ),
        Row(
            name="gradient_centralization",
            make=GradientCentralization,
            summary="subtracts from each output's gradient its mean",
            choose="train a convolutional network from scratch and can afford to compare",
        ),
        Row(
            name="stabilize_gradients",
            make=StabilizeGradients,
            summary="replaces large matrices' gradients by low-rank approximations; costs time, saves nothing",
            choose="want to repeat what the guide calls DBC-DAC, or study the small directions of gradients",
        ),
        Row(
            name="l1_penalty",
            make=L1Penalty,
            summary="adds the sum of absolute weights to the loss",
            choose="want small weights by absolute value; for zeros there is proximal_l1",
        ),
        Row(
            name="l2_penalty",
            make=L2Penalty,
            summary="adds the sum of squared weights to the loss",
            choose="need the penalty in the loss itself; weight decay is the usual choice",
        ),
        Row(
            name="elastic_net",
            make=ElasticNet,
            summary="adds absolute and squared weights to the loss",
            choose="want L1 where features are correlated",
        ),
        Row(
            name="proximal_l1",
            make=ProximalL1,
            summary="thresholds the weights after each update: exact zeros",
            choose="want a sparse model",
        ),
        Row(
            name="gradual_unfreezing",
            make=GradualUnfreezing,
            summary="trains the uppermost block first, one more from the top each epoch",
            choose="fine-tune a trained model on little data",
        ),
        Row(
            name="progressive_lowrank",
            make=ProgressiveLowRank,
            summary="dense layers first, two factors in the place of each from a step on",
            choose="train a model of wide matrices for long, and want the later part to cost less",
        ),
        Row(
            name="lowrank_layers",
            make=LowRankLayers,
            summary="two factors in the place of each layer that gains by it, from the start on",
            choose="can do with less accuracy for less time and memory; else progressive_lowrank",
        ),
        Row(
            name="dynamic_lowrank",
            make=DynamicLowRank,
            summary="layers of two factors, whose rank falls or rises with the step",
            choose="want to see what rank a model needs; otherwise progressive_lowrank",
        ),
        Row(
            name="lora",
            make=LoRA,
            summary="a frozen model, and small pairs of factors beside its layers that train",
            choose="fine-tune a trained model with little memory, or many variants of one",
        ),
    ],
)
