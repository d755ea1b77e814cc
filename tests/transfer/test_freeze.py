"""What is frozen stays as it is, statistics included; and what the guide's two methods do in sequence."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import Mlp, recipe, run_steps, same_files, weights
from torch import Tensor, nn

import lehr
from lehr.base.errors import LehrWarning, SettingError
from lehr.optim import SGD, AdamW, Rule, discriminative
from lehr.transfer import freeze, replace_head, unfreeze


class Backbone(nn.Module):
    """As small as can be, with the names of the guide's ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(1, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm1d(4)
        self.layer4 = nn.Conv1d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.layer4(torch.relu(self.bn1(self.conv1(x[:, None]))))).mean(dim=2))


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
    """Return the names of the parameters that one update has changed."""
    before = weights(model)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    F.cross_entropy(model(x), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    optimizer.step()
    optimizer.zero_grad()
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def test_the_guides_groups_leave_the_other_layers_untrained() -> None:
    """It gives Adam two groups and a rate "for the other layers", which are in no group."""
    torch.manual_seed(0)
    model = Backbone()
    guide = torch.optim.Adam(
        [{"params": model.layer4.parameters(), "lr": 1e-4}, {"params": model.fc.parameters(), "lr": 1e-3}], lr=1e-5
    )
    assert {name.partition(".")[0] for name in one_step(model, guide)} == {"layer4", "fc"}


def test_discriminative_rates_train_the_other_layers_too() -> None:
    torch.manual_seed(0)
    model = Backbone()
    rules = discriminative({"layer4.*": 1e-4, "fc.*": 1e-3}, otherwise=1e-5)
    (optimizer,) = AdamW(lr=1e-5, rules=rules).build(model)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = {"layer4": 1e-4, "fc": 1e-3}.get(name.partition(".")[0], 1e-5)
        assert rates[id(parameter)] == pytest.approx(expected), name
    before = weights(model)
    moved = one_step(model, optimizer)
    assert {name.partition(".")[0] for name in moved} >= {"conv1", "bn1", "layer4", "fc"}
    # the first step of Adam moves each weight by its rate
    for name, rate in (("conv1.weight", 1e-5), ("layer4.weight", 1e-4), ("fc.weight", 1e-3)):
        most = (model.get_parameter(name).detach() - before[name]).abs().max()
        assert float(most) == pytest.approx(rate, rel=0.1), name


def test_after_method_1_nothing_but_the_head_has_gradients() -> None:
    """Method 2 after method 1: layer4 stands in the optimizer, and gets nothing. `unfreeze` is what was left out."""
    torch.manual_seed(0)
    model = Backbone()
    freeze(model)
    replace_head(model, 3, name="fc")
    groups = [{"params": list(model.layer4.parameters()), "lr": 1e-4}, {"params": list(model.fc.parameters())}]
    optimizer = torch.optim.Adam(groups, lr=1e-3)
    assert one_step(model, optimizer) == {"fc.weight", "fc.bias"}
    unfreeze(model, "layer4.*")
    assert one_step(model, optimizer) == {"fc.weight", "fc.bias", "layer4.weight", "layer4.bias"}


def frozen_backbone() -> nn.Module:
    model = Mlp()
    freeze(model, ["first.*", "norm.*"])
    return model


@pytest.mark.parametrize("optim", [AdamW(lr=0.05, weight_decay=0.5), SGD(lr=0.1, momentum=0.9, weight_decay=0.5)])
def test_a_frozen_part_does_not_move_in_a_run(tmp_path: Path, optim: Any) -> None:
    """Neither decay nor momentum reaches it, its running statistics stay, and nobody is warned of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = lehr.Trainer(recipe(model=frozen_backbone, optim=optim), run_dir=tmp_path / "run")
    before = weights(trainer.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.fit()
    after = weights(trainer.model)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"last.weight", "last.bias"}
    assert not trainer.model.norm.training and trainer.model.drop.training


def test_rules_freeze_norms_as_well(tmp_path: Path) -> None:
    rules = (Rule(pattern="first.*", frozen=True), Rule(pattern="norm.*", frozen=True))
    trainer = lehr.Trainer(recipe(optim=AdamW(lr=0.05, rules=rules)), run_dir=tmp_path / "run")
    before = weights(trainer.model)
    trainer.fit()
    after = weights(trainer.model)
    assert {name for name in after if not torch.equal(before[name], after[name])} == {"last.weight", "last.bias"}


def test_a_norm_that_is_frozen_but_left_in_training_mode_drifts(tmp_path: Path) -> None:
    """Why freezing includes the mode: ``requires_grad_(False)`` alone does not hold the statistics."""

    def halfway() -> nn.Module:
        model = Mlp()
        model.norm.requires_grad_(False)
        return model

    trainer = lehr.Trainer(recipe(model=halfway), run_dir=tmp_path / "run")
    trainer.fit()
    assert int(trainer.model.norm.num_batches_tracked) == 15


def test_a_frozen_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    lehr.train(recipe(model=frozen_backbone), run_dir=tmp_path / "whole")
    run_steps(lehr.Trainer(recipe(model=frozen_backbone), run_dir=tmp_path / "cut"), 10)
    lehr.resume(tmp_path / "cut", recipe=recipe(model=frozen_backbone))
    last = Path("checkpoints") / "step-00000015"
    same_files(tmp_path / "whole" / last, tmp_path / "cut" / last, ["model.safetensors", "optimizer.safetensors"])


def test_preflight_still_warns_of_a_norm_that_trains_in_evaluation_mode(tmp_path: Path) -> None:
    def evaluating() -> nn.Module:
        model = Mlp()
        model.norm.eval()
        return model

    with pytest.warns(LehrWarning, match=r"1 modules with parameters are in evaluation mode"):
        lehr.Trainer(recipe(model=evaluating), run_dir=tmp_path / "run")


def test_partly_frozen_norms_and_those_without_parameters_stay_in_training_mode() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, affine=False), nn.LayerNorm(2))
    freeze(model, ["0.weight", "2.*"])
    assert [module.training for module in model] == [True, True, True]
    assert freeze(model, "0.bias") == ["0.bias"]
    assert [module.training for module in model] == [False, True, True]
    unfreeze(model, "0.bias")
    assert [module.training for module in model] == [True, True, True]


def test_a_tied_weight_is_one_parameter_under_any_of_its_names() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(3, 2), "head": nn.Linear(2, 3, bias=False)})
    model["head"].weight = model["embedding"].weight
    assert freeze(model, "head.*") == ["embedding.weight"]
    assert not model["embedding"].weight.requires_grad


def test_a_pattern_that_matches_nothing_is_refused_before_anything_is_frozen() -> None:
    model = Mlp()
    with pytest.raises(SettingError, match=r"'frist.\*' matches no parameter of Mlp.*first.weight, first.bias"):
        freeze(model, ["last.*", "frist.*"])
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(SettingError, match=r"its parameters: none"):
        unfreeze(nn.ReLU(), "*")
