"""Pairs of short texts for translation: names of languages and territories from Babel, or a file of pairs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from lehr.base import seeds
from lehr.base.errors import DataError
from lehr.base.optional import need
from lehr.data.data import Data, Splits
from lehr.data.files import read_bytes
from lehr.data.sources import PaddedSource

__all__ = ["PairData", "Vocabulary", "cldr_names", "read_pairs"]

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unknown>"
BASE_CASE = 600
"""Pairs of the guide's base case, to which the recipe's measurements belong."""


class Vocabulary:
    """Characters as ids, behind four special ones.

    >>> words = Vocabulary.of(["ab", "b"])
    >>> words.encode("bax"), words.decode([5, 4, 2, 0])
    ([5, 4, 3], 'ba')
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = list(symbols)
        self._ids = {symbol: place for place, symbol in enumerate(self.symbols)}

    @classmethod
    def of(cls, texts: Sequence[str]) -> Vocabulary:
        """Return the vocabulary of the characters in ``texts``."""
        return cls([PAD, BOS, EOS, UNKNOWN, *sorted({character for text in texts for character in text})])

    def encode(self, text: str) -> list[int]:
        """Return the ids of the characters; one that is not known is `UNKNOWN`."""
        return [self._ids.get(character, 3) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text up to the first `EOS`, without special symbols."""
        text = []
        for i in ids:
            if i == 2:
                break
            if i > 3:
                text.append(self.symbols[i])
        return "".join(text)


def cldr_names(source: str = "en", target: str = "zh") -> list[tuple[str, str]]:
    """Return the names of languages and territories in two languages, from the CLDR data in the Babel package."""
    locale = need("babel", extra="data", why="the names of languages and territories").Locale
    one, other = locale(source), locale(target)
    named = {
        (names[code], translated[code])
        for names, translated in ((one.languages, other.languages), (one.territories, other.territories))
        for code in names
        if code in translated
    }
    return sorted(named)


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of a ``.tsv`` file (two columns) or a ``.json`` file (a list of pairs, or of objects of two)."""
    content = read_bytes(path).decode(errors="replace")
    rows: list[Any]
    if path.suffix == ".json":
        try:
            loaded = json.loads(content)
        except json.JSONDecodeError as error:
            raise DataError(f"data.path={str(path)!r} is not JSON: {error}") from None
        rows = loaded if isinstance(loaded, list) else []
        rows = [list(row.values()) if isinstance(row, dict) else row for row in rows]
    else:
        rows = [line.split("\t") for line in content.splitlines() if line.strip()]
    for place, row in enumerate(rows):
        if not (isinstance(row, list) and len(row) == 2 and all(isinstance(text, str) and text for text in row)):
            raise DataError(
                f"data.path={str(path)!r}: entry {place + 1} is not a pair of texts; give a .tsv with two columns, or "
                "a .json list of pairs"
            )
    if not rows:
        raise DataError(f"data.path={str(path)!r} has no pairs; give a .tsv with two columns, or a .json list of pairs")
    return [(row[0], row[1]) for row in rows]


class PairData(Data):
    """Pairs as padded ids: source (B, S), target so far (B, T) that begins with BOS, and target (B, T) to its EOS.

    S and T are the longest of the batch.
    """

    path: Path | None = None
    """A .tsv or .json file of pairs; names of languages and territories, English to Chinese, if not given."""
    pairs: int | None = Field(default=None, ge=1)
    """Pairs to train on; the others are for validation, unless there are none, and then a tenth of these is. If not
    given, 600 of the names, or nine tenths of a file."""

    def open(self) -> Splits:
        """Read, split and number the pairs."""
        everything = cldr_names() if self.path is None else read_pairs(self.path)
        order = torch.randperm(len(everything), generator=seeds.generator(0, "pairs")).tolist()
        if len(everything) < 2:
            raise DataError(f"data.path={str(self.path)!r} has one pair; give at least two, one of which is held out")
        pairs = self.pairs or (BASE_CASE if self.path is None else len(everything))
        if pairs > len(everything):
            raise DataError(f"data.pairs={pairs}, but there are {len(everything)} pairs; use 1 to {len(everything)}")
        cut = pairs if pairs < len(everything) else len(everything) - max(1, len(everything) // 10)
        training, held_out = [everything[i] for i in order[:cut]], [everything[i] for i in order[cut:]]
        source, target = (Vocabulary.of([pair[side] for pair in training]) for side in (0, 1))
        lengths = {
            "source_length": max(len(pair[0]) for pair in everything),
            "target_length": max(len(pair[1]) for pair in everything) + 1,
        }
        return Splits(
            train=PaddedSource(_tensors(training, source, target, **lengths)),
            val=PaddedSource(_tensors(held_out, source, target, **lengths)),
            facts={
                "source_symbols": source.symbols,
                "target_symbols": target.symbols,
                "source_vocab_size": len(source.symbols),
                "target_vocab_size": len(target.symbols),
                "train_pairs": len(training),
                "val_pairs": len(held_out),
                "content_sha256": hashlib.sha256(json.dumps(everything).encode()).hexdigest(),
                **lengths,
            },
        )


def _tensors(
    pairs: list[tuple[str, str]],
    source: Vocabulary,
    target: Vocabulary,
    *,
    source_length: int,
    target_length: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        _padded([source.encode(text) for text, _ in pairs], source_length),
        _padded([[1, *target.encode(text)] for _, text in pairs], target_length),
        _padded([[*target.encode(text), 2] for _, text in pairs], target_length),
    )


def _padded(rows: list[list[int]], length: int) -> Tensor:
    return torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.long)
