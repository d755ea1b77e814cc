"""The objective of language models: what its numbers mean, and which pairs a text gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lehr.data.sources import HeldOutWindows, TokenWindows
from lehr.data.tokens import ByteTokens
from lehr.losses import cross_entropy
from lehr.metrics import bits_per_byte, perplexity


@pytest.mark.parametrize(("probability", "loss"), [(0.7, 0.357), (0.9, 0.11), (0.5, 0.69), (0.1, 2.30)])
def test_the_loss_of_a_probability_of_the_truth(probability: float, loss: float) -> None:
    logits = torch.tensor([[probability, 1 - probability]]).log()
    total, count = cross_entropy(logits, torch.tensor([0]))
    assert float(total) / count == pytest.approx(loss, abs=5e-3)


@pytest.mark.parametrize(("loss", "candidates"), [(2.0, 7.39), (1.0, 2.72), (math.log(8), 8.0)])
def test_perplexity_is_the_number_of_candidates_it_hesitates_among(loss: float, candidates: float) -> None:
    assert perplexity(loss) == pytest.approx(candidates, abs=5e-3)
    assert bits_per_byte(loss) == pytest.approx(math.log2(perplexity(loss)))


def test_hesitating_evenly_among_k_tokens_has_the_perplexity_k() -> None:
    total, count = cross_entropy(torch.zeros(6, 7), torch.tensor([0, 1, 2, 3, 4, 6]))
    assert perplexity(float(total) / count) == pytest.approx(7)


def test_the_loss_is_minus_the_logarithm_of_the_likelihood() -> None:
    """max Π P(x_i | before) is min of the sum: here of a chain whose next token depends on the last one."""
    chain = torch.tensor([[0.1, 0.9], [0.6, 0.4]])
    tokens = torch.tensor([0, 1, 1, 0, 1])
    likelihood = 0.9 * 0.4 * 0.6 * 0.9
    total, count = cross_entropy(chain.log()[tokens[:-1]], tokens[1:])
    assert float(total) == pytest.approx(-math.log(likelihood), rel=1e-6)
    assert count == 4


def test_the_likeliest_next_token_of_an_example() -> None:
    """The guide's distribution over the next word: good 0.45, not bad 0.30, poor 0.10, and the rest."""
    p = torch.tensor([0.45, 0.30, 0.10, 0.15])
    losses = [float(cross_entropy(p.log()[None], torch.tensor([i]))[0]) for i in range(4)]
    assert min(range(4), key=losses.__getitem__) == 0
    assert losses[:3] == pytest.approx([0.799, 1.204, 2.303], abs=1e-3)


def test_n_tokens_give_n_minus_1_pairs() -> None:
    """I / love / study / LLM: love after I, study after I love, LLM after I love study."""
    words = torch.tensor([0, 1, 2, 3], dtype=torch.uint8).repeat(2)
    x, y = TokenWindows(words, context=3).take_batch(torch.tensor([0]), epoch=0, seed=0)
    window = [*x[0].tolist(), int(y[0, -1])]
    assert len(window) == 4
    pairs = [(window[: i + 1], int(y[0, i])) for i in range(3)]
    assert pairs == [(window[:1], window[1]), (window[:2], window[2]), (window[:3], window[3])]


def test_every_held_out_token_is_predicted_once_from_those_before_it() -> None:
    tokens = ByteTokens().encode("weather").to(torch.uint8)
    windows = HeldOutWindows(tokens, context=4, before=10)
    x, y = windows.take_batch(torch.arange(len(windows)), epoch=0, seed=0)
    kept = y != -1
    assert y[kept].tolist() == tokens.tolist()
    assert x[kept].tolist() == [10, *tokens.tolist()[:-1]]
    total, count = cross_entropy(torch.zeros(*y.shape, 256), y, ignore=-1)
    assert int(count) == len(tokens)
    assert bits_per_byte(float(total) / int(count)) == pytest.approx(8)


def test_gradients_are_the_product_of_local_derivatives() -> None:
    """Back-propagation through embedding, hidden layer and softmax, against the chain rule written out."""
    torch.manual_seed(0)
    embedding, hidden = nn.Embedding(4, 3).double(), nn.Linear(3, 4, bias=False).double()
    token, target = torch.tensor([2]), torch.tensor([1])
    logits = hidden(torch.tanh(embedding(token)))
    cross_entropy(logits, target)[0].backward()
    e = embedding.weight[2].detach()
    d_logits = torch.softmax(logits.detach()[0], 0) - nn.functional.one_hot(target, 4)[0]  # ∂L/∂z = p - y
    assert torch.allclose(hidden.weight.grad, torch.outer(d_logits, torch.tanh(e)))
    d_hidden = hidden.weight.detach().T @ d_logits  # handed on to the layer before
    assert torch.allclose(embedding.weight.grad[2], d_hidden * (1 - torch.tanh(e) ** 2))
    assert embedding.weight.grad[[0, 1, 3]].abs().sum() == 0
