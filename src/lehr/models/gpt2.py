"""GPT-2 as published: learned positions, layer norms with gain and bias, GELU, a tied output layer.

Source: Radford et al. 2019; initialization std 0.02, and 0.02/sqrt(2 depth) for what is added to the residual stream.
The default sizes are the 124M model (124,439,808 parameters). For a model of today's kind see `gpt.py`.

Shapes: B batch, T positions, W width, H heads, D = W/H, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lehr.base.settings import Settings

__all__ = ["GPT2", "GPT2Settings"]


class GPT2Settings(Settings):
    """The sizes of a `GPT2`."""

    width: int = Field(default=768, ge=1)
    """Size of a position's vector; a multiple of `heads`."""
    depth: int = Field(default=12, ge=1)
    """Number of blocks."""
    heads: int = Field(default=12, ge=1)
    """Attention heads per block."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share dropped after the embedding, in the attention and after each branch."""

    def build(self, facts: Mapping[str, Any]) -> GPT2:
        """Return the model for data with ``vocab_size`` and ``context`` among its facts."""
        return GPT2(self, vocab_size=int(facts["vocab_size"]), context=int(facts["context"]))


class Block(nn.Module):
    """Pre-normalized attention and feed-forward layer."""

    def __init__(self, settings: GPT2Settings) -> None:
        super().__init__()
        width, self.heads, self.dropout = settings.width, settings.heads, settings.dropout
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.drop = nn.Dropout(settings.dropout)

    def forward(self, x_BTW: Tensor) -> Tensor:
        B, T, W = x_BTW.shape
        q, k, v = self.qkv(self.norm1(x_BTW)).view(B, T, 3, self.heads, W // self.heads).permute(2, 0, 3, 1, 4)
        share = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=share)
        x_BTW = x_BTW + self.drop(self.out(y.transpose(1, 2).reshape(B, T, W)))
        branch = self.down(F.gelu(self.up(self.norm2(x_BTW)), approximate="tanh"))
        out: Tensor = x_BTW + self.drop(branch)
        return out


class GPT2(nn.Module):
    """Token ids (B, T) -> scores (B, T, V) of the next token."""

    def __init__(self, settings: GPT2Settings, *, vocab_size: int, context: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, settings.width)
        self.positions = nn.Embedding(context, settings.width)
        self.drop = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(settings.width)
        self.head = nn.Linear(settings.width, vocab_size, bias=False)
        for module in reversed(list(self.modules())):  # a block behind its layers, to set its branches once more
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, Block):
                for branch in (module.out, module.down):
                    nn.init.normal_(branch.weight, std=0.02 / math.sqrt(2 * settings.depth))
        self.head.weight = self.tokens.weight

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Return the scores."""
        places = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        x_BTW = self.drop(self.tokens(ids_BT) + self.positions(places))
        for block in self.blocks:
            x_BTW = block(x_BTW)
        scores: Tensor = self.head(self.norm(x_BTW))
        return scores
