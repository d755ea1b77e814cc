"""Losses over classes: formulas written out in float64, torch as the judge, probabilities as targets, ignored labels."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lehr.base.errors import DataError, SettingError
from lehr.losses import Supervised, binary_focal_loss, cross_entropy, distillation, focal_loss, label_smoothing, z_loss
from lehr.metrics import accuracy

GUIDE = functools.partial(label_smoothing, convention="guide")
FOCAL = functools.partial(focal_loss, gamma=1.5, alpha=(0.5, 1.0, 2.0, 1.5, 3.0))
TAUGHT = "distillation"
LOSSES = {
    "cross_entropy": cross_entropy,
    "smoothing": label_smoothing,
    "smoothing of the guide": GUIDE,
    "focal": FOCAL,
    "z": functools.partial(z_loss, coefficient=0.1),
    TAUGHT: lambda logits, target, ignore=None: distillation(logits, logits.flip(-1).detach(), target, ignore=ignore),
}
ALL = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))


def drawn(seed: int, n: int = 6, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, labels and probabilities."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64) * 2
    labels = torch.randint(0, classes, (n,), generator=generator)
    return logits, labels, torch.rand(n, classes, generator=generator, dtype=torch.float64).softmax(dim=1)


def one_hot(labels: Tensor, classes: int = 5) -> Tensor:
    return F.one_hot(labels, classes).double()


@ALL
@given(n=st.integers(1, 20), cut=st.integers(0, 20), seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_two_parts_add_up_and_ignored_labels_are_left_out(loss: object, n: int, cut: int, seed: int) -> None:
    logits, labels, _ = drawn(seed, n)
    labels[torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.4] = -1
    whole, count = loss(logits, labels, ignore=-1)
    parts = [loss(logits[s], labels[s], ignore=-1) for s in (slice(0, min(cut, n)), slice(min(cut, n), n))]
    assert float(whole) == pytest.approx(sum(float(t) for t, _ in parts), abs=1e-9)
    assert int(count) == sum(int(c) for _, c in parts) == int((labels >= 0).sum())
    kept = labels >= 0
    if kept.any():
        assert float(whole) == pytest.approx(float(loss(logits[kept], labels[kept])[0]), abs=1e-9)


@ALL
def test_one_hot_probabilities_are_labels(loss: object) -> None:
    logits, labels, _ = drawn(0)
    hard, soft = loss(logits, labels), loss(logits, one_hot(labels))
    assert float(soft[0]) == pytest.approx(float(hard[0]), abs=1e-12)
    assert soft[1] == hard[1] == 6


@ALL
def test_sequences_are_rows(loss: object) -> None:
    logits, labels, soft = drawn(1, 12)
    for target in (labels, soft):
        flat, shaped = loss(logits, target), loss(logits.reshape(3, 4, 5), target.reshape(3, 4, *target.shape[1:]))
        assert float(shaped[0]) == pytest.approx(float(flat[0]), abs=1e-12)
        assert int(shaped[1]) == int(flat[1]) == 12
    partly = loss(logits.reshape(3, 4, 5), labels.reshape(3, 4), ignore=2)
    assert float(partly[0]) == pytest.approx(float(loss(logits, labels, ignore=2)[0]), abs=1e-12)


@ALL
def test_gradients(loss: object) -> None:
    logits, labels, soft = drawn(2, 3)
    logits.requires_grad_()
    if loss is LOSSES[TAUGHT]:  # its teacher above is made of the logits, and must stand still here
        teacher = logits.flip(-1).detach()
        loss = lambda s, t, **k: distillation(s, teacher, t, **k)  # noqa: E731
    assert torch.autograd.gradcheck(lambda s: loss(s, labels)[0], (logits,))
    assert torch.autograd.gradcheck(lambda s: loss(s, labels, ignore=int(labels[0]))[0], (logits,))
    assert torch.autograd.gradcheck(lambda s: loss(s, soft)[0], (logits,))


@ALL
def test_16_bits_are_summed_in_32(loss: object) -> None:
    logits = (torch.randn(60_000, 5, generator=torch.Generator().manual_seed(0)) * 3).half()
    labels = torch.zeros(60_000, dtype=torch.long)
    for target in (labels, one_hot(labels).half()):
        total, count = loss(logits, target)
        assert total.dtype == torch.float32 and torch.isfinite(total) and int(count) == 60_000


@ALL
def test_targets_that_do_not_fit_are_refused(loss: object) -> None:
    logits, labels, soft = drawn(3, 4)
    with pytest.raises(DataError, match=r"logits have shape \(2, 2, 5\) and the target \(4,\).*must be \(2, 2\)"):
        loss(logits.reshape(2, 2, 5), labels)
    with pytest.raises(DataError, match=r"target \(4, 4\) of torch.float64.*probabilities \(4, 5\)"):
        loss(logits, soft[:, :4])
    with pytest.raises(SettingError, match="ignore=-1 was given with targets that are probabilities"):
        loss(logits, soft, ignore=-1)
    with pytest.raises((IndexError, RuntimeError)):
        loss(logits, torch.full((4,), -100))  # torch's own default would leave it out in silence


def test_soft_cross_entropy_is_torchs_and_the_formula() -> None:
    logits, _, soft = drawn(4)
    total, count = cross_entropy(logits, soft)
    by_hand = -sum(
        float(soft[i, k]) * (float(logits[i, k]) - math.log(sum(math.exp(float(v)) for v in logits[i])))
        for i in range(6)
        for k in range(5)
    )
    assert float(total) == pytest.approx(by_hand, abs=1e-9)
    assert float(total) / count == pytest.approx(float(F.cross_entropy(logits, soft)), abs=1e-12)


def test_labels_of_small_integer_types() -> None:
    logits, labels, _ = drawn(5)
    for kind in (torch.uint8, torch.int32):
        assert torch.equal(cross_entropy(logits, labels.to(kind))[0], cross_entropy(logits, labels)[0])


# label smoothing


def smoothed(logits: Tensor, q: Tensor) -> float:
    """The guide's code: the mean over rows of the sum of -q log softmax."""
    return float((-q * torch.log_softmax(logits, dim=-1)).sum(dim=-1).mean())


def guides_target(labels: Tensor, smoothing: float, classes: int = 5) -> Tensor:
    q = torch.full((len(labels), classes), smoothing / (classes - 1), dtype=torch.float64)
    return q.scatter(1, labels[:, None], 1 - smoothing)


def mean(pair: tuple) -> float:
    return float(pair[0]) / float(pair[1])


def test_the_two_conventions_of_smoothing() -> None:
    """The guide's code, and torch's, which its trainer uses; they differ, and coincide after rescaling."""
    logits, labels, _ = drawn(6)
    guide, torchs = mean(GUIDE(logits, labels)), mean(label_smoothing(logits, labels))
    assert guide == pytest.approx(smoothed(logits, guides_target(labels, 0.1)), abs=1e-12)
    assert torchs == pytest.approx(float(F.cross_entropy(logits, labels, label_smoothing=0.1)), abs=1e-12)
    assert abs(guide - torchs) > 1e-3
    rescaled = mean(label_smoothing(logits, labels, smoothing=0.1 * 5 / 4))
    assert rescaled == pytest.approx(guide, abs=1e-12)


def test_the_guides_two_examples_of_smoothed_targets() -> None:
    """Of 5 classes: 0.025 and 0.9. Of 4 it shows 0.025 and 0.925, which is torch's; its code gives 0.0333 and 0.9."""

    def target(loss: object, classes: int) -> list[float]:
        # at logits 0 the gradient is softmax - q
        logits = torch.zeros(1, classes, dtype=torch.float64, requires_grad=True)
        loss(logits, torch.tensor([0]))[0].backward()
        return [round(1 / classes - float(g), 4) for g in logits.grad[0]]

    assert target(GUIDE, 5) == [0.9, 0.025, 0.025, 0.025, 0.025]
    assert target(label_smoothing, 4) == [0.925, 0.025, 0.025, 0.025]
    assert target(GUIDE, 4) == [0.9, 0.0333, 0.0333, 0.0333]


def test_smoothed_soft_targets() -> None:
    logits, _, soft = drawn(7)
    expected = F.cross_entropy(logits, soft, label_smoothing=0.2)
    assert mean(label_smoothing(logits, soft, smoothing=0.2)) == pytest.approx(float(expected), abs=1e-12)
    q = sum(soft[:, [k]] * guides_target(torch.full((6,), k), 0.2) for k in range(5))  # each class smoothed, then mixed
    assert mean(GUIDE(logits, soft, smoothing=0.2)) == pytest.approx(smoothed(logits, q), abs=1e-12)


def test_no_smoothing_is_cross_entropy() -> None:
    logits, labels, _ = drawn(8)
    for convention in ("torch", "guide"):
        plain = label_smoothing(logits, labels, smoothing=0.0, convention=convention)
        assert torch.equal(plain[0], cross_entropy(logits, labels)[0])


@pytest.mark.parametrize("smoothing", [1.0, 1.5, -0.1, float("nan")])
@pytest.mark.parametrize("convention", ["torch", "guide"])
def test_impossible_smoothing_is_refused(smoothing: float, convention: str) -> None:
    with pytest.raises(SettingError, match=rf"smoothing={smoothing} with 3 classes.*less than (1|0.667),"):
        label_smoothing(torch.zeros(2, 3), torch.tensor([0, 1]), smoothing=smoothing, convention=convention)


def test_smoothing_that_leaves_the_truth_less_than_the_rest_is_refused() -> None:
    with pytest.raises(SettingError, match="smoothing=0.5 with 2 classes and convention='guide'"):
        GUIDE(torch.zeros(2, 2), torch.tensor([0, 1]), smoothing=0.5)
    with pytest.raises(SettingError, match="with 1 classes"):
        GUIDE(torch.zeros(2, 1), torch.tensor([0, 0]))
    with pytest.raises(SettingError, match="convention='keras' is unknown; use 'torch' or 'guide'"):
        label_smoothing(torch.zeros(2, 2), torch.tensor([0, 1]), convention="keras")


# focal loss


def test_focal_loss_by_its_formula() -> None:
    logits, labels, soft = drawn(9)
    p = torch.softmax(logits, dim=1)
    terms = -((1 - p) ** 1.5) * p.log() * torch.tensor([0.5, 1.0, 2.0, 1.5, 3.0], dtype=torch.float64)
    assert float(FOCAL(logits, labels)[0]) == pytest.approx(float((one_hot(labels) * terms).sum()), abs=1e-10)
    assert float(FOCAL(logits, soft)[0]) == pytest.approx(float((soft * terms).sum()), abs=1e-10)


def test_the_papers_example_of_focal_loss() -> None:
    """With γ = 2, a sample at p = 0.9 weighs 100 times less than in cross entropy."""
    logits = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log()
    ratio = cross_entropy(logits, torch.tensor([0]))[0] / focal_loss(logits, torch.tensor([0]))[0]
    assert float(ratio) == pytest.approx(100)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    logits, labels, soft = drawn(10)
    for target in (labels, soft):
        plain = cross_entropy(logits, target)[0]
        assert float(focal_loss(logits, target, gamma=0.0)[0]) == pytest.approx(float(plain), abs=1e-12)


def test_binary_focal_loss_by_its_formula() -> None:
    x = torch.tensor([-2.0, -0.3, 0.0, 1.7], dtype=torch.float64)
    y = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    p = torch.sigmoid(x)
    p_t, alpha_t = torch.where(y == 1, p, 1 - p), torch.where(y == 1, 0.25, 0.75)
    expected = float((-alpha_t * (1 - p_t) ** 2 * p_t.log()).sum())
    assert float(binary_focal_loss(x, y)[0]) == pytest.approx(expected, abs=1e-12)
    plain = F.binary_cross_entropy_with_logits(x, y, reduction="sum")
    assert float(binary_focal_loss(x, y, gamma=0.0, alpha=None)[0]) == pytest.approx(float(plain), abs=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_gradients_are_finite_where_all_is_certain(gamma: float) -> None:
    """A power below 1 has no derivative at 0, which 1 - p is in float32 from a margin of 17 on."""
    logits = torch.tensor([[40.0, 0.0], [0.0, 40.0], [0.0, 90.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([0, 1, 0]), gamma=gamma)[0].backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    single = torch.tensor([60.0, -60.0, 60.0, 200.0], requires_grad=True)
    binary_focal_loss(single, torch.tensor([1, 0, 0, 1]), gamma=gamma)[0].backward()
    assert single.grad is not None and torch.isfinite(single.grad).all()


def test_bad_focal_settings_are_refused() -> None:
    logits, labels, _ = drawn(11)
    for gamma in (-1.0, math.inf, math.nan):
        with pytest.raises(SettingError, match="gamma="):
            focal_loss(logits, labels, gamma=gamma)
        with pytest.raises(SettingError, match="gamma="):
            binary_focal_loss(logits, logits.sigmoid(), gamma=gamma)
    with pytest.raises(SettingError, match=r"alpha has shape \(2,\), but there are 5 classes"):
        focal_loss(logits, labels, alpha=(1.0, 2.0))
    with pytest.raises(SettingError, match="alpha=1.5; it is the share of the positive class"):
        binary_focal_loss(logits, logits.sigmoid(), alpha=1.5)


# z-loss


def test_z_loss_by_its_formula() -> None:
    logits, labels, _ = drawn(12)
    log_z = torch.tensor([math.log(sum(math.exp(float(v)) for v in row)) for row in logits], dtype=torch.float64)
    plain = F.cross_entropy(logits, labels, reduction="sum")
    expected = float(plain + 0.01 * (log_z**2).sum())
    assert float(z_loss(logits, labels, coefficient=0.01)[0]) == pytest.approx(expected, abs=1e-10)
    assert torch.equal(z_loss(logits, labels, coefficient=0.0)[0], cross_entropy(logits, labels)[0])


def test_z_loss_sees_a_shift_that_cross_entropy_does_not() -> None:
    logits, labels, _ = drawn(13)
    assert float(cross_entropy(logits + 9, labels)[0]) == pytest.approx(float(cross_entropy(logits, labels)[0]))
    assert float(z_loss(logits + 9, labels)[0]) > float(z_loss(logits, labels)[0]) + 1e-3
    with pytest.raises(SettingError, match="coefficient=-1"):
        z_loss(logits, labels, coefficient=-1)


# what metrics and the first look at a batch make of them

NAMED = pytest.mark.parametrize(
    "loss", [cross_entropy, label_smoothing, focal_loss, z_loss, GUIDE, functools.partial(z_loss, coefficient=0.0)]
)


@NAMED
def test_classes_are_known_under_each(loss: object) -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
    objective = Supervised(loss=loss)
    assert [int(v) for v in accuracy(*objective.classes(logits, torch.tensor([0, 2])))] == [1, 2]
    soft = torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.3, 0.7]])
    assert [int(v) for v in accuracy(*objective.classes(logits, soft))] == [1, 2]
    assert objective.counts(logits, torch.tensor([0, 2]))
    base = loss.func if isinstance(loss, functools.partial) else loss
    ignoring = Supervised(loss=functools.partial(base, ignore=2))
    assert [int(v) for v in accuracy(*ignoring.classes(logits, torch.tensor([0, 2])))] == [1, 1]


@NAMED
def test_problems_are_named_under_each(loss: object) -> None:
    objective, logits = Supervised(loss=loss), torch.zeros(2, 3)
    assert objective.problem(logits, torch.tensor([0, 2])) is None
    found = objective.problem(logits, torch.tensor([0, 3]))
    assert found is not None and found[1] == [1] and "labels must be 0 to 2" in found[0]
    assert objective.problem(logits.bfloat16(), torch.full((2, 3), 1 / 3)) is None, "autocast gives other types"
    found = objective.problem(logits, torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.9, -0.4]]))
    assert found is not None and found[1] == [1] and "sum to 1" in found[0]
    found = objective.problem(logits, torch.tensor([[0.5, 0.5, 0.0], [math.nan, 0.9, 0.1]]))
    assert found is not None and found[1] == [1]
    found = objective.problem(logits, torch.zeros(2))
    assert found is not None and "must be integers" in found[0]


def test_probabilities_of_torchs_cross_entropy_in_dimension_1() -> None:
    objective = Supervised(loss=F.cross_entropy)
    soft = torch.rand(2, 3, 4).softmax(dim=1)
    assert objective.problem(torch.zeros(2, 3, 4), soft) is None
    assert objective.problem(torch.zeros(2, 3, 4), torch.rand(2, 3, 4).softmax(dim=2)) is not None
    found = Supervised(loss=F.nll_loss).problem(torch.zeros(2, 3), torch.full((2, 3), 1 / 3))
    assert found is not None and "must be integers" in found[0]
