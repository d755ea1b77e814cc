"""Distillation: the formula as the guide writes it, and a teacher that is run but never touched."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import Mlp, assert_same, exact, points, recipe, records, weights
from torch import Tensor, nn

import lehr
from lehr.base.errors import SettingError
from lehr.base.settings import plain
from lehr.losses import Distilled, Supervised, bce, cross_entropy, distillation, label_smoothing, softened_divergence
from lehr.training.blame import find_nonfinite
from lehr.training.evaluate import evaluate

torch.manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 6, 5, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def guides(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 3.0, alpha: float = 0.7) -> float:
    """The guide's code: kl_div of batchmean times T², and the cross entropy of the labels."""
    soft = F.kl_div(
        F.log_softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1), reduction="batchmean"
    )
    return float(alpha * temperature**2 * soft + (1 - alpha) * F.cross_entropy(student, labels))


@pytest.mark.parametrize(("temperature", "alpha"), [(3.0, 0.7), (1.0, 0.5), (8.0, 1.0), (2.0, 0.0)])
def test_mean_is_the_guides_formula(temperature: float, alpha: float) -> None:
    total, count = distillation(STUDENT, TEACHER, LABELS, temperature=temperature, alpha=alpha)
    expected = guides(STUDENT, TEACHER, LABELS, temperature, alpha)
    assert float(total) / count == pytest.approx(expected, abs=1e-12)


def test_divergence_by_hand() -> None:
    """KL([0.7, 0.3] ‖ [0.5, 0.5]) = 0.7 ln 1.4 + 0.3 ln 0.6."""
    teacher, student = torch.tensor([[0.7, 0.3]], dtype=torch.float64).log(), torch.zeros(1, 2, dtype=torch.float64)
    by_hand = 0.7 * math.log(1.4) + 0.3 * math.log(0.6)
    assert float(softened_divergence(student, teacher, temperature=1.0)) == pytest.approx(by_hand, abs=1e-12)


def test_the_square_of_the_temperature_keeps_the_size_of_the_gradient() -> None:
    """For a high T the gradient tends to (student - teacher)/K of centred logits; without the factor it would vanish."""
    sizes = []
    for temperature in (10.0, 100.0, 1000.0):
        student = STUDENT.clone().requires_grad_()
        softened_divergence(student, TEACHER, temperature=temperature).backward()
        sizes.append(student.grad)
    difference = STUDENT - TEACHER
    limit = (difference - difference.mean(dim=1, keepdim=True)) / 5
    assert torch.allclose(sizes[-1], limit, atol=1e-3)
    assert float(sizes[0].norm()) == pytest.approx(float(limit.norm()), rel=0.2)


def test_sequences_are_counted_by_tokens_not_by_samples() -> None:
    """Torch's batchmean divides by the first dimension only, so that longer sequences would weigh more."""
    long = STUDENT.reshape(2, 3, 5), TEACHER.reshape(2, 3, 5), LABELS.reshape(2, 3)
    total, count = distillation(*long)
    assert count == 6
    assert float(total) / count == pytest.approx(guides(STUDENT, TEACHER, LABELS), abs=1e-12)
    total, count = distillation(*long, ignore=0)
    kept = LABELS != 0
    assert int(count) == 4
    assert float(total) / 4 == pytest.approx(guides(STUDENT[kept], TEACHER[kept], LABELS[kept]), abs=1e-12)


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = TEACHER.clone().requires_grad_()
    student = STUDENT.clone().requires_grad_()
    distillation(student, teacher, LABELS)[0].backward()
    assert teacher.grad is None and student.grad is not None


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_impossible_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(SettingError, match="temperature=.*use more than 0"):
        distillation(STUDENT, TEACHER, LABELS, temperature=temperature)
    with pytest.raises(SettingError, match="temperature"):
        Distilled(loss=cross_entropy, teacher=Mlp, temperature=temperature)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_impossible_shares_are_refused(alpha: float) -> None:
    with pytest.raises(SettingError, match="alpha=.*use 0 to 1"):
        distillation(STUDENT, TEACHER, LABELS, alpha=alpha)
    with pytest.raises(SettingError, match="alpha"):
        Distilled(loss=cross_entropy, teacher=Mlp, alpha=alpha)


def test_other_classes_are_refused() -> None:
    with pytest.raises(SettingError, match=r"student's logits have shape \(6, 5\) and the teacher's \(6, 4\)"):
        distillation(STUDENT, TEACHER[:, :4], LABELS)


# the objective


def trained_teacher() -> Mlp:
    torch.manual_seed(7)
    teacher = Mlp(width=16, dropout=0.5)
    teacher.norm.running_mean += 0.3
    return teacher


def test_objective_is_the_formula_with_the_teacher_in_evaluation_mode() -> None:
    teacher, student, (x, y) = trained_teacher(), Mlp(dropout=0.0), points(12)
    objective = Distilled(loss=cross_entropy, teacher=teacher, temperature=2.0, alpha=0.4)
    before = weights(teacher)
    total, count = objective(student, (x, y))
    with torch.no_grad():
        expected = guides(student(x).double(), teacher.eval()(x).double(), y, 2.0, 0.4)
    assert float(total.detach()) / float(count) == pytest.approx(expected, rel=1e-5)
    total.backward()
    assert_same(weights(teacher), before)
    assert all(p.grad is None for p in teacher.parameters()), "the teacher is run without gradients"
    assert all(p.grad is not None for p in student.parameters())


@pytest.mark.parametrize(
    "loss",
    [
        functools.partial(cross_entropy, ignore=1),
        functools.partial(label_smoothing, ignore=1, smoothing=0.2),
        nn.CrossEntropyLoss(ignore_index=1),
    ],
    ids=["ours", "smoothed", "torch"],
)
def test_ignored_labels_are_left_out_of_both_parts(loss: object) -> None:
    teacher, student, (x, y) = trained_teacher().eval(), Mlp(dropout=0.0).eval(), points(12)
    objective = Distilled(loss=loss, teacher=teacher)
    total, count = objective(student, (x, y))
    kept = y != 1
    assert int(count) == int(kept.sum())
    part, _ = objective(student, (x[kept], y[kept]))
    assert float(total.detach()) == pytest.approx(float(part.detach()), rel=1e-5)


def test_probabilities_and_classes_in_dimension_1() -> None:
    class Map(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    student, teacher, x = Map(), Map(), torch.randn(4, 2, 5)
    soft = torch.rand(4, 3, 5).softmax(dim=1)
    total, count = Distilled(loss=F.cross_entropy, teacher=teacher)(student, (x, soft))
    rows = [t.movedim(1, -1).reshape(-1, 3) for t in (student(x), teacher(x), soft)]
    expected, _ = distillation(*rows)
    assert count == 20 and float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_evaluation_is_of_the_student_and_the_labels_alone() -> None:
    def never() -> nn.Module:
        raise AssertionError("an evaluation asked for the teacher")

    model, (x, y) = Mlp().eval(), points(20)
    values = evaluate(model, Distilled(loss=cross_entropy, teacher=never), [(x, y)])
    assert values["loss"] == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-6)
    smoothed = Distilled(loss=label_smoothing, val_loss=cross_entropy, teacher=never)
    assert evaluate(model, smoothed, [(x, y)])["loss"] == pytest.approx(values["loss"])


def test_a_run_learns_from_its_teacher_and_saves_nothing_of_it(tmp_path: Path) -> None:
    teacher = trained_teacher()
    before = weights(teacher)
    objective = Distilled(loss=cross_entropy, teacher=teacher)
    result = lehr.train(recipe(objective=objective, metrics=("accuracy", "perplexity")), run_dir=tmp_path / "run")
    assert result.step == 15 and math.isfinite(result.val_loss)
    assert_same(weights(teacher), before)
    trainer = lehr.Trainer(recipe(objective=objective))
    names = {name for name, _ in trainer.assembly.model.named_parameters()}
    assert names == {name for name, _ in Mlp().named_parameters()}
    assert [r["split"] for r in records(tmp_path / "run") if "perplexity" in r] == ["val"] * 3


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_teacher_with_no_share_changes_no_draw(tmp_path: Path, accumulate: int) -> None:
    """alpha=0 multiplies the teacher away; making and running it must not move dropout or the order of samples."""
    without = recipe(objective=Supervised(loss=cross_entropy), accumulate=accumulate)
    given = recipe(objective=Distilled(loss=cross_entropy, teacher=lambda: Mlp(16), alpha=0.0), accumulate=accumulate)
    lehr.train(without, run_dir=tmp_path / "without")
    lehr.train(given, run_dir=tmp_path / "with")
    assert exact(tmp_path / "with") == exact(tmp_path / "without")


def test_the_teacher_is_made_once_from_its_own_seed() -> None:
    made: list[nn.Module] = []

    def make() -> nn.Module:
        made.append(Mlp())
        return made[-1]

    objective, (x, y) = Distilled(loss=cross_entropy, teacher=make), points(8)
    state = torch.get_rng_state()
    student = nn.Linear(4, 3)
    after = torch.get_rng_state()
    for _ in range(3):
        objective(student, (x, y))
    assert len(made) == 1
    assert torch.equal(torch.get_rng_state(), after) and not torch.equal(state, after)
    again = Distilled(loss=cross_entropy, teacher=make)
    torch.rand(5)
    again(student, (x, y))
    assert_same(weights(made[0]), weights(made[1]))


def test_teachers_that_cannot_be_are_refused() -> None:
    student, batch = Mlp(), points(8)
    with pytest.raises(SettingError, match=r"student gives scores of shape \(8, 3\) and the teacher .* \(8, 5\)"):
        Distilled(loss=cross_entropy, teacher=nn.Linear(4, 5))(student, batch)
    with pytest.raises(SettingError, match="teacher made a int; it must make a torch.nn.Module"):
        Distilled(loss=cross_entropy, teacher=lambda: 3)(student, batch)
    with pytest.raises(SettingError, match=r"shares 'first.weight' with the model.*copy.deepcopy"):
        Distilled(loss=cross_entropy, teacher=student)(student, batch)
    with pytest.raises(SettingError, match="teacher"):
        Distilled(loss=cross_entropy, teacher=3)
    with pytest.raises(SettingError, match=r"bce.bce is not known to be over classes; use cross_entropy"):
        Distilled(loss=bce, teacher=Mlp)
    with pytest.raises(SettingError, match="CrossEntropyLoss weighs its classes"):
        Distilled(loss=nn.CrossEntropyLoss(weight=torch.ones(3)), teacher=Mlp)


def test_a_teacher_of_other_classes_is_named_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"student gives scores of shape \(8, 3\) and the teacher"):
        lehr.train(
            recipe(objective=Distilled(loss=cross_entropy, teacher=lambda: nn.Linear(4, 5))), run_dir=tmp_path / "run"
        )


def test_it_is_described_and_searched_for_faults_as_any_objective() -> None:
    objective = Distilled(loss=cross_entropy, teacher=Mlp, alpha=0.5)
    fields = plain(objective)
    assert (fields["kind"], fields["teacher"], fields["alpha"], fields["temperature"]) == (
        "Distilled",
        "helpers.Mlp",
        0.5,
        3.0,
    )
    x, y = points(4)
    x[2] = math.nan
    found = find_nonfinite(
        Mlp(), objective, (x, y), ids=[5, 6, 7, 8], accumulate=1, noise=0, step=0, device=torch.device("cpu"),
        autocast=torch.enable_grad,
    )  # fmt: skip
    assert (found.where, found.samples) == ("input", (7,))


def test_the_teacher_runs_under_the_same_autocast() -> None:
    seen: list[torch.dtype] = []
    teacher, (x, y) = Mlp(), points(8)
    teacher.last.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = Distilled(loss=cross_entropy, teacher=teacher)(Mlp(), (x, y))
    assert seen == [torch.bfloat16] and total.dtype == torch.float32


def test_the_teacher_follows_the_inputs_to_their_device() -> None:
    made: list[Mlp] = []

    def make() -> Mlp:
        made.append(Mlp())
        return made[-1]

    objective, (x, y) = Distilled(loss=cross_entropy, teacher=make), points(8)
    objective(Mlp(), (x, y))
    assert {v.device.type for v in made[0].state_dict().values()} == {"cpu"}
    total, _ = objective(Mlp().to("meta"), (x.to("meta"), y.to("meta")))
    assert {v.device.type for v in made[0].state_dict().values()} == {total.device.type} == {"meta"}


def test_a_teacher_keeps_its_mode_and_evaluates_whoever_has_it_in_training() -> None:
    """A person may train it between two runs, or leave it as it was made."""
    teacher, (x, y) = trained_teacher(), points(8)
    objective, student = Distilled(loss=cross_entropy, teacher=teacher), Mlp(dropout=0.0)
    totals = []
    for mode in (True, False, True):
        teacher.train(mode)
        before = weights(teacher)
        totals.append(objective(student, (x, y))[0].item())
        assert_same(weights(teacher), before)
        assert teacher.drop.training == teacher.norm.training == mode
    assert totals[0] == totals[1] == totals[2]


def test_each_model_is_looked_at_for_parameters_of_the_teacher() -> None:
    teacher, batch = Mlp(), points(8)
    objective = Distilled(loss=cross_entropy, teacher=teacher)
    objective(Mlp(), batch)
    with pytest.raises(SettingError, match=r"shares 'first.weight' with the model"):
        objective(teacher, batch)


def test_another_teacher_has_another_fingerprint() -> None:
    def teacher(bias: float = 0.0) -> nn.Module:
        made = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).to(torch.bfloat16)
        for parameter in made.parameters():
            nn.init.constant_(parameter, bias)
        return made

    found = [Distilled(loss=cross_entropy, teacher=given).fingerprint() for given in (teacher, teacher(), teacher(1.0))]
    assert found[0] == found[1] != found[2]
    moved = teacher()
    moved[1].running_mean += 1
    assert Distilled(loss=cross_entropy, teacher=moved).fingerprint() != found[0], "what it says follows from that too"
    assert Supervised(loss=cross_entropy).fingerprint() is None
