"""Depths count blocks from the input, whatever the blocks are called."""

from __future__ import annotations

import torch
from torch import nn

from lehr.models.convnet import ConvNetSettings
from lehr.models.gpt import GPTSettings
from lehr.models.resnet import ResNetSettings
from lehr.models.seq2seq import Seq2SeqSettings
from lehr.optim import depths, layer_scales


def by_block(model: nn.Module, blocks: tuple[str, ...]) -> list[set[int]]:
    """Return the depths found under each of these prefixes."""
    found = depths(model)
    assert list(found) == [name for name, _ in model.named_parameters()]
    return [{depth for name, depth in found.items() if name.startswith(f"{block}.")} for block in blocks]


def test_a_language_model() -> None:
    model = GPTSettings(width=8, depth=3, heads=2).build({"vocab_size": 4, "context": 4})
    blocks = ("embedding", "blocks.0", "blocks.1", "blocks.2", "head")
    assert by_block(model, blocks) == [{0}, {1}, {2}, {3}, {4}]


def test_convolutional_networks_and_their_norms() -> None:
    model = ResNetSettings(width=4, blocks=1).build({"channels": 3, "num_classes": 5})
    assert by_block(model, ("stem", "stages.0", "stages.1", "stages.2", "head")) == [{0}, {1}, {2}, {3}, {4}]
    small = ConvNetSettings(width=4).build({"channels": 1, "num_classes": 10})
    assert by_block(small, ("features.0", "features.1", "features.3", "head")) == [{0}, {0}, {1}, {4}]


def test_embeddings_side_by_side_and_lists_further_in() -> None:
    facts = {"source_vocab_size": 5, "target_vocab_size": 5, "source_length": 4, "target_length": 4}
    model = Seq2SeqSettings(width=8, depth=2, heads=2).build(facts)
    blocks = ("source", "target", "positions", "encoder.layers.0", "encoder.layers.1", "encoder.norm")
    assert by_block(model, blocks) == [{0}, {0}, {0}, {1}, {2}, {2}]
    assert by_block(model, ("decoder.layers.1", "decoder.norm", "head")) == [{4}, {4}, {5}]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 3))
        self.embedding = nn.Embedding(4, 3)
        self.norm = nn.LayerNorm(3)
        self.body = nn.Linear(3, 3).requires_grad_(False)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.embedding.weight


def test_tied_weights_frozen_ones_and_those_of_the_model_itself() -> None:
    assert depths(Tied()) == {
        "token": 0,
        "embedding.weight": 0,
        "norm.weight": 0,
        "norm.bias": 0,
        "body.weight": 1,
        "body.bias": 1,
    }


def test_a_model_that_is_one_layer_or_starts_with_a_norm() -> None:
    assert depths(nn.Linear(2, 2)) == {"weight": 0, "bias": 0}
    assert set(depths(nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2))).values()) == {0}
    assert depths(nn.Identity()) == {}


def test_scales_fall_from_the_top() -> None:
    scales = layer_scales(depths(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))), 0.5)
    assert [scales[f"{place}.weight"] for place in range(3)] == [0.25, 0.5, 1.0]
    assert layer_scales({}, 0.5) == {}
