"""EMA and SWA beside torch's own; the statistics of batch norm made anew; the model is its own again afterwards."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers import Mlp, assert_same, weights
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn, update_bn

from lehr.averaging import EMA, SWA, HeldWeights, ema_decay, refresh_norms
from lehr.base.errors import CheckpointError, DataError, SettingError


def perturb(model: nn.Module, seed: int) -> None:
    """Change the weights, as an update would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def averaged(average: Any, model: nn.Module) -> dict[str, Tensor]:
    with average.put_in():
        return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_ema_is_torch_s() -> None:
    model = Mlp()
    ema = EMA(model, decay=0.9, warmup=False)
    other = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    other.update_parameters(model)  # the first only copies, which ours has done
    for seed in range(5):
        perturb(model, seed)
        ema.update()
        other.update_parameters(model)
    assert_same(averaged(ema, model), dict(other.module.named_parameters()))


def test_ema_with_warm_up_in_float64_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 2.0)
    ema, expected = EMA(model, decay=0.3), 2.0
    for n, value in enumerate((5.0, -1.0, 4.0, 8.0, 0.5)):
        nn.init.constant_(model.weight, value)
        ema.update()
        decay = min(0.3, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    assert averaged(ema, model)["weight"].item() == pytest.approx(expected, rel=1e-14)


def test_decay_of_the_warm_up_grows_to_its_value_and_stays() -> None:
    decays = [ema_decay(n, 0.999) for n in range(20_000)]
    assert decays == sorted(decays)
    assert decays[0] == 0.1 and decays[-1] == 0.999
    assert {ema_decay(n, 0.5, warmup=False) for n in range(5)} == {0.5}


def test_swa_is_torch_s_and_the_mean() -> None:
    model = Mlp()
    swa, other, seen = SWA(model), AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn()), []
    for seed in range(6):
        perturb(model, seed)
        swa.update()
        other.update_parameters(model)
        seen.append(weights(model)["first.weight"])
    assert_same(averaged(swa, model), dict(other.module.named_parameters()))
    assert torch.allclose(averaged(swa, model)["first.weight"], torch.stack(seen).mean(dim=0), atol=1e-6)


def test_swa_is_the_model_itself_before_anything_is_taken() -> None:
    model = Mlp()
    swa = SWA(model)
    perturb(model, 0)
    assert_same(averaged(swa, model), dict(model.named_parameters()))
    assert swa.state_dict() == {"taken": 0, "weights": {}}
    swa.load_state_dict({"taken": 0, "weights": {}})
    perturb(model, 1)
    assert_same(averaged(swa, model), dict(model.named_parameters()))


@pytest.mark.parametrize("make", [lambda m: EMA(m, decay=0.8), SWA], ids=["ema", "swa"])
def test_goes_on_from_its_state_bit_for_bit(make: Any) -> None:
    model = Mlp()
    first = make(model)
    for seed in range(3):
        perturb(model, seed)
        first.update()
    state = copy.deepcopy(first.state_dict())
    second_model = copy.deepcopy(model)
    second = make(second_model)
    second.load_state_dict(state)
    for seed in range(3, 6):
        for m, average in ((model, first), (second_model, second)):
            perturb(m, seed)
            average.update()
    assert_same(averaged(first, model), averaged(second, second_model))


@pytest.mark.parametrize("make", [lambda m: EMA(m, decay=0.8), SWA], ids=["ema", "swa"])
def test_the_model_has_its_own_weights_again_even_after_an_error(make: Any) -> None:
    model = Mlp().to(torch.bfloat16)
    average = make(model)
    perturb(model, 0)
    average.update()
    perturb(model, 1)
    own = weights(model)
    with pytest.raises(ZeroDivisionError), average.put_in():
        assert 1 / int(torch.equal(model.first.weight, own["first.weight"])), "inside it has others"
    assert_same(weights(model), own)


def test_small_steps_of_16_bit_weights_are_not_rounded_away() -> None:
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.constant_(model.weight, 1.0)
    ema = EMA(model, decay=0.999, warmup=False)
    nn.init.constant_(model.weight, 2.0)
    for _ in range(1000):
        ema.update()
    kept = ema.state_dict()["weights"]["weight"]
    assert kept.dtype == torch.float32
    assert kept.item() == pytest.approx(2 - 0.999**1000, rel=1e-4)
    in_16_bits = torch.tensor(1.0, dtype=torch.bfloat16).lerp(torch.tensor(2.0, dtype=torch.bfloat16), 0.001)
    assert in_16_bits == 1.0, "which is what would happen"


def test_frozen_parameters_are_held_since_they_may_be_thawed() -> None:
    model = Mlp()
    model.first.requires_grad_(False)
    swa = SWA(model)
    model.first.requires_grad_(True)
    perturb(model, 0)
    own = weights(model)["first.weight"]
    swa.update()
    perturb(model, 1)
    assert torch.equal(averaged(swa, model)["first.weight"], own)


def test_tied_weights_are_averaged_once() -> None:
    first, last = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    last.weight = first.weight
    assert len(HeldWeights(nn.Sequential(first, last)).values) == 1


def test_what_does_not_fit_is_refused() -> None:
    for decay in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(SettingError, match=r"must lie between 0 and 1, such as 0\.999"):
            EMA(Mlp(), decay=decay)
    ema = EMA(Mlp())
    with pytest.raises(CheckpointError, match=r"do not fit this model; they differ in \['first.bias'"):
        ema.load_state_dict(EMA(Mlp(width=9)).state_dict())


# --- batch norm


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Conv2d(4, 3, 3))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.body(x))


def batches(n: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6 + i, 2, 8, 8, generator=generator) for i in range(n)]


def test_statistics_are_those_of_torch_s_update_bn() -> None:
    model = Pictures()
    model(3 + batches()[0])  # statistics that must not count
    other = copy.deepcopy(model)
    refresh_norms(model, model, batches())
    update_bn(batches(), other)
    assert_same(weights(model), weights(other))
    assert (model.body[1].momentum, model.norm.momentum) == (0.3, 0.1)


def test_statistics_are_the_mean_of_the_batches_by_hand() -> None:
    norm = nn.BatchNorm2d(2).double()
    given = [x.double() for x in batches()]
    refresh_norms(norm, norm, given)
    flat = [x.movedim(1, 0).flatten(1) for x in given]
    assert torch.allclose(norm.running_mean, torch.stack([f.mean(dim=1) for f in flat]).mean(dim=0))
    assert torch.allclose(norm.running_var, torch.stack([f.var(dim=1, correction=1) for f in flat]).mean(dim=0))
    assert norm.num_batches_tracked == 4


def test_modes_and_momenta_are_put_back_also_after_an_error() -> None:
    model = Pictures().eval()
    model.norm.train()
    modes = [m.training for m in model.modules()]

    def fails(x: Tensor) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        refresh_norms(model, fails, batches())
    assert [m.training for m in model.modules()] == modes
    assert (model.body[1].momentum, model.norm.momentum) == (0.3, 0.1)


def test_a_norm_that_is_to_evaluate_keeps_its_statistics() -> None:
    model = Pictures()
    model(3 + batches()[0])
    before = weights(model)
    refresh_norms(model, model, batches(), evaluating=[model.norm])
    after = weights(model)
    assert [n for n in before if not torch.equal(before[n], after[n])] == [
        f"body.1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")
    ]
    assert model.norm.training


def test_nothing_is_read_for_a_model_without_batch_norm_and_no_batch_is_an_error() -> None:
    def never() -> Any:
        raise AssertionError
        yield

    model = nn.Sequential(nn.LayerNorm(3), nn.BatchNorm1d(3, track_running_stats=False))
    refresh_norms(model, model, never())
    with pytest.raises(DataError, match="at least one batch of training data"):
        refresh_norms(Pictures(), lambda x: x, [])


def test_a_batch_whose_statistics_are_not_finite_is_left_out() -> None:
    """Of one bad sample, everything would become NaN; the batches beside it count as if it were not there."""
    norm, other, given = nn.BatchNorm2d(2), nn.BatchNorm2d(2), batches()
    refresh_norms(other, other, [given[0], given[3]])
    given[1][2, 0, 0, 0] = float("inf")
    given[2][0, 1, 0, 0] = float("nan")
    assert refresh_norms(norm, norm, given) == 2
    assert_same(weights(norm), weights(other))
    with pytest.raises(DataError, match="none of 2 batches of training data gives batch norm statistics that are fin"):
        refresh_norms(norm, norm, given[1:3])


def test_what_others_have_seen_is_added_before_anything_is_refused() -> None:
    norm = nn.BatchNorm2d(2)

    def share(norms: Any) -> None:
        norms[0].num_batches_tracked += 3

    refresh_norms(norm, norm, [], share=share)


def test_complex_weights_are_averaged_too() -> None:
    class Wave(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([1 + 1j, 2j]))
            self.b = nn.Parameter(torch.tensor([1.0]))

    model = Wave()
    swa = SWA(model)
    for value in (1 + 1j, 3 - 1j):
        with torch.no_grad():
            model.w.fill_(value)
        swa.update()
    assert averaged(swa, model)["w"].tolist() == [2, 2]
    assert model.w.tolist() == [3 - 1j, 3 - 1j]
