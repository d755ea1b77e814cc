"""Runs that predict together, measured beside a loop of torch's own; what cannot be combined is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import Mlp, points, recipe
from torch import nn

import lehr
from lehr.averaging import combine
from lehr.base.errors import SettingError
from lehr.losses import Supervised, bce, cross_entropy, mse
from lehr.metrics import Metric
from lehr.run.ensemble import evaluate_ensemble
from lehr.run.opened import OpenedRun, open_run, open_snapshots
from lehr.run.recipe import Evaluate, Save
from lehr.training.methods import EMA

X, Y = points(20, seed=1)


def opened(folder: Path, seed: int, **changes: Any) -> OpenedRun:
    made = recipe(**{"seed": seed, "steps": 10} | changes)
    run = folder / str(seed)
    lehr.train(made, run_dir=run)
    return open_run(run, recipe=made, which="last")


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[OpenedRun]:
    folder = tmp_path_factory.mktemp("members")
    return [opened(folder, seed) for seed in range(3)]


def probabilities(members: list[OpenedRun]) -> torch.Tensor:
    return torch.stack([m.model(X).detach().double().softmax(-1) for m in members])


def test_the_mean_is_of_the_members_probabilities(members: list[OpenedRun]) -> None:
    result = evaluate_ensemble(members, weights=[2, 1, 1])
    assert (result.how, result.shares) == ("mean", (0.5, 0.25, 0.25))
    mean = (torch.tensor([0.5, 0.25, 0.25])[:, None, None] * probabilities(members)).sum(dim=0)
    assert result.values["loss"] == pytest.approx(F.nll_loss(mean.log(), Y).item(), rel=1e-5)
    assert result.values["accuracy"] == pytest.approx((mean.argmax(-1) == Y).double().mean().item())
    for member, values in zip(members, result.members, strict=True):
        assert values == member.evaluate()
    # of probabilities, so no worse than the members on average: Jensen
    assert evaluate_ensemble(members).values["loss"] < sum(v["loss"] for v in result.members) / 3


def test_the_mean_of_logits(members: list[OpenedRun]) -> None:
    logits = torch.stack([m.model(X).detach() for m in members]).mean(dim=0)
    values = evaluate_ensemble(members, how="logits").values
    assert values["loss"] == pytest.approx(F.cross_entropy(logits, Y).item(), rel=1e-5)


def test_a_vote_has_classes_and_no_loss(members: list[OpenedRun]) -> None:
    votes = F.one_hot(probabilities(members).argmax(-1), 3).double().mean(dim=0)
    chosen = (votes + 1e-3 * probabilities(members).mean(dim=0)).argmax(-1)
    values = evaluate_ensemble(members, how="vote").values
    assert values == {"accuracy": pytest.approx((chosen == Y).double().mean().item())}


def test_torch_s_own_loss_has_its_classes_in_dimension_1(members: list[OpenedRun], tmp_path: Path) -> None:
    others = [opened(tmp_path, seed, objective=nn.CrossEntropyLoss()) for seed in range(2)]
    for how in ("mean", "logits", "vote"):
        expected = evaluate_ensemble(members[:2], how=how).values
        assert evaluate_ensemble(others, how=how).values == pytest.approx(expected)


def test_each_member_has_the_weights_that_its_run_was_judged_by(tmp_path: Path) -> None:
    averaged = {"methods": [EMA(decay=0.5, warmup=False)], "evaluate": Evaluate(every=5, monitor="ema_loss")}
    two = [opened(tmp_path, seed, **averaged) for seed in range(2)]
    own = [member.model.first.weight.detach().clone() for member in two]
    result = evaluate_ensemble(two)
    assert [v["loss"] for v in result.members] == [member.evaluate()["ema_loss"] for member in two]
    assert all(torch.equal(m.model.first.weight, w) for m, w in zip(two, own, strict=True))


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x)[:, 0]


def numbers(loss: Any, target: torch.Tensor) -> dict[str, Any]:
    return {
        "model": Line,
        "objective": Supervised(loss=loss),
        "metrics": (),
        "data": lehr.Data(train=(X, target), val=(X, target), batch_size=5),
    }


def test_numbers_have_a_mean_and_nothing_else(tmp_path: Path) -> None:
    two = [opened(tmp_path, seed, **numbers(mse, X.sum(dim=1))) for seed in range(2)]
    result = evaluate_ensemble(two, how="mean")
    assert result.how == "outputs"
    mean = torch.stack([m.model(X).detach() for m in two]).mean(dim=0)
    assert result.values["loss"] == pytest.approx(F.mse_loss(mean, X.sum(dim=1)).item(), rel=1e-5)
    for how in ("logits", "vote"):
        with pytest.raises(SettingError, match=f"--ensemble {how} needs a loss over classes, but the outputs are numb"):
            evaluate_ensemble(two, how=how)


def test_decisions_have_the_mean_of_their_probabilities(tmp_path: Path) -> None:
    target = (X[:, 0] > 0).float()
    two = [opened(tmp_path, seed, **numbers(bce, target)) for seed in range(2)]
    mean = torch.stack([m.model(X).detach().sigmoid() for m in two]).mean(dim=0)
    expected = F.binary_cross_entropy(mean, target).item()
    assert evaluate_ensemble(two).values["loss"] == pytest.approx(expected, rel=1e-5)


class Turned(Supervised):
    """Labels are counted from the other end, and the input is doubled."""

    def outputs(self, model: nn.Module, batch: Any) -> tuple[Any, Any]:
        return model(2 * batch[0]), batch[1]

    def classes(self, output: Any, target: Any) -> Any:
        return output, 2 - target, None


def test_a_vote_is_counted_as_the_objective_itself_reads_it(tmp_path: Path) -> None:
    two = [opened(tmp_path, seed, objective=Turned(loss=cross_entropy)) for seed in range(2)]
    with torch.no_grad():
        outputs = [m.model(2 * X) for m in two]
    expected = (combine(outputs, "vote").argmax(-1) == 2 - Y).double().mean().item()
    assert evaluate_ensemble(two, how="vote").values == {"accuracy": pytest.approx(expected)}


def test_what_cannot_be_combined_is_refused(members: list[OpenedRun], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="an ensemble has two members or more; 1 given"):
        evaluate_ensemble(members[:1])
    with pytest.raises(SettingError, match="2 weights were given for 3 members"):
        evaluate_ensemble(members, weights=[0.7, 0.3])
    elsewhere = opened(tmp_path, 5, data=lehr.Data(train=points(), val=points(20, seed=9), batch_size=8))
    with pytest.raises(SettingError, match=r"different data.*val_sha256: \w+ in the first, \w+ in number 2"):
        evaluate_ensemble([members[0], elsewhere])
    bagged = opened(tmp_path, 6, data=lehr.Data(train=points(48, seed=3), val=points(20, seed=1), batch_size=8))
    assert evaluate_ensemble([members[0], bagged]).values["loss"] > 0, "trained on others, which is as it should be"
    silent = opened(tmp_path, 7, metrics=())
    with pytest.raises(SettingError, match="a vote has no loss, and this recipe has no metric of classes"):
        evaluate_ensemble([silent, silent], how="vote")

    def own(model: nn.Module, batch: Any) -> Any:
        return cross_entropy(model(batch[0]), batch[1])

    custom = opened(tmp_path, 8, objective=own, metrics=())
    with pytest.raises(SettingError, match="an ensemble needs to know what the outputs are"):
        evaluate_ensemble([custom, custom])


def test_metrics_of_one_model_are_left_out(tmp_path: Path) -> None:
    def decode(model: nn.Module, batch: Any) -> Any:
        assert isinstance(model, Mlp)
        return 1.0, 1

    dear = Metric(name="decoded", of="model", compute=decode, goal="max")
    two = [opened(tmp_path, seed, metrics=("accuracy", dear)) for seed in range(2)]
    assert set(evaluate_ensemble(two).values) == {"loss", "accuracy"}


def test_snapshots_of_one_run(tmp_path: Path) -> None:
    made = recipe(steps=20, save=Save(every="50%", keep=1, keep_every="25%"), schedule="cosine_restarts")
    lehr.train(made, run_dir=tmp_path / "run")
    snapshots = open_snapshots(tmp_path / "run", recipe=made)
    assert [s.step for s in snapshots] == [5, 10, 15, 20]
    result = evaluate_ensemble(snapshots)
    mean = probabilities(snapshots).mean(dim=0)
    assert result.values["loss"] == pytest.approx(F.nll_loss(mean.log(), Y).item(), rel=1e-5)
    plain = recipe(steps=5)
    lehr.train(plain, run_dir=tmp_path / "plain")
    with pytest.raises(SettingError, match="has kept no snapshots; train with --set save.keep_every=20%"):
        open_snapshots(tmp_path / "plain", recipe=plain)
