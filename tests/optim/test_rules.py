"""Rules select by name, class and depth; what they set; and what they must not hide."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lehr
from lehr.base.errors import SettingError
from lehr.base.settings import override
from lehr.models.gpt import GPTSettings
from lehr.optim import SGD, Adam, AdamW, Rule, depths, discriminative, ruled_groups
from lehr.optim.rules import Treatment, treatments
from lehr.recipes.gpt_text import recipe


def gpt(*, tie: bool = False) -> nn.Module:
    return GPTSettings(width=8, depth=3, heads=2, tie=tie).build({"vocab_size": 4, "context": 4})


class Backbone(nn.Module):
    """As the guide's: a pretrained network with a new last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer3 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        self.layer4 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, 2)


def rates(groups: list[dict]) -> dict[int, float]:
    return {id(p): group["lr"] for group in groups for p in group["params"]}


def test_selecting_by_name_class_and_depth() -> None:
    model = gpt()
    assert Rule(pattern="head.*", rate=2).selected(model) == ["head.weight"]
    assert Rule(pattern="blocks.[01].*.out.weight", rate=2).selected(model) == [
        "blocks.0.attention.out.weight",
        "blocks.1.attention.out.weight",
    ]
    assert len(Rule(module="Attention", rate=2).selected(model)) == 6
    assert Rule(module="Embedding", rate=2).selected(model) == ["embedding.weight"]
    assert {depths(model)[name] for name in Rule(depth=(1, 2), rate=2).selected(model)} == {1, 2}
    assert Rule(depth=(-1, -1), rate=2).selected(model) == ["head.weight"]
    assert len(Rule(depth=(-5, 4), rate=2).selected(model)) == len(list(model.parameters()))
    assert Rule(module="Block", pattern="*.up.*", depth=(0, 1), rate=2).selected(model) == ["blocks.0.up.weight"]


def test_classes_count_with_those_they_derive_from() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.GroupNorm(1, 2))
    assert Rule(module="_NormBase", rate=2).selected(model) == ["0.weight", "0.bias"]


def test_a_tied_weight_is_known_by_both_names() -> None:
    model = gpt(tie=True)
    assert Rule(pattern="head.*", rate=2).selected(model) == ["embedding.weight"]
    assert Rule(module="Linear", pattern="head.weight", rate=2).selected(model) == ["embedding.weight"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(pattern="haed.*", rate=2), r"pattern='haed.\*'\) selects no parameter of GPT \(did you mean 'head'"),
        (Rule(module="Blok", rate=2), r"module='Blok'\) selects no .* \(did you mean 'Block'\?\); its modules: Attent"),
        (Rule(depth=(7, 9), frozen=True), r"Rule\(depth=\(7, 9\)\) goes beyond GPT; its depths: 0 to 4, or -5 to -1"),
        (Rule(depth=(0, 5), frozen=True), r"depth=\(0, 5\)\) goes beyond GPT; its depths: 0 to 4, or -5 to -1"),
        (Rule(depth=(-6, 0), frozen=True), r"depth=\(-6, 0\)\) goes beyond GPT"),
        (Rule(depth=(-1, 100), frozen=True), r"depth=\(-1, 100\)\) goes beyond GPT"),
        (Rule(depth=(2, 1), frozen=True), r"depth=\(2, 1\)\) selects no"),
    ],
)
def test_a_rule_that_selects_nothing_says_what_is_near(rule: Rule, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        AdamW(rules=(rule,)).build(gpt())


def test_a_rule_has_to_select_and_to_set_something() -> None:
    with pytest.raises(SettingError, match="needs what it selects by"):
        Rule(rate=2)
    with pytest.raises(SettingError, match="needs what it sets"):
        Rule(pattern="*")
    for wrong in ({"rate": 0}, {"rate": -1}, {"weight_decay": -1}, {"depth": (0,)}):
        with pytest.raises(SettingError):
            Rule(**{"pattern": "*", "rate": 1} | wrong)


def test_the_later_rule_holds_field_by_field() -> None:
    model = gpt()
    plan = treatments(
        model,
        (
            Rule(pattern="*", rate=0.1, frozen=True),
            Rule(module="Attention", weight_decay=0.5),
            Rule(depth=(3, -1), frozen=False, rate=0.2),
        ),
    )
    assert plan["blocks.0.up.weight"] == Treatment(0.1, None, True)
    assert plan["blocks.2.attention.out.weight"] == Treatment(0.2, 0.5, False)
    assert plan["head.weight"] == Treatment(0.2, None, False)


def test_a_rule_sets_decay_where_there_would_be_none_and_the_rest_keeps_its_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 1))
    rules = (Rule(module="LayerNorm", weight_decay=0.3), Rule(pattern="2.weight", weight_decay=0.0))
    groups = ruled_groups(model, lr=1.0, weight_decay=0.1, rules=rules)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert [decay[id(p)] for p in model.parameters()] == [0.1, 0.0, 0.3, 0.3, 0.0, 0.0]


def test_without_rules_the_groups_are_those_of_decay() -> None:
    model = gpt()
    (optimizer,) = AdamW(weight_decay=0.0).build(model)
    assert [len(group["params"]) for group in optimizer.param_groups] == [13, 1]


def test_rates_by_layer_and_by_rule_multiply_and_the_base_rate_comes_first() -> None:
    model = gpt()
    rules = (Rule(pattern="blocks.0.up.*", rate=3.0),)
    groups = ruled_groups(model, lr=1.0, weight_decay=0.0, rules=rules, layer_decay=0.5)
    assert [group["lr"] for group in groups] == [1.0, 0.5, 0.375, 0.25, 0.125, 0.0625]
    found = {name: rates(groups)[id(p)] for name, p in model.named_parameters()}
    assert found["head.weight"] == 1.0 and found["blocks.2.up.weight"] == 0.5
    assert found["blocks.0.up.weight"] == 3 * 0.125 and found["embedding.weight"] == 0.0625


def test_the_guides_discriminative_rates_with_the_other_layers_trained_too() -> None:
    """1e-4 for layer4, 1e-3 for fc, 1e-5 for the others; in the guide's code the others are in no group at all."""
    model = Backbone()
    theirs = torch.optim.Adam(
        [{"params": model.layer4.parameters(), "lr": 1e-4}, {"params": model.fc.parameters(), "lr": 1e-3}], lr=1e-5
    )
    forgotten = {name for name, p in model.named_parameters() if id(p) not in rates(theirs.param_groups)}
    assert {name.partition(".")[0] for name in forgotten} == {"conv1", "bn1", "layer3"}
    settings = Adam(lr=1e-5, rules=discriminative({"layer4.*": 1e-4, "fc.*": 1e-3}, otherwise=1e-5))
    found = rates(settings.build(model)[0].param_groups)
    assert {id(p) for p in model.parameters()} == set(found)
    wanted = {"conv1": 1e-5, "bn1": 1e-5, "layer3": 1e-5, "layer4": 1e-4, "fc": 1e-3}
    for name, parameter in model.named_parameters():
        assert found[id(parameter)] == pytest.approx(wanted[name.partition(".")[0]])
    with pytest.raises(SettingError, match="otherwise=0 is the rate"):
        discriminative({"fc.*": 1e-3}, otherwise=0)


def test_the_guides_two_methods_in_a_row() -> None:
    """After all but fc was frozen, layer4 has to be thawed, or it stays in its group without a gradient."""
    model = Backbone()
    head = SGD(rules=(Rule(pattern="*", frozen=True), Rule(pattern="fc.*", frozen=False))).build(model)[0]
    assert sum(len(group["params"]) for group in head.param_groups) == 2
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]
    deeper = SGD(rules=(Rule(pattern="layer4.*", frozen=False),)).build(model)[0]
    assert sum(len(group["params"]) for group in deeper.param_groups) == 6


def test_rules_from_the_command_line_and_in_a_run(tmp_path: object) -> None:
    changed = override(recipe(), ["optim=adamw", 'optim.rules=[{"pattern": "head.*", "rate": 0.1}]'])
    assert changed.optim.rules == (Rule(pattern="head.*", rate=0.1),)
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    run = lehr.Recipe(
        model=lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)),
        data=lehr.Data(train=(x, (x[:, 0] > 0).long()), batch_size=8),
        objective=nn.CrossEntropyLoss(),
        optim=AdamW(lr=0.1, rules=(Rule(pattern="0.*", frozen=True),)),
        steps=3,
    )
    trainer = lehr.Trainer(run, run_dir=tmp_path)  # type: ignore[arg-type]
    before = trainer.model[0].weight.detach().clone()  # type: ignore[index]
    for batch in trainer.batches():
        trainer.step(batch)
    assert torch.equal(trainer.model[0].weight, before)  # type: ignore[index]
