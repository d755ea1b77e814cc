"""The optimizers that a recipe can name."""

from __future__ import annotations

from lehr.base.tables import Row, Table
from lehr.optim.adafactor import Adafactor
from lehr.optim.adagrad import Adagrad
from lehr.optim.adam import Adam
from lehr.optim.adamw import AdamW
from lehr.optim.adamw_8bit import AdamW8bit
from lehr.optim.lion import Lion
from lehr.optim.lowrank import Projected
from lehr.optim.muon import Muon
from lehr.optim.rmsprop import RMSprop
from lehr.optim.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from lehr.optim.sgd import SGD
from lehr.optim.soap import SOAP

__all__ = ["OPTIMIZERS"]

OPTIMIZERS = Table(
    "optimizer",
    [
        Row(
            name="adamw",
            make=AdamW,
            summary="Adam with decoupled weight decay; the first choice for Transformers",
            choose="train a Transformer, fine-tune a pretrained model, or do not know where to start",
        ),
        Row(
            name="muon",
            make=Muon,
            summary="orthogonalized momentum for hidden matrices, AdamW for the rest",
            choose="train a Transformer from scratch and count the steps",
        ),
        Row(
            name="sgd",
            make=SGD,
            summary="stochastic gradient descent with momentum, Nesterov's too",
            choose="want the best generalization of a network on pictures, and have time to tune the rate",
        ),
        Row(
            name="adam",
            make=Adam,
            summary="Adam, with weight decay as L2 in the gradient",
            choose="want a quick experiment without weight decay, or to repeat a result that was made with Adam",
        ),
        Row(
            name="adagrad",
            make=Adagrad,
            summary="rates that fall with the sum of squared gradients; takes sparse gradients",
            choose="have sparse data, such as words that are seldom there",
        ),
        Row(
            name="rmsprop",
            make=RMSprop,
            summary="gradients over the root of a running mean of their squares",
            choose="train a recurrent network or an agent, or have sparse data that changes with time",
        ),
        Row(
            name="lion",
            make=Lion,
            summary="the sign of the momentum; one number of state per weight",
            choose="have large batches and want half of AdamW's state",
        ),
        Row(
            name="schedule_free_adamw",
            make=ScheduleFreeAdamW,
            summary="AdamW with an average of the weights in place of a falling schedule",
            choose="do not know how long you will train",
        ),
        Row(
            name="schedule_free_sgd",
            make=ScheduleFreeSGD,
            summary="SGD with an average of the weights in place of a falling schedule",
            choose="would take SGD, and do not know how long you will train",
        ),
        Row(
            name="soap",
            make=SOAP,
            summary="Adam in the eigenbasis of Shampoo's preconditioner",
            choose="want fewer steps than AdamW needs, and can pay for more memory and time in each",
        ),
        Row(
            name="adafactor",
            make=Adafactor,
            summary="second moments as rows times columns, no momentum",
            choose="are short of memory for the optimizer's state",
        ),
        Row(
            name="projected",
            make=Projected,
            summary="AdamW, or another, with its state in a few directions of each matrix",
            choose="are short of memory for the optimizer's state, and want AdamW's loss",
        ),
        Row(
            name="adamw_8bit",
            make=AdamW8bit,
            summary="AdamW whose moments take a byte each",
            needs="quant",
            choose="want AdamW with a quarter of its state",
        ),
    ],
)
