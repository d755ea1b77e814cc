"""Attention of four layers, against torch's with packed weights: values, weights, gradients, masks, modes."""

from __future__ import annotations

import copy
import itertools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lehr.base.errors import LehrWarning, SettingError
from lehr.base.seeds import generator
from lehr.lowrank import LowRankLinear, SplitAttention, exchange, low_rank, make_dense, split_attention

B, L, S, E, HEADS = 3, 4, 5, 8, 2
MASKS = (None, "bool", "float", "each head", "causal")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "attention"))


def attention(**changes: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(E, HEADS, **{"dropout": 0.3, "batch_first": True} | changes)
    if made.in_proj_bias is not None:
        nn.init.normal_(made.in_proj_bias)
        nn.init.normal_(made.out_proj.bias)
    return made


def mask_of(kind: str | None, keys: int) -> Tensor | None:
    if kind in {"bool", "causal"}:
        return torch.ones(L, keys, dtype=torch.bool).triu(1)
    if kind == "float":
        return draw(L, keys)
    return draw(B * HEADS, L, keys) if kind == "each head" else None


def both(one: nn.Module, other: nn.Module, inputs: list[Tensor], **how: Any) -> list[list[Tensor | None]]:
    """Return the output, the weights and the gradients of all inputs and shared parameters of two attentions."""
    results = []
    for module in (one, other):
        given = [x.clone().requires_grad_() for x in inputs]
        torch.manual_seed(7)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own advice about mismatched masks
            y, weights = module(*given, **how)
        y.square().sum().backward()
        out = module.out_proj
        results.append([y, weights, *(x.grad for x in given), out.weight.grad])
    return results


def assert_close(one: list[Tensor | None], other: list[Tensor | None]) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert a.shape == b.shape
            assert torch.allclose(a, b, atol=1e-5), float((a - b).abs().max())


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("padding", [None, "bool", "float"])
@pytest.mark.parametrize("mask", MASKS)
def test_function_and_gradients_are_those_of_torchs(mask: str | None, padding: str | None, training: bool) -> None:
    """In training too: with the same seed the same weights are dropped."""
    keys = L if mask == "causal" else S
    padded = torch.zeros(B, keys, dtype=torch.bool)
    padded[0, 2:] = True
    how: dict[str, Any] = {"attn_mask": mask_of(mask, keys), "is_causal": mask == "causal"}
    if padding is not None:
        how["key_padding_mask"] = padded if padding == "bool" else torch.zeros(B, keys).masked_fill(padded, -torch.inf)
    for need, averaged, bias, different in itertools.product([True, False], repeat=4):
        sizes = {"kdim": 5, "vdim": 6} if different else {}
        one = attention(bias=bias, **sizes).train(training)
        other = SplitAttention.from_multihead(copy.deepcopy(one))
        assert other.training == training and (other.q_proj.bias is None) == (not bias)
        inputs = [
            draw(B, L, E),
            draw(B, keys, sizes.get("kdim", E), seed=1),
            draw(B, keys, sizes.get("vdim", E), seed=2),
        ]
        assert_close(*both(one, other, inputs, need_weights=need, average_attn_weights=averaged, **how))


@pytest.mark.parametrize("need", [True, False])
def test_sequence_first_and_single_sequences(need: bool) -> None:
    one = attention(batch_first=False).eval()
    other = SplitAttention.from_multihead(copy.deepcopy(one))
    padded = torch.zeros(B, S, dtype=torch.bool)
    padded[1, 1:] = True
    inputs = [draw(L, B, E), draw(S, B, E, seed=1), draw(S, B, E, seed=2)]
    assert_close(*both(one, other, inputs, need_weights=need, key_padding_mask=padded))
    single = [draw(L, E), draw(S, E, seed=1), draw(S, E, seed=2)]
    assert_close(*both(one, other, single, need_weights=need, key_padding_mask=padded[1]))
    assert_close(*both(one, other, single, need_weights=need, attn_mask=draw(HEADS, L, S)))


def test_gradients_of_the_projections_are_the_parts_of_the_packed_one() -> None:
    one = attention().eval()
    other = SplitAttention.from_multihead(copy.deepcopy(one))
    both(one, other, [draw(B, L, E), draw(B, S, E), draw(B, S, E)])
    layers = (other.q_proj, other.k_proj, other.v_proj)
    assert torch.allclose(torch.cat([layer.weight.grad for layer in layers]), one.in_proj_weight.grad, atol=1e-5)
    assert torch.allclose(torch.cat([layer.bias.grad for layer in layers]), one.in_proj_bias.grad, atol=1e-5)


@pytest.mark.parametrize("sizes", [{}, {"kdim": 5, "vdim": 6}, {"bias": False}], ids=str)
def test_there_and_back_are_the_same_weights(sizes: dict[str, Any]) -> None:
    one = attention(batch_first=False, **sizes).eval()
    state = torch.get_rng_state()
    back = SplitAttention.from_multihead(one).to_dense()
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn"
    wanted = one.state_dict()
    assert list(back.state_dict()) == list(wanted)
    assert all(torch.equal(value, wanted[name]) for name, value in back.state_dict().items())
    assert (back.batch_first, back.dropout, back.training) == (False, 0.3, False)
    assert back.out_proj.weight is one.out_proj.weight


def test_projections_can_be_low_rank() -> None:
    split = SplitAttention.from_multihead(attention().eval())
    x = draw(B, L, E)
    before = split(x, x, x)[0]
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        exchange(split, name, LowRankLinear.from_linear(getattr(split, name), E))
    assert torch.allclose(split(x, x, x)[0], before, atol=1e-5)
    assert torch.allclose(split.to_dense()(x, x, x)[0], before, atol=1e-5)
    split.q_proj = nn.Sequential(split.q_proj)
    with pytest.raises(SettingError, match="Sequential, which has no dense form"):
        split.to_dense()


def test_what_cannot_be_split_is_refused_or_left() -> None:
    for name in ("add_bias_kv", "add_zero_attn"):
        made = attention(**{name: True})
        with pytest.raises(SettingError, match=f"{name}=True cannot be split"):
            SplitAttention.from_multihead(made)
        model = nn.ModuleDict({"one": made, "other": attention()})
        with pytest.warns(LehrWarning, match=f"one has {name}=True and is not split"):
            assert split_attention(model) == ["other"]
        assert model["one"] is made


class Louder(nn.MultiheadAttention):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        y, weights = super().forward(*args, **kwargs)
        return 2 * y, weights


def special(what: str) -> nn.MultiheadAttention:
    made = Louder(E, HEADS) if what == "a forward of its own" else attention()
    if what == "hooks":
        made.register_forward_hook(lambda *_: None)
    if what == "parametrized weights":
        parametrizations.spectral_norm(made.out_proj)
    return made


@pytest.mark.parametrize("what", ["a forward of its own", "hooks", "parametrized weights", "shared weights"])
def test_what_splitting_would_lose_stays(what: str) -> None:
    model = nn.ModuleDict({"other": attention(), "one": special(what), "last": attention()})
    if what == "shared weights":
        model["one"].in_proj_weight = model["last"].in_proj_weight
    kept = model["one"]
    with pytest.warns(LehrWarning) as told:
        made = split_attention(model)
    left = ["one", "last"] if what == "shared weights" else ["one"]
    assert [str(warning.message) for warning in told] == [f"{name} has {what} and is not split" for name in left]
    assert made == [name for name in model if name not in left]
    assert model["one"] is kept


def test_shared_attention_stays_shared() -> None:
    one = attention()
    model = nn.ModuleList([one, one])
    assert split_attention(model) == ["0"]
    assert model[0] is model[1]


@pytest.mark.parametrize("sizes", [{}, {"kdim": 5, "vdim": 6}], ids=str)
@pytest.mark.parametrize("frozen", [("weight",), ("bias",), ("weight", "bias"), ("k_proj",), ()], ids=str)
def test_what_is_frozen_stays_frozen(frozen: tuple[str, ...], sizes: dict[str, Any]) -> None:
    one = attention(**sizes)
    for name, parameter in one.named_parameters():
        parameter.requires_grad_(not any(part in name for part in frozen))
    with torch.no_grad():
        other = SplitAttention.from_multihead(one)
    for part in ("q_proj", "k_proj", "v_proj"):
        own = one.in_proj_weight if one.q_proj_weight is None else getattr(one, f"{part}_weight")
        assert getattr(other, part).weight.requires_grad == own.requires_grad
        assert getattr(other, part).bias.requires_grad == one.in_proj_bias.requires_grad
    back = {name: p.requires_grad for name, p in other.to_dense().named_parameters()}
    assert back == {name: p.requires_grad for name, p in one.named_parameters()}


def test_calls_that_cannot_work_are_refused() -> None:
    split = SplitAttention.from_multihead(attention())
    x = draw(B, L, E)
    with pytest.raises(SettingError, match="is_causal=True is a hint about attn_mask"):
        split(x, x, x, is_causal=True)
    with pytest.raises(SettingError, match=r"a mask of torch\.int64; use bool"):
        split(x, x, x, key_padding_mask=torch.tensor([[0, 0, 1, 1]] * B))
    with pytest.raises(SettingError, match="takes no nested tensors"):
        split(*[torch.nested.nested_tensor([x[0], x[1, :2]], layout=torch.jagged)] * 3)


def encoder(**changes: Any) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(E, HEADS, 16, batch_first=True, **changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that nested tensors are off where they cannot be on
        return nn.TransformerEncoder(layer, 2)


@pytest.mark.parametrize("changes", [{}, {"norm_first": True}, {"bias": False}, {"activation": "gelu"}], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("mode", ["training", "evaluation", "no_grad", "autocast"])
def test_torchs_encoder_takes_it(mode: str, masked: bool, changes: dict[str, Any]) -> None:
    """In no_grad torch's layer has a fast path of its own that reads packed weights and makes nested tensors."""
    one = encoder(dropout=0.0, **changes).train(mode == "training")
    other = copy.deepcopy(one)
    assert split_attention(other) == ["layers.0.self_attn", "layers.1.self_attn"]
    x = draw(B, L, E)
    padded = torch.zeros(B, L, dtype=torch.bool)
    padded[0, 2:] = True
    mask = torch.ones(L, L, dtype=torch.bool).triu(1) if masked else None
    with torch.set_grad_enabled(mode != "no_grad"), torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, that nested tensors are a prototype
            wanted = one(x, mask=mask, src_key_padding_mask=padded)
        made = other(x, mask=mask, src_key_padding_mask=padded)
    tolerance = 0.05 if mode == "autocast" else 1e-5
    assert torch.allclose(made[~padded].float(), wanted[~padded].float(), atol=tolerance)


def test_torchs_decoder_takes_it() -> None:
    torch.manual_seed(0)
    one = nn.TransformerDecoder(nn.TransformerDecoderLayer(E, HEADS, 16, dropout=0.0, batch_first=True), 2)
    other = copy.deepcopy(one)
    assert len(split_attention(other)) == 4
    x, memory = draw(B, L, E), draw(B, S, E)
    later = torch.ones(L, L, dtype=torch.bool).triu(1)
    padded = torch.zeros(B, S, dtype=torch.bool)
    padded[0, 2:] = True
    results = []
    for model in (one, other):
        y = model(x, memory, tgt_mask=later, tgt_is_causal=True, memory_key_padding_mask=padded)
        y.square().sum().backward()
        results.append((y, model.layers[0].linear1.weight.grad, model.layers[0].norm1.weight.grad))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_fast_path_with_low_rank_feed_forward_layers_is_right() -> None:
    """The attention is torch's, so the fast path is taken and reads the products."""
    one = encoder().eval()
    other = copy.deepcopy(one)
    low_rank(other, rank=5, names=["layers.0.linear1", "layers.1.linear2"])
    x = draw(B, L, E)
    with torch.no_grad():
        fast = other(x)
    assert torch.allclose(fast, other(x), atol=1e-5)
    make_dense(other)
    with torch.no_grad():
        assert torch.allclose(fast, other(x), atol=1e-5)


def test_it_compiles_and_copies() -> None:
    split = SplitAttention.from_multihead(attention(dropout=0.0))
    x = draw(B, L, E)
    compiled = torch.compile(split, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x, x, x)[0], split(x, x, x)[0], atol=1e-6)
    assert torch.equal(copy.deepcopy(split)(x, x, x)[0], split(x, x, x)[0])
    torch.compiler.reset()
