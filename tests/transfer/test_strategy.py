"""The four cases of new data and task, and what they make of a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lehr.base.errors import SettingError
from lehr.optim import AdamW
from lehr.transfer import Strategy, strategy


def layers(count: int = 5) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(2, 2) for _ in range(count)))


def rates(chosen: Strategy, model: nn.Module, lr: float = 0.1) -> list[float]:
    """Return the rate of each layer; 0 for a frozen one."""
    held = AdamW(lr=lr, rules=chosen.rules(model)).build(model)
    rate_of = {id(p): group["lr"] for optimizer in held for group in optimizer.param_groups for p in group["params"]}
    return [round(rate_of.get(id(layer.weight), 0.0), 9) for layer in model]


@pytest.mark.parametrize(
    ("data", "task", "expected"),
    [
        ("small", "similar", [0, 0, 0, 0, 0.1]),
        ("small", "different", [0, 0, 0.01, 0.01, 0.1]),
        ("large", "similar", [0.01, 0.01, 0.01, 0.01, 0.1]),
        ("large", "different", [0.1, 0.1, 0.1, 0.1, 0.1]),
    ],
)
def test_the_guides_table(data: Any, task: Any, expected: list[float]) -> None:
    """Train the top; freeze the bottom and fine-tune the top; fine-tune all at a small rate; train all."""
    chosen = strategy(data=data, task=task)
    assert rates(chosen, layers()) == expected
    assert chosen.pretrained == ("optional" if (data, task) == ("large", "different") else "needed")
    assert (chosen.unfreeze_every is not None) == ((data, task) == ("small", "different"))
    assert len(chosen.reason) > 20


@pytest.mark.parametrize(("count", "frozen"), [(2, 0), (3, 1), (4, 1), (5, 2), (13, 6)])
def test_the_head_and_half_of_the_rest_train_when_data_is_small_and_different(count: int, frozen: int) -> None:
    assert sum(rate == 0 for rate in rates(strategy(data="small", task="different"), layers(count))) == frozen


def test_the_schedule_of_unfreezing_is_one_that_the_method_takes() -> None:
    from lehr.training.methods import GradualUnfreezing

    assert str(GradualUnfreezing(every=strategy(data="small", task="different").unfreeze_every).every) == "1 epochs"


def test_it_works_on_the_reference_models() -> None:
    from lehr.models.resnet import ResNetSettings

    model = ResNetSettings(width=8, blocks=1).build({"channels": 3, "num_classes": 4})
    AdamW(rules=strategy(data="small", task="similar").rules(model)).build(model)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    model(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert norms and all(torch.equal(n.running_mean, b) for n, b in zip(norms, before, strict=True))  # type: ignore[arg-type]


def test_what_is_no_case_is_refused() -> None:
    with pytest.raises(SettingError, match=r"data='middling', task='similar'.* 'small' or 'large'"):
        strategy(data="middling", task="similar")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"Linear is a single block"):
        strategy(data="small", task="similar").rules(nn.Linear(2, 2))
