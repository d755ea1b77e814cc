"""Text from a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lehr.base import seeds
from lehr.base.errors import SettingError
from lehr.base.modes import evaluation_mode
from lehr.data.pairs import Vocabulary
from lehr.data.tokens import tokenizer_of

__all__ = ["can_sample", "sample_text"]


def can_sample(model: nn.Module, facts: Mapping[str, Any]) -> bool:
    """Whether `sample_text` can be asked without a prompt: the model continues text."""
    return hasattr(model, "generate") and facts.get("tokens") in {"byte", "char"}


def sample_text(
    model: nn.Module,
    facts: Mapping[str, Any],
    prompt: str | None = None,
    *,
    length: int = 400,
    temperature: float = 0.8,
    top_k: int | None = 40,
    seed: int = 0,
) -> str:
    """Return what the model makes of ``prompt``: its continuation, or its translation."""
    device = next(model.parameters()).device
    with evaluation_mode(model):
        if can_sample(model, facts):
            tokens = tokenizer_of(facts)
            ids = tokens.encode(prompt or "\n").to(device)
            made = model.generate(  # type: ignore[operator]
                ids,
                length,
                temperature=temperature,
                top_k=top_k,
                generator=seeds.generator(seed, "sample"),
            )
            return tokens.decode(made)
        if hasattr(model, "translate") and "source_symbols" in facts:
            if not prompt:
                raise SettingError("a translation needs something to translate; give --prompt TEXT")
            source, target = Vocabulary(facts["source_symbols"]), Vocabulary(facts["target_symbols"])
            if len(prompt) > int(facts["source_length"]):
                raise SettingError(
                    f"the prompt has {len(prompt)} characters; this model was made for at most {facts['source_length']}"
                )
            ids = torch.tensor([source.encode(prompt)], device=device)
            made = model.translate(ids, longest=int(facts["target_length"]))  # type: ignore[operator]
            return target.decode(made[0].tolist())
    raise SettingError(
        f"{type(model).__name__} cannot be sampled from: it has no translate(), nor generate() and text as its data"
    )
