"""The reference models: sizes, masks, caches, and gradients that reach every parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lehr.base.errors import SettingError
from lehr.models.convnet import ConvNetSettings
from lehr.models.gpt import GPT, GPTSettings
from lehr.models.gpt2 import GPT2Settings
from lehr.models.resnet import ResNetSettings
from lehr.models.seq2seq import BOS, EOS, PAD, Seq2Seq, Seq2SeqSettings

TEXT = {"vocab_size": 11, "context": 16}
PAIRS = {"source_vocab_size": 9, "target_vocab_size": 8, "source_length": 6, "target_length": 7}


def stirred(model: nn.Module) -> nn.Module:
    """Give zero-initialized weights values, so that nothing is hidden behind them."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def gpt() -> GPT:
    torch.manual_seed(0)
    model = stirred(GPTSettings(width=24, depth=2, heads=3).build(TEXT))
    assert isinstance(model, GPT)
    return model


def test_gpt_never_looks_ahead(gpt: GPT) -> None:
    ids = torch.randint(0, 11, (2, 10))
    changed = ids.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 11
    assert torch.allclose(gpt(ids)[:, :6], gpt(changed)[:, :6], atol=1e-5)
    assert not torch.allclose(gpt(ids)[:, 6:], gpt(changed)[:, 6:], atol=1e-3)


def test_gpt_cache_gives_the_scores_of_the_whole_pass(gpt: GPT) -> None:
    ids = torch.randint(0, 11, (1, 12))
    whole = gpt(ids)
    cache: list[dict[str, torch.Tensor]] = [{} for _ in gpt.blocks]
    parts = [gpt(ids[:, :5], cache, 0)]
    parts += [gpt(ids[:, place : place + 1], cache, place) for place in range(5, 12)]
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-5)


def test_gpt_generates_what_the_best_next_token_is_each_time(gpt: GPT) -> None:
    prompt = torch.tensor([1, 2, 3])
    made = gpt.generate(prompt, 10, temperature=0)
    known = prompt.tolist()
    for token in made.tolist():
        assert token == int(gpt(torch.tensor([known]))[0, -1].argmax())
        known.append(token)


def test_gpt_generates_past_its_context_and_follows_its_generator(gpt: GPT) -> None:
    def make() -> list[int]:
        return gpt.generate(torch.tensor([1]), 50, top_k=5, generator=torch.Generator().manual_seed(3)).tolist()

    made = make()
    assert len(made) == 50
    assert made == make()
    long_prompt = torch.randint(0, 11, (40,))
    assert len(gpt.generate(long_prompt, 3)) == 3


def test_gpt_starts_as_the_uniform_guess() -> None:
    model = GPTSettings(width=24, depth=2, heads=3).build(TEXT)
    scores = model(torch.randint(0, 11, (2, 5)))
    assert torch.equal(scores, torch.zeros_like(scores))


def test_gpt_tied_head_is_one_parameter() -> None:
    tied = GPTSettings(width=24, depth=1, heads=3, tie=True).build(TEXT)
    assert tied.head.weight is tied.embedding.weight
    assert "head.weight" not in dict(tied.named_parameters())


def test_gpt_refuses_widths_that_rotation_cannot_take() -> None:
    with pytest.raises(SettingError, match="multiple of 8"):
        GPTSettings(width=20, heads=4)


def test_gpt2_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = GPT2Settings().build({"vocab_size": 50257, "context": 1024})
    assert sum(p.numel() for p in model.parameters()) == 124_439_808


def test_gpt2_initialization_is_scaled_where_it_adds_to_the_residual_stream() -> None:
    torch.manual_seed(0)
    model = GPT2Settings(width=128, depth=8, heads=2).build({"vocab_size": 64, "context": 8})
    assert model.blocks[3].up.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.blocks[3].down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)


def test_gpt2_shrunk_never_looks_ahead() -> None:
    torch.manual_seed(0)
    model = stirred(GPT2Settings(width=16, depth=2, heads=2).build(TEXT))
    ids = torch.randint(0, 11, (1, 8))
    changed = ids.clone()
    changed[:, -1] += 1
    assert torch.allclose(model(ids)[:, :-1], model(changed % 11)[:, :-1], atol=1e-5)


@pytest.fixture
def seq2seq() -> Seq2Seq:
    torch.manual_seed(0)
    model = stirred(Seq2SeqSettings(width=16, depth=1, heads=2).build(PAIRS))
    assert isinstance(model, Seq2Seq)
    return model


def test_seq2seq_is_blind_to_padding(seq2seq: Seq2Seq) -> None:
    target = torch.tensor([[BOS, 3, 4]])
    short, padded = torch.tensor([[3, 4, 5]]), torch.tensor([[3, 4, 5, PAD, PAD]])
    assert torch.allclose(seq2seq(short, target), seq2seq(padded, target), atol=1e-5)
    longer = torch.tensor([[BOS, 3, 4, PAD]])
    assert torch.allclose(seq2seq(short, target), seq2seq(short, longer)[:, :3], atol=1e-5)


def test_seq2seq_decoder_never_looks_ahead(seq2seq: Seq2Seq) -> None:
    source = torch.tensor([[3, 4, 5]])
    one, other = torch.tensor([[BOS, 3, 4]]), torch.tensor([[BOS, 3, 7]])
    assert torch.allclose(seq2seq(source, one)[:, :2], seq2seq(source, other)[:, :2], atol=1e-5)


def test_seq2seq_translates_greedily_and_stops_at_the_end(seq2seq: Seq2Seq) -> None:
    source = torch.randint(3, 9, (4, 6))
    made = seq2seq.translate(source, longest=7)
    for row in range(4):
        known = [BOS]
        for token in made[row].tolist():
            if EOS in known:
                assert token == PAD
                continue
            best = int(seq2seq(source[row : row + 1], torch.tensor([known]))[0, -1].argmax())
            assert token == best
            known.append(token)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (ConvNetSettings(width=4).build({"channels": 1, "num_classes": 3}), (torch.randn(5, 1, 8, 8),)),
        (ResNetSettings(width=4, blocks=1).build({"channels": 3, "num_classes": 3}), (torch.randn(5, 3, 16, 16),)),
        (stirred(GPTSettings(width=16, depth=1, heads=2).build(TEXT)), (torch.randint(0, 11, (2, 8)),)),
        (stirred(GPT2Settings(width=16, depth=1, heads=2).build(TEXT)), (torch.randint(0, 11, (2, 16)),)),
        (
            stirred(Seq2SeqSettings(width=16, depth=1, heads=2).build(PAIRS)),
            (torch.randint(3, 9, (2, 6)), torch.randint(3, 8, (2, 7))),
        ),
    ],
    ids=["convnet", "resnet", "gpt", "gpt2", "seq2seq"],
)
def test_every_parameter_gets_a_gradient(model: nn.Module, inputs: tuple) -> None:
    model.train()
    (model(*inputs) ** 2).sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    # a block of a residual network begins as the identity: what lies behind its zero gain waits one step
    assert [n for n in without if "conv" not in n and "norm1" not in n and n != "norm2.bias"] == []
