"""Writing and reading the whole state of a run: the parts of the registry into one checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lehr.base.protocols import Stateful
from lehr.checkpoint.encode import decode, encode
from lehr.checkpoint.store import CheckpointStore, Found
from lehr.dist.collectives import barrier
from lehr.dist.ranks import Ranks
from lehr.training.state import capture, restore

__all__ = ["Saver"]


class Saver:
    """Saves all parts with state; the main rank writes, the others wait for it."""

    def __init__(
        self,
        store: CheckpointStore | None,
        parts: Mapping[str, Stateful],
        *,
        ranks: Ranks,
        note: Mapping[str, Any],
        keeps: Callable[[int], bool],
    ) -> None:
        self.store, self.parts, self.ranks, self.note = store, dict(parts), ranks, note
        self.keeps = keeps
        """Whether the checkpoint of a step is never to be removed."""

    def __call__(self, step: int, value: float | None) -> str:
        """Write a checkpoint; returns its folder, or nothing for a run without a folder."""
        path = ""
        if self.store is not None and self.ranks.main:
            state, keep = capture(self.parts), self.keeps(step)
            path = str(self.store.save(step, state, value=value, keep=keep, note=self.note))
        barrier(self.ranks)
        return path

    def restore(self, found: Found) -> None:
        """Give every part its state back; what the main rank alone has is not for the others."""
        assert self.store is not None
        saved = self.store.read(found)
        restore(self.parts, saved if self.ranks.main else {name: saved[name] for name in self.parts if name in saved})

    def clean(self) -> None:
        """Remove what interrupted saves have left behind."""
        if self.store is not None:
            self.store.clean()

    def rehearse(self) -> None:
        """Encode, decode and load everything once, so that unsavable state is known before the first step."""
        state = capture(self.parts)
        restore(self.parts, {name: decode(*encode(part, name)) for name, part in state.items()})
