"""Metrics by hand, and compressors on real bytes."""

from __future__ import annotations

import gzip
import lzma
import math

import pytest
import torch

from lehr.metrics import METRICS, accuracy, bits_per_byte, perplexity
from lehr.metrics.compression import compressor_bits


def test_accuracy_counts() -> None:
    logits = torch.tensor([[[0.1, 0.9], [0.9, 0.1]], [[0.2, 0.8], [0.3, 0.7]]])
    right, count = accuracy(logits, torch.tensor([[1, 1], [1, 0]]))
    assert (int(right), count) == (2, 4)


def test_perplexity_and_bits() -> None:
    """Spec section 2.6: a loss of 2.0 is a perplexity of 7.4, a loss of 1.0 one of 2.7."""
    assert round(perplexity(2.0), 1) == 7.4
    assert round(perplexity(1.0), 1) == 2.7
    assert perplexity(1000.0) == math.inf
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
