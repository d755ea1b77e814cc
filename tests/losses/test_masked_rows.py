"""Rows that do not count reach neither a loss nor a gradient, whatever is in them; minus infinity is a probability of 0."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lehr.base.errors import SettingError
from lehr.losses import Supervised, cross_entropy, distillation, focal_loss, label_smoothing, z_loss
from lehr.losses.distillation import softened_divergence
from lehr.losses.rows import kept_rows

INF = math.inf


@pytest.mark.parametrize("loss", [cross_entropy, focal_loss, label_smoothing, z_loss])
@pytest.mark.parametrize("bad", [math.nan, -INF, INF])
def test_an_ignored_row_that_is_not_finite_poisons_nothing(loss: Any, bad: float) -> None:
    logits = torch.tensor([[bad, 1.0, 2.0], [0.0, 1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    total, count = loss(logits, torch.tensor([-1, 2]), ignore=-1)
    total.backward()
    alone = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    expected, _ = loss(alone, torch.tensor([2]))
    expected.backward()
    assert int(count) == 1 and total.item() == pytest.approx(expected.item())
    assert logits.grad is not None and alone.grad is not None
    assert logits.grad[0].tolist() == [0, 0, 0]
    assert torch.allclose(logits.grad[1], alone.grad[0])


def test_a_class_that_both_rule_out_adds_nothing_to_the_divergence() -> None:
    student = torch.tensor([[-INF, 1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[-INF, 0.5, 0.2]], dtype=torch.float64)
    total = softened_divergence(student, teacher, temperature=2.0)
    p, q = (teacher[:, 1:] / 2).softmax(-1), (student.detach()[:, 1:] / 2).softmax(-1)
    assert total.item() == pytest.approx(4 * float((p * (p / q).log()).sum()))
    total.backward()
    assert student.grad is not None and bool(student.grad.isfinite().all())


def test_a_class_that_only_one_rules_out() -> None:
    one, other = torch.tensor([[-INF, 1.0]]), torch.tensor([[0.0, 1.0]])
    assert softened_divergence(one, other) == INF, "the teacher has it"
    p = (other / 3).softmax(-1)[0, 1]
    assert float(softened_divergence(other, one)) == pytest.approx(9 * -math.log(p), rel=1e-5)
    assert math.isnan(softened_divergence(other, torch.tensor([[math.nan, 1.0]])))


def test_rows_that_the_distillation_leaves_out_may_hold_anything() -> None:
    student = torch.tensor([[math.nan, -INF], [0.0, 1.0]], requires_grad=True)
    teacher = torch.tensor([[math.nan, 0.0], [1.0, 0.0]])
    total, count = distillation(student, teacher, torch.tensor([-1, 0]), ignore=-1)
    total.backward()
    assert int(count) == 1 and bool(total.isfinite())
    assert student.grad is not None and student.grad[0].tolist() == [0, 0]


def test_torch_s_own_loss_must_be_validated_with_the_same_ignored_label() -> None:
    with pytest.raises(SettingError, match="loss ignores the label 0 and val_loss none; give both the same"):
        Supervised(loss=nn.CrossEntropyLoss(ignore_index=0), val_loss=cross_entropy)
    with pytest.raises(SettingError, match="loss ignores the label 0 and val_loss -100"):
        Supervised(loss=nn.CrossEntropyLoss(ignore_index=0), val_loss=nn.CrossEntropyLoss())
    Supervised(loss=nn.CrossEntropyLoss(ignore_index=0), val_loss=nn.CrossEntropyLoss(ignore_index=0))
    Supervised(loss=nn.CrossEntropyLoss(label_smoothing=0.1), val_loss=cross_entropy)


def test_probabilities_of_another_number_of_classes_are_named() -> None:
    found = Supervised(loss=cross_entropy).problem(torch.zeros(2, 3), torch.full((2, 4), 0.25))
    assert found is not None
    assert "scores of shape (2, 3)" in found[0] and "probabilities of shape (2, 4)" in found[0]


def test_where_all_rows_count_the_logits_are_passed_on_as_they_are() -> None:
    """A pass over the logits of a large vocabulary, forward and backward, would be a third of a step."""
    logits = torch.randn(3, 5)
    assert kept_rows(logits, torch.ones(3, dtype=torch.bool)) is logits
    assert torch.equal(kept_rows(logits, torch.tensor([True, False, True]))[1], torch.zeros(5))
