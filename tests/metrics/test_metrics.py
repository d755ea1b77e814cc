"""Metrics by hand, and compressors on real bytes."""

from __future__ import annotations

import functools
import gzip
import lzma
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lehr.base.errors import SettingError
from lehr.losses import Supervised, cross_entropy
from lehr.metrics import METRICS, accuracy, bits_per_byte, perplexity
from lehr.metrics.compression import compressor_bits


def test_accuracy_counts() -> None:
    logits = torch.tensor([[[0.1, 0.9], [0.9, 0.1]], [[0.2, 0.8], [0.3, 0.7]]])
    right, count = accuracy(logits, torch.tensor([[1, 1], [1, 0]]))
    assert (int(right), count) == (2, 4)


def measured(loss: object, output: torch.Tensor, target: torch.Tensor) -> float:
    right, count = accuracy(*Supervised(loss=loss).classes(output, target))
    return float(right) / float(count)


SCORES = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), F.cross_entropy, nn.NLLLoss()])
def test_ignored_labels_do_not_count_in_accuracy(loss: object) -> None:
    assert measured(loss, SCORES, torch.tensor([0, -100, 0, -100])) == 0.5
    assert measured(functools.partial(cross_entropy, ignore=1), SCORES, torch.tensor([0, 1, 0, 1])) == 0.5


def test_accuracy_of_scores_with_the_classes_in_dimension_1() -> None:
    for length in (2, 3):  # two positions and two classes look the same from outside
        labels = torch.tensor([[0, 1, 1], [1, 1, 0]])[:, :length]
        scores = F.one_hot(labels, 2).movedim(-1, 1).float()
        assert measured(nn.CrossEntropyLoss(), scores, labels) == 1.0
        assert measured(nn.CrossEntropyLoss(), scores, 1 - labels) == 0.0
        assert measured(cross_entropy, scores.movedim(1, -1), labels) == 1.0


def test_accuracy_of_binary_decisions_is_one_per_output_and_at_most_1() -> None:
    for shape in ((4,), (4, 1), (2, 2)):
        output, target = torch.tensor([-1.0, 2.0, 0.2, -0.5]).reshape(shape), torch.tensor([0.0, 1.0, 0.0, 0.0])
        for loss in (nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits):
            assert measured(loss, output, target.reshape(shape)) == 0.75
        assert measured(nn.BCELoss(), output.sigmoid(), target.reshape(shape)) == 0.75


def test_accuracy_of_soft_labels_compares_the_likeliest_classes() -> None:
    soft = torch.tensor([[0.6, 0.4], [0.3, 0.7], [0.6, 0.4], [0.3, 0.7]])
    assert measured(nn.CrossEntropyLoss(), SCORES, soft) == 0.5
    assert measured(nn.CrossEntropyLoss(), SCORES[:, :, None], soft[:, :, None]) == 0.5


def test_accuracy_where_there_are_no_classes_is_refused() -> None:
    with pytest.raises(SettingError, match=r"output has shape \(4, 1\) and the target shape \(4, 1\)"):
        measured(nn.MSELoss(), torch.zeros(4, 1), torch.zeros(4, 1))
    with pytest.raises(SettingError, match="tensors, but they are dict and Tensor"):
        measured(nn.MSELoss(), {}, torch.zeros(4, 1))  # type: ignore[arg-type]


def test_perplexity_and_bits() -> None:
    """Spec section 2.6: a loss of 2.0 is a perplexity of 7.4, a loss of 1.0 one of 2.7."""
    assert round(perplexity(2.0), 1) == 7.4
    assert round(perplexity(1.0), 1) == 2.7
    assert perplexity(1000.0) == math.inf
    assert math.isnan(perplexity(math.nan))
    assert bits_per_byte(math.log(2)) == pytest.approx(1.0)


def test_every_metric_of_the_table_is_built() -> None:
    for name, row in METRICS.items():
        metric = row.make()
        assert metric.name == name
        assert metric.goal in {"min", "max"}


def test_compressors_on_real_source_code() -> None:
    import inspect

    training, held_out = inspect.getsource(gzip).encode(), inspect.getsource(lzma).encode()
    bits = compressor_bits(held_out, training)
    assert bits.gzip == pytest.approx(len(gzip.compress(held_out, 9)) * 8 / len(held_out))
    assert bits.xz == pytest.approx(len(lzma.compress(held_out, preset=9)) * 8 / len(held_out))
    assert bits.xz_after_training_text < bits.xz
