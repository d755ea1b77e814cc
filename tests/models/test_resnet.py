"""The options of the residual network; without them it is what it was before it had any."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.layers.drop_path import DropPath
from lehr.models.resnet import ResNet, ResNetSettings

FACTS = {"channels": 3, "num_classes": 5}


def pictures() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def built(**options: object) -> ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ResNetSettings(**{"width": 8, "blocks": 1} | options).build(FACTS)


class Plain(nn.Module):
    """The default network, written out in torch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.ModuleList()
        for before, after, stride in ((width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)):
            block = nn.Module()
            block.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
            block.norm1 = nn.BatchNorm2d(after)
            block.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
            block.norm2 = nn.BatchNorm2d(after)
            nn.init.zeros_(block.norm2.weight)
            block.shortcut = nn.Identity()
            if stride == 2:
                block.shortcut = nn.Sequential(
                    nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
                )
            self.stages.append(block)
        self.head = nn.Linear(4 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.stages:
            y = F.relu(block.norm1(block.conv1(x)))
            x = F.relu(block.norm2(block.conv2(y)) + block.shortcut(x))
        return self.head(x.mean(dim=(2, 3)))


def test_default_network_is_the_plain_one_bit_for_bit() -> None:
    ours = built()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = Plain(8)
    for model in (ours, plain):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            model(pictures()).square().mean().backward()
            optimizer.step()
    assert list(ours.state_dict()) == list(plain.state_dict())
    for name, value in ours.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


@pytest.mark.parametrize("order", ["conv-norm-act", "conv-act-norm", "norm-act-conv"])
@pytest.mark.parametrize("norm", ["batch", "layer", "group", "instance", "rms"])
def test_every_order_and_norm_trains(order: str, norm: str) -> None:
    model, target = built(order=order, norm=norm), torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(pictures()), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())] == []


@pytest.mark.parametrize("order", ["conv-norm-act", "conv-act-norm", "norm-act-conv"])
def test_branches_begin_at_zero(order: str) -> None:
    model = built(order=order)
    assert all(not bool(block.last.weight.any()) for block in model.stages)


def test_stem_and_end_fit_the_order() -> None:
    kinds = {o: [type(m) for m in built(order=o).stem] for o in ("conv-norm-act", "conv-act-norm", "norm-act-conv")}
    assert kinds["conv-norm-act"] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert kinds["conv-act-norm"] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d]
    assert kinds["norm-act-conv"] == [nn.Conv2d]
    assert [type(m) for m in built(order="norm-act-conv").end] == [nn.BatchNorm2d, nn.ReLU]


def test_drop_path_grows_with_depth() -> None:
    model = built(blocks=2, drop_path=0.6)
    rates = [m.p for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingError, match="groups=8 does not divide 12 channels; use one of 1, 2, 3, 4, 6, 12"):
        ResNetSettings(width=12, norm="group")
    with pytest.raises(SettingError, match="groups=4 with norm='batch'; groups are of norm='group' alone"):
        ResNetSettings(groups=4)
    with pytest.raises(SettingError, match="did you mean 'batch'"):
        ResNetSettings(norm="bach")
    with pytest.raises(SettingError, match="did you mean 'norm-act-conv'"):
        ResNetSettings(order="norm-act-con")
    with pytest.raises(SettingError, match="less than 1"):
        ResNetSettings(drop_path=1.0)
