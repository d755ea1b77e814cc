"""The selective plan: what it chooses and why not the rest, by the shapes and positions that there are."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.lowrank import LowRankLinear, low_rank
from lehr.lowrank.candidates import candidates
from lehr.lowrank.cost import Gain, Machine, amdahl, modelled_gain
from lehr.lowrank.plan import Selective, plan
from lehr.models.gpt import GPTSettings


def small_gpt(width: int = 256) -> nn.Module:
    return GPTSettings(width=width, depth=2, heads=4).build({"vocab_size": 64, "context": 16})


def tokens(batch: int = 64) -> Tensor:
    return torch.randint(0, 64, (batch, 16), generator=torch.Generator().manual_seed(0))


def trained_like(model: nn.Module) -> nn.Module:
    """Fill the matrices with a spectrum that falls, since some of a new model's are zero."""
    draws = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            U, S, Vh = torch.linalg.svd(torch.randn(module.weight.shape, generator=draws), full_matrices=False)
            falling = S[0] * torch.arange(1, len(S) + 1) ** -1.0
            module.weight.data = U * falling @ Vh
    return model


def test_the_layers_of_a_gpt() -> None:
    found = plan(small_gpt(), [tokens(), tokens()], Selective(ratio=0.1))
    by_name = {layer.name: layer for layer in found.layers}
    assert set(found.ranks) == {
        f"blocks.{b}.{n}" for b in (0, 1) for n in ("attention.qkv", "attention.out", "up", "down")
    }
    assert set(found.ranks.values()) == {24}
    up = by_name["blocks.0.up"]
    assert up.tokens == 64 * 16 and up.shape == (1024, 256)
    assert up.parameters() == (1024 * 256, 24 * 1280)
    assert up.flops() == (6 * 1024 * 1024 * 256, 6 * 1024 * 24 * 1280)
    assert up.modelled == pytest.approx(modelled_gain(1024, 256, 24, 1024)) and up.measured is None
    head = by_name["head"]
    assert head.reason is not None and head.parameters()[0] == head.parameters()[1]


def test_what_is_planned_is_what_low_rank_makes() -> None:
    model = small_gpt()
    found = plan(model, [tokens()], Selective(ratio=0.1))
    before = sum(p.numel() for p in model.parameters())
    assert found.model_parameters == before
    assert low_rank(model, rank=found.ranks) == found.ranks
    saved = sum(old - new for old, new in (layer.parameters() for layer in found.layers))
    assert sum(p.numel() for p in model.parameters()) == before - saved
    assert f"{before} to {before - saved}" in found.table()
    assert isinstance(model.get_submodule("blocks.0.up"), LowRankLinear)


def test_the_model_is_left_as_it_is() -> None:
    model = small_gpt().train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    plan(model, [tokens(2)], Selective(budget=0.5))
    assert model.training and all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_what_counts_is_the_gain_and_not_out_times_in() -> None:
    """The guide replaces a layer when in * out > 512^2: this one is far smaller and gains, the other does not."""
    x = torch.zeros(2048, 16)
    small = nn.Sequential(nn.Linear(16, 256), nn.Linear(256, 256), nn.Linear(256, 4))
    assert 256 * 256 < 512**2
    assert plan(small, [x], Selective(ratio=0.1)).ranks == {"1": 24}
    large = nn.Sequential(nn.Linear(16, 544), nn.Linear(544, 544), nn.Linear(544, 4))
    assert 544 * 544 > 512**2
    for_large = plan(large, [x], Selective(ratio=0.3, margin=2.0))
    assert for_large.ranks == {}
    assert for_large.layers[1].reason is not None and "is not over margin=2" in for_large.layers[1].reason
    accelerator = Machine(flops_per_second=5e13, bytes_per_second=3e12, call_seconds=1e-5)
    assert modelled_gain(544, 544, 56, 16, machine=accelerator) < 1  # calls take the time, and there are twice as many
    assert modelled_gain(544, 544, 56, 65536, machine=accelerator) > 2


def test_gains_follow_the_positions() -> None:
    model = nn.Sequential(nn.Linear(16, 160), nn.Linear(160, 160), nn.Linear(160, 4))
    few, many = (plan(model, [torch.zeros(size, 16)], Selective(ratio=0.25)).layers[1] for size in (8, 2048))
    assert few.modelled is not None and many.modelled is not None and few.modelled < many.modelled
    assert few.tokens == 8 and many.tokens == 2048


def test_a_budget_is_kept_and_energy_is_kept() -> None:
    model = trained_like(small_gpt())
    under = plan(model, [tokens()], Selective(budget=0.4))
    spent, whole = (sum(layer.flops()[i] for layer in under.layers) for i in (1, 0))
    assert 0.35 * whole < spent <= 0.4 * whole
    kept = plan(model, [tokens()], Selective(energy=0.9, weighted=False))
    weight = model.get_submodule("blocks.0.up").weight
    S = torch.linalg.svdvals(weight).square()
    rank = kept.ranks["blocks.0.up"]
    assert S[:rank].sum() / S.sum() >= 0.9 > S[: rank - 8].sum() / S.sum()


def test_the_weighted_energy_is_that_of_the_outputs_on_the_batches() -> None:
    """Inputs in few directions need few ranks, however flat the weight's spectrum is."""
    model = nn.Sequential(nn.Linear(16, 256), nn.Linear(256, 256), nn.Linear(256, 4))
    x = torch.randn(512, 16, generator=torch.Generator().manual_seed(0))
    wanted = {"energy": 0.99, "multiple": 1}
    assert plan(model, [x], Selective(**wanted)).ranks["1"] <= 17
    flat = plan(model, [x], Selective(**wanted, weighted=False))
    assert flat.ranks == {}
    assert flat.layers[1].reason == "no rank up to 0.7 of the break-even rank keeps enough of it"


def test_the_gain_of_the_step_is_amdahls() -> None:
    model = small_gpt()
    layers_alone = plan(model, [tokens()], Selective(ratio=0.1))
    assert layers_alone.step_gain is None and layers_alone.share is None
    assert "not known without its time" in layers_alone.table()
    spent = sum(layer.seconds(layers_alone.machine) for layer in layers_alone.layers if layer.reason is None)
    found = plan(model, [tokens()], Selective(ratio=0.1), step_seconds=2 * spent)
    assert found.share == pytest.approx(0.5)
    assert found.step_gain == pytest.approx(amdahl(0.5, found.gain)) and found.step_gain < 2
    assert f"they take 50% of the step, which is expected {found.step_gain:.2f} times as fast" in str(found)


def test_measured_gains_decide_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def timed(*sizes: int, like: Tensor) -> Gain:
        asked.append(sizes)
        gain = 0.5 if sizes[0] == 1024 else 2.0
        return Gain(gain, gain, gain, 1e-3)

    monkeypatch.setattr(sys.modules["lehr.lowrank.plan"], "measured_gain", timed)
    found = plan(small_gpt(), [tokens()], Selective(ratio=0.1, measure=True))
    assert "blocks.0.up" not in found.ranks and "blocks.0.down" in found.ranks
    assert len(asked) == len(set(asked)) == 4  # one of each size
    assert "0.50 times as fast is not over margin=1.1" in found.table()
    assert found.step_seconds is not None and found.step_gain is not None


@pytest.mark.parametrize("half", [True, False])
def test_layers_are_timed_in_the_type_that_they_run_in(monkeypatch: pytest.MonkeyPatch, half: bool) -> None:
    types: list[torch.dtype] = []

    def timed(*sizes: int, like: Tensor) -> Gain:
        types.append(like.dtype)
        return Gain(2.0, 2.0, 2.0, 1e-3)

    monkeypatch.setattr(sys.modules["lehr.lowrank.plan"], "measured_gain", timed)
    model = nn.Sequential(nn.Linear(16, 256), nn.Linear(256, 256), nn.Linear(256, 4))

    def forward(batch: Tensor) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            model(batch)

    found = plan(model, [torch.zeros(8, 16)], Selective(ratio=0.1, measure=True), forward=forward)
    assert types == [torch.bfloat16 if half else torch.float32]
    assert found.machine.element_bytes == (2 if half else 4)


def test_measuring_for_real() -> None:
    model = nn.Sequential(nn.Linear(16, 256), nn.Linear(256, 256), nn.Linear(256, 4))
    found = plan(model, [torch.zeros(512, 16)], Selective(ratio=0.1, measure=True))
    assert found.layers[1].measured is not None and found.layers[1].measured.dense_seconds > 0
    assert found.step_seconds is not None and found.step_seconds > 0


def test_other_layers_by_candidates_and_batches_by_a_forward_of_ones_own() -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    found = plan(
        model,
        [{"x": torch.zeros(512, 256)}],
        forward=lambda batch: model(batch["x"]),
        found=candidates(model, first_and_last=True),
    )
    assert set(found.ranks) == {"0", "2"}
    pair = plan(model, [(torch.zeros(512, 256), torch.zeros(512))], found=candidates(model, first_and_last=True))
    assert pair.ranks == found.ranks


def test_a_layer_that_is_not_run_is_named_so() -> None:
    model = nn.ModuleDict({n: nn.Linear(256, 256) for n in ("first", "used", "idle", "last")})
    found = plan(model, [torch.zeros(512, 256)], forward=lambda x: model["last"](model["used"](model["first"](x))))
    assert {layer.name: layer.reason for layer in found.layers}["idle"] == "it was never run on these batches"
    assert set(found.ranks) == {"used"}


def test_nothing_to_choose_is_a_table_all_the_same() -> None:
    found = plan(nn.Sequential(nn.Linear(4, 4)), [torch.zeros(2, 4)])
    assert found.ranks == {} and found.gain == 1
    assert "0 of 1 layers" in str(found)
    assert "0 of 0 layers" in str(plan(nn.Sequential(nn.ReLU()), [torch.zeros(2, 4)]))


def test_lines_of_the_table_are_aligned() -> None:
    found = plan(small_gpt(), [tokens()])
    lines = found.table().splitlines()
    column = lines[0].index("choice")
    assert [line[column:] for line in lines[1:10]] == [layer.reason or "low rank" for layer in found.layers]


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(SettingError, match="give one of them"):
        Selective(ratio=0.1, energy=0.9)
    with pytest.raises(SettingError, match="without batches"):
        plan(small_gpt(), [])
    with pytest.raises(SettingError, match="step_seconds=0 for a training step"):
        plan(small_gpt(), [tokens()], step_seconds=0)
    with pytest.raises(SettingError, match="no field 'ration'"):
        Selective(ration=0.1)
    broken = trained_like(small_gpt())
    broken.get_parameter("blocks.0.up.weight").data.fill_(float("nan"))
    with pytest.raises(SettingError, match="singular values of layer 'blocks.0.up' are not finite"):
        plan(broken, [tokens()], Selective(energy=0.9, weighted=False))


@settings(deadline=None)
@given(st.floats(0.01, 0.5), st.integers(1, 4096))
def test_no_layer_is_chosen_that_the_model_of_costs_does_not_expect_to_gain(ratio: float, positions: int) -> None:
    model = nn.Sequential(
        nn.Linear(8, 160, device="meta"), nn.Linear(160, 192, device="meta"), nn.Linear(192, 4, device="meta")
    )
    found = plan(model, [torch.zeros(positions, 8, device="meta")], Selective(ratio=ratio))
    for layer in found.layers:
        if layer.reason is None:
            assert layer.modelled is not None and layer.modelled > 1.1
            assert layer.rank is not None and layer.rank <= 0.7 * 160 * 192 / 352
