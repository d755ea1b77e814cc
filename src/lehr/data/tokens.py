"""Texts as tokens: bytes or characters. A tokenizer can be made again from the facts stored with a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lehr.base.errors import DataError, SettingError

__all__ = ["ByteTokens", "CharTokens", "Tokenizer", "tokenizer_of"]


class Tokenizer(Protocol):
    """Turns text into ids and back."""

    def encode(self, text: str) -> Tensor:
        """Return the ids (T,) of ``text``."""

    def decode(self, ids: Tensor) -> str:
        """Return the text of ``ids`` (T,)."""

    def facts(self) -> dict[str, Any]:
        """Return what `tokenizer_of` makes it from again."""


class ByteTokens:
    """UTF-8 bytes as they are: 256 ids, any text, nothing to learn.

    >>> ByteTokens().encode("né").tolist(), ByteTokens().decode(torch.tensor([110, 195, 169]))
    ([110, 195, 169], 'né')
    """

    def encode(self, text: str) -> Tensor:
        """Return the bytes of ``text``."""
        return torch.tensor(list(text.encode()), dtype=torch.long)

    def decode(self, ids: Tensor) -> str:
        """Return the text; a byte sequence that is no character is shown as a replacement mark."""
        return bytes(ids.tolist()).decode(errors="replace")

    def facts(self) -> dict[str, Any]:
        """Return what `tokenizer_of` makes it from again."""
        return {"tokens": "byte", "vocab_size": 256}


class CharTokens:
    """The characters of one text, in code-point order.

    >>> tokens = CharTokens("banana")
    >>> tokens.encode("nab").tolist(), tokens.facts()["vocab_size"]
    ([2, 0, 1], 3)
    """

    def __init__(self, alphabet: str) -> None:
        self.alphabet = "".join(sorted(set(alphabet)))
        self._points = _code_points(self.alphabet)

    def encode(self, text: str) -> Tensor:
        """Return the ids of ``text``; a character that the alphabet lacks is an error."""
        unknown = sorted(set(text) - set(self.alphabet))
        if unknown:
            raise DataError(
                f"the text has {unknown[0]!r}, which the training text does not have; known characters: "
                f"{self.alphabet[:80]!r}"
            )
        return torch.from_numpy(np.searchsorted(self._points, _code_points(text)))

    def decode(self, ids: Tensor) -> str:
        """Return the text of ``ids``."""
        return "".join(self.alphabet[i] for i in ids.tolist())

    def facts(self) -> dict[str, Any]:
        """Return what `tokenizer_of` makes it from again."""
        return {"tokens": "char", "alphabet": self.alphabet, "vocab_size": len(self.alphabet)}


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def tokenizer_of(facts: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer that a run was trained with.

    >>> tokenizer_of(CharTokens("ab").facts()).decode(torch.tensor([1, 0]))
    'ba'
    """
    kind = facts.get("tokens")
    if kind == "byte":
        return ByteTokens()
    if kind == "char":
        return CharTokens(facts["alphabet"])
    raise SettingError("this run was not trained on text as bytes or characters, so it cannot be given a text")
