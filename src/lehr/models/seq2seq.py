"""An encoder-decoder Transformer for pairs of short texts.

Source: Vaswani et al. 2017 (arXiv 1706.03762), with normalization before each branch, learned positions, and one
embedding for each side. Padding (id 0) is masked in the encoder and in what the decoder sees of it; the decoder is fed
the right answer in training (teacher forcing) and its own best token when it translates (greedy decoding).

Shapes: B batch, S source positions, T target positions, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lehr.base.settings import Settings

__all__ = ["BOS", "EOS", "PAD", "Seq2Seq", "Seq2SeqSettings"]

PAD, BOS, EOS = 0, 1, 2


class Seq2SeqSettings(Settings):
    """The sizes of a `Seq2Seq`."""

    width: int = Field(default=128, ge=1)
    """Size of a position's vector; a multiple of `heads`."""
    depth: int = Field(default=2, ge=1)
    """Layers of the encoder, and of the decoder."""
    heads: int = Field(default=4, ge=1)
    """Attention heads per layer."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share dropped in training, everywhere torch's layers drop."""

    def build(self, facts: Mapping[str, Any]) -> Seq2Seq:
        """Return the model for pairs with these vocabularies and lengths."""
        return Seq2Seq(
            self,
            source_vocab=int(facts["source_vocab_size"]),
            target_vocab=int(facts["target_vocab_size"]),
            longest=max(int(facts["source_length"]), int(facts["target_length"])),
        )


class Seq2Seq(nn.Module):
    """Source ids (B, S) and target ids so far (B, T) -> scores (B, T, V) of the next target token."""

    def __init__(self, settings: Seq2SeqSettings, *, source_vocab: int, target_vocab: int, longest: int) -> None:
        super().__init__()
        width = settings.width
        self.source = nn.Embedding(source_vocab, width, padding_idx=PAD)
        self.target = nn.Embedding(target_vocab, width, padding_idx=PAD)
        self.positions = nn.Embedding(longest, width)
        common: dict[str, Any] = {
            "d_model": width,
            "nhead": settings.heads,
            "dim_feedforward": 4 * width,
            "dropout": settings.dropout,
            "batch_first": True,
            "norm_first": True,
            "bias": False,
        }
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**common),
            settings.depth,
            norm=nn.LayerNorm(width),
            enable_nested_tensor=False,
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(**common), settings.depth, norm=nn.LayerNorm(width)
        )
        self.head = nn.Linear(width, target_vocab, bias=False)
        for embedding in (self.source, self.target, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def encode(self, source_BS: Tensor) -> Tensor:
        """Return the encoder's output (B, S, W)."""
        x_BSW = self.source(source_BS) + self.positions(torch.arange(source_BS.shape[1], device=source_BS.device))
        encoded: Tensor = self.encoder(x_BSW, src_key_padding_mask=source_BS == PAD)
        return encoded

    def decode(self, encoded_BSW: Tensor, source_BS: Tensor, target_BT: Tensor) -> Tensor:
        """Return the scores (B, T, V) after each target position."""
        length = target_BT.shape[1]
        places = torch.arange(length, device=target_BT.device)
        later = torch.ones(length, length, dtype=torch.bool, device=target_BT.device).triu(1)
        x_BTW = self.decoder(
            self.target(target_BT) + self.positions(places),
            encoded_BSW,
            tgt_mask=later,
            tgt_is_causal=True,
            memory_key_padding_mask=source_BS == PAD,
        )
        scores: Tensor = self.head(x_BTW)
        return scores

    def forward(self, source_BS: Tensor, target_BT: Tensor) -> Tensor:
        """Return the scores."""
        return self.decode(self.encode(source_BS), source_BS, target_BT)

    @torch.no_grad()
    def translate(self, source_BS: Tensor, *, longest: int) -> Tensor:
        """Return the greedy translation (B, up to ``longest``), `EOS` and `PAD` behind its end."""
        encoded = self.encode(source_BS)
        made = torch.full((len(source_BS), 1), BOS, device=source_BS.device)
        ended = torch.zeros(len(source_BS), dtype=torch.bool, device=source_BS.device)
        for _ in range(longest):
            token = self.decode(encoded, source_BS, made)[:, -1].argmax(dim=-1)
            token = token.masked_fill(ended, PAD)
            made = torch.cat([made, token[:, None]], dim=1)
            ended |= token == EOS
            if bool(ended.all()):
                break
        return made[:, 1:]
