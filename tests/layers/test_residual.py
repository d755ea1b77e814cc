"""The residual block: where its norms stand, what its shortcut carries, and branches that begin at zero."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.layers import ResidualBlock, norm, scale_residual, zero_init_residual
from lehr.layers.residual import Order

ORDERS: tuple[Order, ...] = ("conv-norm-act", "conv-act-norm", "norm-act-conv")


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def block(*args: int, **options: object) -> ResidualBlock:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = ResidualBlock(*args, **options)  # type: ignore[arg-type]
        for name, parameter in made.named_parameters():
            if "norm" in name:
                nn.init.uniform_(parameter, 0.5, 1.5)
    return made


def batch_norm(x: Tensor, module: nn.Module) -> Tensor:
    """Batch norm written out."""
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    shape = (1, -1, 1, 1)
    return (x - mean) / (variance + 1e-5).sqrt() * module.weight.view(shape) + module.bias.view(shape)


@pytest.mark.parametrize("order", ORDERS)
def test_three_positions_of_the_norm(order: Order) -> None:
    made, x = block(4, 4, order=order), pictures(6, 4, 5, 5)
    one, two = (functools.partial(F.conv2d, weight=c.weight, padding=1) for c in (made.conv1, made.conv2))
    norm1, norm2 = (functools.partial(batch_norm, module=m) for m in (made.norm1, made.norm2))
    wanted = {
        "conv-norm-act": lambda: (norm2(two(norm1(one(x)).relu())) + x).relu(),
        "conv-act-norm": lambda: norm2(two(norm1(one(x).relu())).relu()) + x,
        "norm-act-conv": lambda: two(norm2(one(norm1(x).relu())).relu()) + x,
    }[order]()
    assert torch.allclose(made(x), wanted, atol=1e-5)


def test_block_of_the_guide() -> None:
    """conv3x3, batch norm, relu, conv3x3, batch norm, plus the input, relu: the default, channels kept."""
    made = ResidualBlock(16, 16)
    kinds = [type(made.conv1), type(made.norm1), type(made.conv2), type(made.norm2), type(made.shortcut)]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.Conv2d, nn.BatchNorm2d, nn.Identity]
    assert made.conv1.kernel_size == (3, 3) and made.conv1.padding == (1, 1)
    out = made(pictures(2, 16, 8, 8))
    assert out.shape == (2, 16, 8, 8) and bool((out >= 0).all())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("before", "after", "stride"), [(4, 4, 1), (4, 8, 1), (4, 4, 2), (4, 8, 2)])
def test_shortcut_fits_where_the_shape_changes(order: Order, before: int, after: int, stride: int) -> None:
    made = block(before, after, stride, order=order)
    out = made(pictures(3, before, 8, 8))
    assert out.shape == (3, after, 8 // stride, 8 // stride)
    assert isinstance(made.shortcut, nn.Identity) == (before == after and stride == 1)
    out.square().sum().backward()
    assert [name for name, p in made.named_parameters() if p.grad is None or not bool(p.grad.any())] == []


def test_pre_activation_leaves_the_shortcut_free() -> None:
    made, x = block(4, 4, order="norm-act-conv"), pictures(3, 4, 5, 5)
    zero_init_residual(made)
    assert torch.equal(made(x), x)


@pytest.mark.parametrize("order", ORDERS)
def test_zero_initialized_branches_pass_on_what_they_get(order: Order) -> None:
    made, x = block(4, 4, order=order), pictures(3, 4, 5, 5).abs()
    before = {name: p.clone() for name, p in made.named_parameters()}
    [name] = zero_init_residual(made)
    assert torch.equal(made(x), x)
    changed = {n for n, p in made.named_parameters() if not torch.equal(p, before[n])}
    assert {n.rpartition(".")[0] for n in changed} == {name}
    made(x).square().sum().backward()
    assert bool(made.last.weight.grad.any())  # so the branch leaves zero with the first step


def test_zero_initialization_by_name_for_models_of_ones_own() -> None:
    model = nn.ModuleDict({f"layer{i}": nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for i in range(3)})
    assert zero_init_residual(model, "layer*.1") == ["layer0.1", "layer1.1", "layer2.1"]
    assert not any(bool(p.any()) for n, p in model.named_parameters() if n.split(".")[1] == "1")
    assert all(bool(p.any()) for n, p in model.named_parameters() if n.split(".")[1] == "0")


def test_scaled_branches_add_up_to_the_variance_of_one() -> None:
    generator = torch.Generator().manual_seed(0)
    depth, width = 32, 256
    model = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
    for layer in model:
        nn.init.normal_(layer.weight, std=width**-0.5, generator=generator)
    plain = sum((layer(x) for layer, x in zip(model, torch.randn(depth, 64, width, generator=generator), strict=True)))
    assert plain.var().item() == pytest.approx(depth, rel=0.1)
    assert len(scale_residual(model, "*")) == depth
    scaled = sum((layer(x) for layer, x in zip(model, torch.randn(depth, 64, width, generator=generator), strict=True)))
    assert scaled.var().item() == pytest.approx(1, rel=0.1)


def test_drop_path_drops_the_branch_and_keeps_the_shortcut() -> None:
    made, x = block(4, 4, order="norm-act-conv", drop_path=0.5), pictures(64, 4, 3, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        same = (made(x) == x).flatten(1).all(1)
    assert 16 < int(same.sum()) < 48
    made.eval()
    assert not bool((made(x) == x).flatten(1).all(1).any())


def test_norm_can_be_chosen() -> None:
    made = ResidualBlock(8, 8, norm=functools.partial(norm, "group", groups=4))
    assert isinstance(made.norm1, nn.GroupNorm) and isinstance(made.norm2, nn.GroupNorm)


def test_gradients_arrive_through_the_shortcuts() -> None:
    """30 linear branches that shrink everything to a tenth: alone nothing is left, beside shortcuts all of it."""
    x = torch.ones(1, requires_grad=True)
    plain, with_shortcut = x, x
    for _ in range(30):
        plain = 0.1 * plain
        with_shortcut = with_shortcut + 0.1 * with_shortcut
    assert torch.autograd.grad(plain, x)[0].item() == pytest.approx(1e-30, rel=1e-4)
    assert torch.autograd.grad(with_shortcut, x)[0].item() == pytest.approx(1.1**30, rel=1e-4)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(SettingError, match=r"unknown order 'norm-conv-act' \(did you mean"):
        ResidualBlock(4, 4, order="norm-conv-act")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="0 <= p < 1"):
        ResidualBlock(4, 4, drop_path=1.0)
    with pytest.raises(SettingError, match="has no ResidualBlock; name what ends its branches"):
        zero_init_residual(nn.Linear(2, 2))
    with pytest.raises(SettingError, match="no module of Sequential matches 'bn2'; its first ones: 0"):
        zero_init_residual(nn.Sequential(nn.Linear(2, 2)), "bn2")
    with pytest.raises(SettingError, match="0 is a ReLU without a weight"):
        zero_init_residual(nn.Sequential(nn.ReLU()), "0")
    with pytest.raises(SettingError, match="needs the names"):
        scale_residual(nn.Linear(2, 2))
    with pytest.raises(SettingError, match="0 is a ReLU without a weight"):
        scale_residual(nn.Sequential(nn.ReLU()), "0")
