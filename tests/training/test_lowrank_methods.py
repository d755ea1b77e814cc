"""Low rank in a run: the switch, what the optimizer and a checkpoint know of it, and resuming on either side."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_same, exact, points, recipe, run_steps, weights
from torch import Tensor, nn

import lehr
from lehr.base.errors import CheckpointError, LehrWarning, NoEffectWarning, SettingError
from lehr.base.protocols import Method, Place
from lehr.base.settings import override
from lehr.checkpoint.store import CheckpointStore
from lehr.losses import Supervised, cross_entropy
from lehr.lowrank import LoRALinear, LowRankLinear
from lehr.optim import OPTIMIZERS, SGD, AdamW, Muon
from lehr.run.opened import open_run
from lehr.run.recipe import Evaluate, Recipe, Save, Track
from lehr.training.methods import (
    EMA,
    SWA,
    DynamicLowRank,
    GradualUnfreezing,
    L1Penalty,
    LoRA,
    LowRankLayers,
    ProgressiveLowRank,
)

WIDTH = 48


class Wide(nn.Module):
    """Two hidden matrices, attention between them."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.first, self.up, self.down = nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, width)
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, 3)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        y = self.norm(x).view(-1, 1, x.shape[-1])
        x = x + self.attention(y, y, y, need_weights=False)[0].view_as(x)
        return self.last(x + self.down(self.drop(torch.relu(self.up(x)))))


class Deep(Wide):
    """Its attention lies deeper than the other layers, and comes before them."""

    def __init__(self) -> None:
        super().__init__()
        up, down, self.attention = self.up, self.down, nn.Module()
        del self.up, self.down
        self.attention.layer = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.up, self.down = up, down

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        y = self.norm(x)[:, None]
        x = x + self.attention.layer(y, y, y, need_weights=False)[0][:, 0]
        return self.last(x + self.down(self.drop(torch.relu(self.up(x)))))


HIDDEN = ("up", "down", "attention.*")


def progressive(**changes: Any) -> ProgressiveLowRank:
    fields: dict[str, Any] = {"at": 7, "ratio": 0.25, "layers": HIDDEN, "batches": 2, "allowed": 9.0}
    return ProgressiveLowRank(**fields | changes)


def made(*methods: Any, **changes: Any) -> Recipe:
    return recipe(model=Wide, methods=methods, **changes)


def held(trainer: lehr.Trainer) -> list[Tensor]:
    return [p for o in trainer.loop.update.optimizers for group in o.param_groups for p in group["params"]]


def test_the_switch_puts_factors_into_the_model_and_the_optimizer_and_they_move(tmp_path: Path) -> None:
    trainer = lehr.Trainer(made(progressive()), run_dir=tmp_path / "run")
    seen: list[dict[str, Tensor]] = []
    for batch in trainer.batches():
        trainer.step(batch)
        seen.append(weights(trainer.model))
    layers = {name: m for name, m in trainer.model.named_modules() if isinstance(m, LowRankLinear)}
    assert set(layers) == {"up", "down", *(f"attention.{p}_proj" for p in ("q", "k", "v", "out"))}
    assert all(layer.rank == WIDTH // 4 for layer in layers.values())
    assert "up.weight" in seen[5]
    assert {"up.U", "up.V"} <= set(seen[6])
    assert "up.weight" not in seen[6], "the matrix is gone, not kept beside its factors"
    assert sorted(map(id, held(trainer))) == sorted(map(id, trainer.model.parameters()))
    assert {id(p) for p in held(trainer)} == {id(p) for p in trainer.loop.update.parameters}
    for name in layers:
        for factor in "UV":
            assert not torch.equal(seen[6][f"{name}.{factor}"], seen[-1][f"{name}.{factor}"]), "it trains"


def test_at_full_rank_the_switch_changes_nothing_but_the_parameters(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        "lehr.training.methods.progressive_lowrank.ranks_by_ratio", lambda shapes, **_: dict.fromkeys(shapes, WIDTH)
    )
    trainer = lehr.Trainer(made(progressive(layers=("up", "down"))), run_dir=tmp_path / "run")
    x, outputs = points(20, seed=3)[0], []
    for batch in trainer.batches():
        step = trainer.loop.clock.step
        if step == 6:  # the next step ends with the switch: look just before and after it
            put = trainer.assembly.loop.listeners.given[0]._context.structure.put

            def look(layers: Any, *args: Any, put: Any = put, **how: Any) -> None:
                trainer.model.eval()
                outputs.append(trainer.model(x))
                put(layers, *args, **how)
                outputs.append(trainer.model(x))
                trainer.model.train()

            monkeypatch.setattr(trainer.assembly.loop.listeners.given[0]._context.structure, "put", look)
        trainer.step(batch)
    before, after = outputs
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-5)


def test_what_the_optimizer_knows_goes_over(tmp_path: Path) -> None:
    trainer = lehr.Trainer(made(progressive(at=7), clip=None), run_dir=tmp_path / "run")
    run_steps(trainer, 7)
    optimizer = trainer.loop.update.optimizers[0]
    state = optimizer.state[trainer.model.up.U]
    assert state["step"] == 7
    assert state["exp_avg"].shape == trainer.model.up.U.shape
    assert state["exp_avg"].abs().sum() > 0


def test_weight_decay_goes_to_the_product(tmp_path: Path) -> None:
    for decay, expected in (("product", (0.0, 0.2)), ("factors", (0.2, None))):
        trainer = lehr.Trainer(
            made(progressive(decay=decay), optim=AdamW(lr=0.01, weight_decay=0.2)), run_dir=tmp_path / decay
        )
        run_steps(trainer, 8)
        groups = trainer.loop.update.optimizers[0].param_groups
        home = next(g for g in groups if any(p is trainer.model.up.U for p in g["params"]))
        assert (home["weight_decay"], home.get("frobenius")) == expected


class Twin:
    """A run to its end, and the same one gone on with from an earlier checkpoint."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe
        lehr.train(recipe, run_dir=folder / "whole")
        self.checkpoints = sorted(p.name for p in (folder / "whole/checkpoints").glob("step-*"))

    def resumed(self, from_: int) -> None:
        again = self.folder / f"from-{from_}"
        shutil.copytree(self.folder / "whole", again)
        for checkpoint in (again / "checkpoints").glob("step-*"):
            if int(checkpoint.name.rpartition("-")[2]) > from_:
                shutil.rmtree(checkpoint)
        lehr.resume(again, recipe=self.recipe)
        assert exact(again) == exact(self.folder / "whole")
        for name in ("model.safetensors", "optimizer.safetensors"):
            last = f"checkpoints/{self.checkpoints[-1]}/{name}"
            assert (again / last).read_bytes() == (self.folder / "whole" / last).read_bytes()


SAVED = Save(every=3, keep=20)
KINDS: dict[str, dict[str, Any]] = {
    "adamw": {"methods": [progressive()]},
    "settling": {"methods": [progressive(at=None, look=2, window=2, tolerance=0.5, rewarm=4, rate=0.5)]},
    "budget and EMA": {"methods": [EMA(decay=0.9), progressive(ratio=None, budget=0.5)]},
    "SWA": {"methods": [SWA(start=3, every=2), progressive()]},
    "muon": {"methods": [progressive()], "optim": Muon(lr=0.01)},
    "accumulate": {"methods": [progressive(rewarm=3)], "accumulate": 2},
    "schedule-free": {
        "methods": [progressive()],
        "optim": OPTIMIZERS["schedule_free_adamw"].make(),
        "schedule": "constant",
    },
    "dynamic": {"methods": [DynamicLowRank(levels=[[0, 0.4], [4, 0.25], [8, 0.35]], layers=HIDDEN, batches=2)]},
    "dynamic by energy": {
        "methods": [DynamicLowRank(energy=0.9, ratios=(0.1, 0.2, 0.4), every=2, layers=HIDDEN, batches=2)]
    },
    "lora": {"methods": [LoRA(rank=2, layers=HIDDEN, train=("last.*",))]},
    "lora with muon": {"methods": [LoRA(rank=2, layers=HIDDEN, train=("last.*",))], "optim": Muon(lr=0.01)},
    "layers at several depths": {"model": Deep, "methods": [progressive()], "clip": 0.05},
    "sgd": {"methods": [progressive()], "optim": SGD(lr=0.1)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_resumes_bit_for_bit_on_either_side(kind: str, tmp_path: Path) -> None:
    twin = Twin(tmp_path, recipe(**{"model": Wide, "save": SAVED} | KINDS[kind]))
    for step in (3, 6, 9, 12):
        twin.resumed(step)


@pytest.mark.parametrize("kind", ["adamw", "schedule-free", "dynamic", "lora", "budget and EMA"])
def test_a_run_is_opened_with_the_layers_of_its_checkpoint(kind: str, tmp_path: Path) -> None:
    made_ = recipe(model=Wide, save=SAVED, **KINDS[kind])
    result = lehr.train(made_, run_dir=tmp_path / "run")
    opened = open_run(tmp_path / "run", which="last", recipe=made_)
    assert opened.evaluate()["loss"] == pytest.approx(result.val_loss, rel=1e-6)


def test_lora_saves_what_trains_and_no_more(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    made_ = recipe(model=Wide, methods=[LoRA(rank=2, layers=HIDDEN, train=("last.*",))])
    trainer = lehr.Trainer(made_, run_dir=tmp_path / "run")
    before = weights(trainer.model)
    trainer.fit()
    after = weights(trainer.model)
    saved = load_file(sorted((tmp_path / "run/checkpoints").glob("step-*"))[-1] / "model.safetensors")
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert set(saved) == trained == {n for n in after if not torch.equal(before[n], after[n])}
    assert {n.rpartition(".")[2] for n in trained if n.startswith("up")} == {"A", "B"}
    assert isinstance(trainer.model.up, LoRALinear)


def test_lora_begins_with_the_same_weights_again_and_refuses_others(tmp_path: Path) -> None:
    lehr.train(recipe(model=Wide), run_dir=tmp_path / "pretrained")
    made_ = recipe(model=Wide, weights=tmp_path / "pretrained", methods=[LoRA(rank=2, layers=HIDDEN)], save=SAVED)
    twin = Twin(tmp_path, made_)
    twin.resumed(6)
    opened = open_run(tmp_path / "whole", which="last", recipe=made_)
    assert opened.evaluate()["loss"] == pytest.approx(exact(tmp_path / "whole")[-1]["loss"], rel=1e-6)
    lehr.train(recipe(model=Wide, seed=5), run_dir=tmp_path / "other")
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "whole", again)
    shutil.rmtree(sorted((again / "checkpoints").glob("step-*"))[-1])
    other = made_.model_copy(update={"weights": tmp_path / "other"})
    with pytest.raises(SettingError, match="frozen parameters are not those"):
        lehr.resume(again, recipe=other, allow_changes=True)


def test_a_pair_of_lora_is_in_one_optimizer(tmp_path: Path) -> None:
    trainer = lehr.Trainer(made(LoRA(rank=2, layers=HIDDEN), optim=Muon(lr=0.01)), run_dir=tmp_path / "run")
    parameters = [id(p) for p in held(trainer)]
    assert len(parameters) == len(set(parameters))


def test_weight_decay_is_a_setting_after_the_switch_too(tmp_path: Path) -> None:
    def with_decay(decay: float, steps: int) -> Recipe:
        return made(progressive(), optim=AdamW(lr=0.01, weight_decay=decay), steps=steps)

    lehr.train(with_decay(0.1, 9), run_dir=tmp_path / "run")
    trainer = lehr.Trainer(with_decay(0.7, 15), run_dir=tmp_path / "other")
    state = trainer.loop.save.parts["structure"], trainer.loop.save.parts["optimizer"]
    saved = CheckpointStore(tmp_path / "run/checkpoints")
    values = saved.read(saved.newest())
    for part, name in zip(state, ("structure", "optimizer"), strict=True):
        part.load_state_dict(values[name])
    groups = trainer.loop.update.optimizers[0].param_groups
    assert {g["frobenius"] for g in groups if "frobenius" in g} == {0.7}


@pytest.mark.parametrize(
    "method",
    [
        progressive(factor_rate=3.0),
        LowRankLayers(layers=HIDDEN, ratio=0.1, margin=0.1, factor_rate=3.0),
        DynamicLowRank(levels=[[0, 0.1], [7, 0.2]], layers=HIDDEN, factor_rate=3.0),
    ],
    ids=lambda method: type(method).__name__,
)
def test_factors_move_at_their_own_rate_also_after_a_resume(method: Any, tmp_path: Path) -> None:
    def rates(trainer: lehr.Trainer) -> tuple[float, float]:
        of = {id(p): rate for group, rate in trainer.loop.update.rates for p in group["params"]}
        return of[id(trainer.model.up.U)], of[id(trainer.model.first.weight)]

    def with_steps(steps: int) -> Recipe:
        return made(method, optim=AdamW(lr=0.01), steps=steps, schedule="constant")

    trainer = lehr.Trainer(with_steps(9), run_dir=tmp_path / "run")
    trainer.fit()
    assert rates(trainer) == (0.03, 0.01)
    assert {group["lr"] for group in trainer.loop.update.optimizers[0].param_groups} == {0.03, 0.01}
    again = lehr.Trainer(with_steps(11), run_dir=tmp_path / "other")
    saved = CheckpointStore(tmp_path / "run/checkpoints")
    again.loop.save.parts["structure"].load_state_dict(saved.read(saved.newest())["structure"])
    assert rates(again) == (0.03, 0.01)


def test_what_was_for_the_switch_has_no_effect_after_it_and_says_so(tmp_path: Path) -> None:
    lehr.train(made(progressive(), steps=9, schedule="constant"), run_dir=tmp_path / "run")
    other = made(progressive(ratio=0.1, rate=0.5), steps=11, schedule="constant")
    with pytest.warns(NoEffectWarning, match=r"at step 7.*no effect any more: ratio=0.1 \(then 0.25\)$"):
        lehr.resume(tmp_path / "run", recipe=other, allow_changes=True)


def test_products_decay_also_where_the_resumed_settings_leave_the_layer_out(tmp_path: Path) -> None:
    def with_layers(layers: tuple[str, ...], steps: int) -> Recipe:
        optim = AdamW(lr=0.01, weight_decay=0.5)
        return made(progressive(layers=layers), optim=optim, steps=steps, schedule="constant")

    lehr.train(with_layers(HIDDEN, 9), run_dir=tmp_path / "run")
    trainer = lehr.Trainer(with_layers(("down",), 12), run_dir=tmp_path / "other")
    values = CheckpointStore(tmp_path / "run/checkpoints")
    trainer.loop.save.parts["structure"].load_state_dict(values.read(values.newest())["structure"])
    decayed = {id(p) for group in trainer.loop.update.products for p in group["params"]}
    assert decayed >= {id(p) for layer in (trainer.model.up, trainer.model.down) for p in (layer.U, layer.V)}


def test_the_decay_of_products_rules_a_latch_out(tmp_path: Path) -> None:
    def recorded(decay: str) -> Recipe:
        method = LowRankLayers(layers=HIDDEN, ratio=0.1, margin=0.1, decay=decay)
        optim = AdamW(lr=0.01, weight_decay=0.5)
        return made(method, optim=optim, track=Track(every=5, read="record"))

    lehr.Trainer(recorded("factors"), run_dir=tmp_path / "factors")
    with pytest.raises(SettingError, match="the decay of a product cannot be masked"):
        lehr.Trainer(recorded("product"), run_dir=tmp_path / "product")


@pytest.mark.parametrize("method", [progressive(), DynamicLowRank(levels=[[0, 0.1], [7, 0.2]], layers=HIDDEN)])
def test_batches_without_a_finite_loss_are_left_out_at_a_change(method: Any, tmp_path: Path) -> None:
    x, y = points(48)
    x[5] = torch.nan
    data = lehr.Data(train=(x, y), val=points(20, seed=1), batch_size=8)
    trainer = lehr.Trainer(made(method, data=data, nonfinite="skip"), run_dir=tmp_path / "run")
    with pytest.warns(LehrWarning, match="leaves 1 training batches out"):
        trainer.fit()
    assert isinstance(trainer.model.up, LowRankLinear)


@pytest.mark.parametrize(
    ("then", "now"),
    [({"layers": ("up",)}, {"layers": HIDDEN}), ({"energy": 0.9}, {"energy": 0.9, "ratios": (0.07, 0.25)})],
    ids=["layers", "ratios"],
)
def test_dynamic_rank_goes_on_with_the_layers_that_it_began_with(
    then: dict[str, Any], now: dict[str, Any], tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"layers": HIDDEN, "batches": 2}
    lehr.train(made(DynamicLowRank(**fields | then), steps=6, schedule="constant"), run_dir=tmp_path / "run")
    other = made(DynamicLowRank(**fields | now), steps=15, schedule="constant")
    with pytest.raises(CheckpointError, match="resume with the layers and ratios"):
        lehr.resume(tmp_path / "run", recipe=other, allow_changes=True)


def test_layers_that_harm_the_loss_are_rolled_back(tmp_path: Path, capsys: Any) -> None:
    trainer = lehr.Trainer(made(progressive(allowed=1e-9, ratio=0.05)), run_dir=tmp_path / "run")
    run_steps(trainer, 8)
    assert isinstance(trainer.model.up, nn.Linear)
    assert "stay dense" in capsys.readouterr().err


def test_the_rates_rise_again_after_the_switch(tmp_path: Path) -> None:
    rates: list[float] = []

    class Look(Method):
        changes = frozenset({"rate"})

        def rate_ready(self, factor: float, place: Place) -> float:
            rates.append(factor)
            return factor

    lehr.train(
        made(progressive(at=5, rewarm=4, rate=0.5), Look(), schedule="constant", steps=12), run_dir=tmp_path / "run"
    )
    assert rates == [1.0] * 5 + [0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5]


def test_the_switch_comes_when_the_stable_ranks_have_settled_or_at_the_latest(tmp_path: Path) -> None:
    def switched(**changes: Any) -> int:
        name = str(len(list(tmp_path.iterdir())))
        trainer = lehr.Trainer(made(progressive(at=None, look=1, **changes)), run_dir=tmp_path / name)
        trainer.fit()
        return trainer.loop.listeners.state_dict()["ProgressiveMethod-0"]["switched"]

    assert switched(window=3, tolerance=1e6) == 3
    assert switched(window=3, tolerance=1e-9, latest=9) == 9


class Unequal(nn.Module):
    """One matrix for each of 16 positions, one for each sample, and one that evaluation never reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.often = nn.Linear(4, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.once, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.aside = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))[:, None].expand(-1, 16, -1)
        x = torch.relu(self.often(x)).mean(dim=1)
        x = torch.relu(self.once(x)) + (self.aside(x) if self.training else 0)
        return self.last(x)


def test_a_budget_is_of_operations_and_a_layer_that_is_never_run_stays_dense(tmp_path: Path) -> None:
    fields = {"ratio": None, "layers": ("often", "once", "aside"), "balance": None}
    trainer = lehr.Trainer(recipe(model=Unequal, methods=[progressive(budget=0.2, **fields)]), run_dir=tmp_path / "run")
    run_steps(trainer, 8)
    layers = {"often": trainer.model.often, "once": trainer.model.once}
    kept = {name: sum(p.numel() for p in layer.parameters()) - WIDTH for name, layer in layers.items()}
    spent = (16 * kept["often"] + kept["once"]) / (17 * WIDTH**2)
    assert 0.15 < spent <= 0.2, "the layer of many positions pays for it"
    assert kept["once"] > kept["often"]
    assert isinstance(trainer.model.aside, nn.Linear)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"methods": [progressive(), GradualUnfreezing(every=3)]}, "gradual_unfreezing holds"),
    ({"methods": [L1Penalty(), progressive()]}, "l1_penalty holds"),
    ({"methods": [progressive(), DynamicLowRank(layers=HIDDEN)]}, "use one of them"),
    ({"methods": [progressive(at=15)]}, "use one from 1 to 14"),
    ({"methods": [progressive(layers=("nothing.*",))]}, "matches no nn.Linear"),
    ({"methods": [ProgressiveLowRank()]}, "finds no layer"),
    (
        {"model": lambda: nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 3, 1), nn.Flatten())}
        | {"methods": [progressive(layers=("1",))]},
        "1: it is a convolution",
    ),
    ({"methods": [LoRA(rank=2, layers=HIDDEN, train=("lost.*",))]}, "matches no parameter"),
    ({"methods": [DynamicLowRank(levels=[[0, 0.9], [3, 0.8]], layers=("up",))]}, "no layer is below"),
]


@pytest.mark.parametrize(("fields", "said"), BAD, ids=[said for _, said in BAD])
def test_what_cannot_be_is_refused_before_the_run(fields: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=said):
        lehr.Trainer(recipe(**{"model": Wide} | fields), run_dir=tmp_path / "run")


@pytest.mark.parametrize("given", [{"ratio": 0.1, "budget": 0.3}, {"ratio": 1.5}, {"energy": 0}])
def test_settings_that_contradict_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        ProgressiveLowRank(**given)


def test_no_balance_can_be_asked_for_on_the_command_line() -> None:
    assert override(made(progressive()), ["methods.0.balance=none"]).methods[0].balance is None


@pytest.mark.slow
def test_after_a_switch_the_model_is_compiled_once_more(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LehrWarning)
        warnings.filterwarnings("ignore", module="torch")
        trainer = lehr.Trainer(
            made(progressive(), compile=True, evaluate=Evaluate(every="100%")), run_dir=tmp_path / "run"
        )
        counts = []
        for batch in trainer.batches():
            trainer.step(batch)
            counts.append(trainer.assembly.compiled.compilations)
    assert counts[6] == counts[1], "before the switch"
    assert counts[8] > counts[6], "the new layers are compiled"
    assert counts[13] == counts[8], "and once"


def test_the_report_of_the_switch_is_in_the_checkpoint(tmp_path: Path) -> None:
    lehr.train(made(progressive()), run_dir=tmp_path / "run")
    last = sorted((tmp_path / "run/checkpoints").glob("step-*"))[-1]
    text = json.dumps(json.loads((last / "state.json").read_text()))
    assert '"rolled_back"' in text
    assert '"up": 12' in text


def test_a_run_without_such_a_method_has_no_word_of_layers_in_its_checkpoints(tmp_path: Path) -> None:
    lehr.train(recipe(), run_dir=tmp_path / "run")
    last = sorted((tmp_path / "run/checkpoints").glob("step-*"))[-1]
    assert "structure" not in json.loads((last / "state.json").read_text())


def test_gradients_of_the_product_are_those_of_the_dense_layer() -> None:
    from lehr.base.durations import RunLength
    from lehr.base.protocols import RunContext
    from lehr.training.factoring import weight_gradients

    torch.manual_seed(0)
    model, batch = Wide(), points(16)
    objective = Supervised(loss=cross_entropy)
    context = RunContext(model=model, run=RunLength(1), objective=objective)
    found = weight_gradients(context, ["up", "down"], [batch, batch])
    model.eval()
    total, count = objective(model, batch)
    (total / count).backward()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, model.get_submodule(name).weight.grad)
    assert_same(weights(model), weights(model))
