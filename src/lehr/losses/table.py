"""The losses that a recipe can name, and the task that each is for."""

from __future__ import annotations

from lehr.base.tables import Row, Table
from lehr.losses.bce import bce
from lehr.losses.cross_entropy import cross_entropy
from lehr.losses.distillation import Distilled
from lehr.losses.focal_loss import binary_focal_loss, focal_loss
from lehr.losses.label_smoothing import label_smoothing
from lehr.losses.mae import mae
from lehr.losses.mse import mse
from lehr.losses.supervised import Supervised
from lehr.losses.z_loss import z_loss

__all__ = ["LOSSES"]

LOSSES = Table(
    "loss",
    [
        Row(
            name="mse",
            make=lambda: Supervised(loss=mse),
            summary="mean squared error",
            choose="predict numbers, and large errors are the worst ones",
        ),
        Row(
            name="mae",
            make=lambda: Supervised(loss=mae),
            summary="mean absolute error",
            choose="predict numbers, and some targets are outliers that must not rule",
        ),
        Row(
            name="bce",
            make=lambda: Supervised(loss=bce),
            summary="binary cross entropy of logits",
            choose="decide yes or no, for one or several labels that do not exclude each other",
        ),
        Row(
            name="cross_entropy",
            make=lambda: Supervised(loss=cross_entropy),
            summary="cross entropy over classes, of labels or probabilities",
            choose="choose one of several classes, such as the next token",
        ),
        Row(
            name="label_smoothing",
            make=lambda: Supervised(loss=label_smoothing, val_loss=cross_entropy),
            summary="cross entropy against targets that are not quite sure",
            choose="choose one of several classes, and the model grows too sure or some labels are wrong",
        ),
        Row(
            name="focal_loss",
            make=lambda: Supervised(loss=focal_loss, val_loss=cross_entropy),
            summary="cross entropy that turns down what is classified well",
            choose="choose one of several classes, and most samples are easy ones of few classes",
        ),
        Row(
            name="binary_focal_loss",
            make=lambda: Supervised(loss=binary_focal_loss, val_loss=bce),
            summary="the same for two classes, of logits",
            choose="decide yes or no, and positives are rare among many easy negatives, as in detection",
        ),
        Row(
            name="z_loss",
            make=lambda: Supervised(loss=z_loss, val_loss=cross_entropy),
            summary="cross entropy with a penalty on log Z",
            choose="train on a large vocabulary in 16 bits, and the logits drift",
        ),
        Row(
            name="distillation",
            make=Distilled,
            summary="cross entropy and a teacher's softened distribution",
            choose="want a small model, and can run a large trained one beside it",
        ),
    ],
)
"""Each row makes an objective; those that are no plain cross entropy are validated on the plain one."""
