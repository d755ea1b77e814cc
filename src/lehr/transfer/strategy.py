"""Which parts of a trained model to train on new data, and how fast: four cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from lehr.base.errors import SettingError
from lehr.optim.depth import depths
from lehr.optim.rules import Rule

__all__ = ["Strategy", "strategy"]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """What to do with a trained model; a start for a search, not its result."""

    frozen: float
    """Share of the blocks below the head that stay as they are, counted from the input."""
    lr_scale: float
    """What the rate of training from scratch is multiplied by, for the blocks below the head."""
    unfreeze_every: str | None
    """Train the blocks one after another from the top, so far apart, with the method ``gradual_unfreezing``."""
    pretrained: Literal["needed", "optional"]
    """Whether the trained weights are what this works by, or only a start."""
    reason: str
    """Why."""

    def rules(self, model: nn.Module) -> tuple[Rule, ...]:
        """Return the rules for an optimizer of ``model``: which blocks are frozen, and the rate of the others.

        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
        >>> for rule in strategy(data="small", task="different").rules(model):
        ...     print(rule.depth, rule.frozen, rule.rate)
        (0, 0) True None
        (1, 1) None 0.1
        """
        top = max(depths(model).values(), default=0)
        if top == 0:
            raise SettingError(
                f"{type(model).__name__} is a single block, of which nothing can be frozen below a head; a strategy "
                "needs a model with two or more"
            )
        frozen = int(self.frozen * top)
        rules = [Rule(depth=(0, frozen - 1), frozen=True)] if frozen else []
        if self.lr_scale != 1 and frozen < top:
            rules.append(Rule(depth=(frozen, top - 1), rate=self.lr_scale))
        return tuple(rules)


_TABLE = {
    ("small", "similar"): Strategy(
        frozen=1.0,
        lr_scale=1.0,
        unfreeze_every=None,
        pretrained="needed",
        reason="the features fit already, and few samples would only spoil them: train the head alone",
    ),
    ("small", "different"): Strategy(
        frozen=0.5,
        lr_scale=0.1,
        unfreeze_every="1 epoch",
        pretrained="needed",
        reason="the lower features are general and stay; the upper ones belong to the old task and are fine-tuned, "
        "from the top, after the new head has settled",
    ),
    ("large", "similar"): Strategy(
        frozen=0.0,
        lr_scale=0.1,
        unfreeze_every=None,
        pretrained="needed",
        reason="enough data to fine-tune all, and weights near to where they should be: small steps",
    ),
    ("large", "different"): Strategy(
        frozen=0.0,
        lr_scale=1.0,
        unfreeze_every=None,
        pretrained="optional",
        reason="enough data to train everything; the trained weights are a start that may save time",
    ),
}


def strategy(*, data: Literal["small", "large"], task: Literal["similar", "different"]) -> Strategy:
    """Return what to freeze and how fast to train the rest, by the amount of new data and the likeness of the task.

    The four cases are common advice (Yosinski et al. 2014, arXiv 1411.1792, on which features transfer); the numbers
    are usual first choices. "Small" is what a model trained from scratch would learn by heart.

    >>> strategy(data="small", task="similar").frozen, strategy(data="large", task="similar").lr_scale
    (1.0, 0.1)
    """
    if (data, task) not in _TABLE:
        raise SettingError(
            f"strategy(data={data!r}, task={task!r}) is none of the four cases; data is 'small' or 'large', task is "
            "'similar' or 'different'"
        )
    return _TABLE[data, task]
