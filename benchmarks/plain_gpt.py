"""A small GPT-2 as a plain PyTorch loop trains it: the setting that time_to_loss.py compares with.

Layer norms, learned positions, GELU, tied embeddings, no biases, no dropout; AdamW with decay on matrices, warm-up and
cosine, clipping; batches of random windows. Numbers of the well-known setting for a CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import common
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTEXT, BATCH, WIDTH, DEPTH, HEADS = 64, 12, 128, 4, 4
STEPS, WARMUP, RATE, LEAST_RATE = 2000, 100, 1e-3, 1e-4
EVERY = 100
"""Steps between evaluations, which are not counted."""


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, W = x.shape
        q, k, v = (t.view(B, T, HEADS, W // HEADS).transpose(1, 2) for t in self.qkv(self.norm_1(x)).split(W, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, W))
        grown: Tensor = x + self.down(F.gelu(self.up(self.norm_2(x))))
        return grown


class PlainGPT(nn.Module):
    """Token ids (B, T) -> scores (B, T, V)."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm, self.head = nn.LayerNorm(WIDTH, bias=False), nn.Linear(WIDTH, vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                small = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * DEPTH) if small else 0.02)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.head(self.norm(x))
        return scores


def rate(step: int) -> float:
    """Return the learning rate: linear warm-up, then cosine."""
    if step < WARMUP:
        return RATE * (step + 1) / (WARMUP + 1)
    done = (step - WARMUP) / (STEPS - WARMUP)
    return LEAST_RATE + 0.5 * (1 + math.cos(math.pi * done)) * (RATE - LEAST_RATE)


@torch.no_grad()
def validation_loss(model: nn.Module, held_out: Tensor) -> float:
    """Return the loss over all of the text, in windows that do not overlap."""
    inputs = held_out[: (len(held_out) - 1) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    targets = held_out[1 : 1 + inputs.numel()].view(-1, CONTEXT)
    total = 0.0
    for x, y in zip(inputs.split(128), targets.split(128), strict=True):
        total += float(F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum"))
    return total / inputs.numel()


@dataclass(frozen=True)
class Reached:
    """How long a loop took to a loss, and what it came to."""

    seconds: float | None
    step: int | None
    loss: float
    all_seconds: float


def train(
    text: Tensor, held_out: Tensor, vocabulary: int, *, seed: int, target: float | None, steps: int = STEPS
) -> Reached:
    """Train, and say after how many seconds of training the validation loss was at most ``target``."""
    torch.manual_seed(seed)
    device = common.device()
    text, held_out = text.to(device), held_out.to(device)
    model = PlainGPT(vocabulary).to(device)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99))
    seconds, loss = 0.0, math.inf
    for step in range(steps):
        started = common.clock()
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        starts = torch.randint(len(text) - CONTEXT, (BATCH,))
        x = torch.stack([text[i : i + CONTEXT] for i in starts])
        y = torch.stack([text[i + 1 : i + 1 + CONTEXT] for i in starts])
        scores = model(x)
        F.cross_entropy(scores.view(-1, scores.shape[-1]), y.view(-1)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds += common.clock() - started
        last = step + 1 == steps
        if last or (target is not None and (step + 1) % EVERY == 0):
            loss = validation_loss(model, held_out)
            if target is not None and loss <= target:
                return Reached(seconds, step + 1, loss, seconds)
    return Reached(None, None, loss, seconds)
