"""A decoder-only Transformer, written for quality at small cost.

What the years since GPT-2 taught and what measurably helps at this size: rotary positions instead of learned ones,
normalized queries and keys with a fixed sharper scale, normalization before each branch and no learned gains, squared
ReLU, an output layer of its own, and branches that start at zero. `cards/gpt.md` has the measurements.

Shapes: B batch, T positions, W width, H heads, D = W/H, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.settings import Settings

__all__ = ["GPT", "GPTSettings"]


class GPTSettings(Settings):
    """The sizes of a `GPT`.

    >>> model = GPTSettings(width=8, depth=1, heads=2).build({"vocab_size": 4, "context": 6})
    >>> model(torch.zeros(1, 3, dtype=torch.long)).shape
    torch.Size([1, 3, 4])
    """

    width: int = Field(default=128, ge=2)
    """Size of a position's vector."""
    depth: int = Field(default=4, ge=1)
    """Number of blocks."""
    heads: int = Field(default=4, ge=1)
    """Attention heads per block."""
    expansion: int = Field(default=4, ge=1)
    """Width of the feed-forward layers, as a multiple of `width`."""
    tie: bool = False
    """Whether the output layer shares the embedding's weights; saves memory where the vocabulary is large."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each branch's output that is dropped in training."""

    @model_validator(mode="after")
    def _check(self) -> GPTSettings:
        if self.width % (2 * self.heads):
            raise SettingError(
                f"width={self.width} with heads={self.heads}: rotary positions need an even size per head; use a width "
                f"that is a multiple of {2 * self.heads}"
            )
        return self

    def build(self, facts: Mapping[str, Any]) -> GPT:
        """Return the model for data with ``vocab_size`` and ``context`` among its facts."""
        return GPT(self, vocab_size=int(facts["vocab_size"]), context=int(facts["context"]))


def normalize(x: Tensor) -> Tensor:
    """Return ``x`` with mean 0 and variance 1 over the last dimension; torch's fused kernel, without gain or bias."""
    return F.layer_norm(x, x.shape[-1:])


class Attention(nn.Module):
    """Causal self-attention with rotary positions and normalized queries and keys."""

    SCALE = 12.0
    """Largest logit: normalized q and k have norm sqrt(D), so q.k times SCALE/D lies between -SCALE and SCALE."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x_BTW: Tensor, rotation: Tensor, cache: dict[str, Tensor] | None) -> Tensor:
        B, T, W = x_BTW.shape
        qkv = self.qkv(x_BTW).view(B, T, 3, self.heads, W // self.heads)
        qk = rotate(normalize(qkv[:, :, :2]), rotation)  # both at once: half the kernels
        q, k, v = (t.transpose(1, 2) for t in (qk[:, :, 0], qk[:, :, 1], qkv[:, :, 2]))  # (B, H, T, D)
        if cache is not None:
            k = cache["k"] = torch.cat([cache["k"], k], dim=2) if cache else k
            v = cache["v"] = torch.cat([cache["v"], v], dim=2) if "v" in cache else v
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1, scale=self.SCALE / q.shape[-1])
        out: Tensor = self.out(y.transpose(1, 2).reshape(B, T, W))
        return out


class Block(nn.Module):
    """Attention, then a feed-forward layer, each added to what comes in."""

    def __init__(self, settings: GPTSettings) -> None:
        super().__init__()
        width, inner = settings.width, settings.expansion * settings.width
        self.attention = Attention(width, settings.heads)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.drop = nn.Dropout(settings.dropout) if settings.dropout else nn.Identity()
        nn.init.zeros_(self.down.weight)

    def forward(self, x_BTW: Tensor, rotation: Tensor, cache: dict[str, Tensor] | None) -> Tensor:
        x_BTW = x_BTW + self.drop(self.attention(normalize(x_BTW), rotation, cache))
        hidden = F.relu(self.up(normalize(x_BTW)))
        out: Tensor = x_BTW + self.drop(self.down(hidden * hidden))
        return out


class GPT(nn.Module):
    """Token ids (B, T) -> scores (B, T, V) of the next token."""

    rotation: Tensor

    def __init__(self, settings: GPTSettings, *, vocab_size: int, context: int) -> None:
        super().__init__()
        self.context = context
        self.embedding = nn.Embedding(vocab_size, settings.width)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.depth))
        self.head = nn.Linear(settings.width, vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        if settings.tie:
            self.head.weight = self.embedding.weight
        else:
            nn.init.zeros_(self.head.weight)
        self.register_buffer("rotation", rotations(context, settings.width // settings.heads), persistent=False)

    def forward(self, ids_BT: Tensor, cache: list[dict[str, Tensor]] | None = None, start: int = 0) -> Tensor:
        """Return the scores; with a cache, ``ids_BT`` continues what the cache holds, from position ``start``."""
        rotation = self.rotation[start : start + ids_BT.shape[1]]
        x_BTW = normalize(self.embedding(ids_BT))
        for place, block in enumerate(self.blocks):
            x_BTW = block(x_BTW, rotation, None if cache is None else cache[place])
        scores: Tensor = self.head(normalize(x_BTW))
        return scores

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue ``prompt`` (T,) by ``length`` tokens, one forward pass of one position each; returns those tokens.

        Keys and values are cached. When the context is full, its later half is read again and the rest forgotten.
        ``temperature=0`` takes the best token each time.
        """
        made: list[int] = []
        known = prompt.tolist()[-self.context :]
        cache: list[dict[str, Tensor]] = []
        fresh, start = known, 0
        while len(made) < length:
            if start + len(fresh) > self.context:
                fresh, start = known[-(self.context // 2) :], 0
            if start == 0:
                cache = [{} for _ in self.blocks]
            ids = torch.tensor([fresh], device=self.embedding.weight.device)
            scores = self(ids, cache, start)[0, -1].float()
            start += len(fresh)
            token = choose(scores, temperature=temperature, top_k=top_k, generator=generator)
            made.append(token)
            known.append(token)
            fresh = [token]
        return torch.tensor(made)


def rotations(length: int, size: int, base: float = 10000.0) -> Tensor:
    """Return cos and sin of ``position * base^(-2i/size)`` as (length, 2, 1, 1, size/2). Source: arXiv 2104.09864."""
    frequency = base ** -(torch.arange(0, size, 2) / size)
    angle = torch.arange(length)[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()], dim=1)[:, :, None, None, :]


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i + size/2}) of ``x`` (B, T, 2, H, D) by its position's angle."""
    cos, sin = rotation[:, 0], rotation[:, 1]
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def choose(scores: Tensor, *, temperature: float, top_k: int | None, generator: torch.Generator | None) -> int:
    """Draw a token from scores (V,); the best one at temperature 0.

    >>> choose(torch.tensor([0.0, 3.0]), temperature=0, top_k=None, generator=None)
    1
    """
    if temperature == 0:
        return int(scores.argmax())
    if top_k is not None:
        scores = scores.masked_fill(scores < scores.topk(min(top_k, len(scores))).values[-1], -torch.inf)
    return int(torch.multinomial((scores / temperature).softmax(dim=-1).cpu(), 1, generator=generator))
