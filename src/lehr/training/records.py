"""The record of the steps since the last one: what metrics.jsonl holds, and what it is called."""

from __future__ import annotations

from collections.abc import Sequence

from lehr.base.protocols import Record
from lehr.losses.objective import Supervised
from lehr.metrics.metric import Metric
from lehr.training.clock import Clock
from lehr.training.evaluate import loss_views
from lehr.training.steps.eager import EagerStep
from lehr.training.window import Window

__all__ = ["TrainingRecords"]


class TrainingRecords:
    """Makes the training records of a run. All but the names ending in ``seconds`` or ``per_second`` is exact."""

    def __init__(self, update: EagerStep, metrics: Sequence[Metric], *, tokens: bool) -> None:
        objective = update.objective
        # exp of a smoothed loss is no perplexity, nor of one with a penalty or of mixed targets: training then has none
        plain = not isinstance(objective, Supervised) or objective.measures_its_loss()
        plain = plain and not (update.listeners.loss_ready or update.listeners.batch_ready)
        self._update, self._metrics, self.tokens = update, metrics if plain else (), tokens
        self._last = (0, 0.0, 0.0)

    def __call__(self, clock: Clock, window: Window, epoch: int) -> Record:
        """Return the record of ``window``, whose steps are settled."""
        loss = window.mean()
        record: Record = {
            "step": clock.step,
            "split": "train",
            "loss": loss,
            **loss_views(loss, self._metrics),
            "lr": float(self._update.rates[0][0]["lr"]),
            "grad_norm": window.norm,
            "epoch": epoch,
            "samples": clock.samples,
        }
        samples, count, seconds = self._last
        if clock.train_seconds <= seconds or clock.samples < samples:  # a resumed process starts to measure anew
            samples, count, seconds = clock.samples, clock.count, clock.train_seconds
        took = clock.train_seconds - seconds
        if self.tokens:
            record["tokens"] = int(clock.count)
        if clock.skipped:
            record["skipped"] = clock.skipped
        if clock.empty:
            record["empty"] = clock.empty
        record["seconds"] = round(clock.train_seconds, 6)
        if took > 0:
            record["samples_per_second"] = round((clock.samples - samples) / took, 3)
            if self.tokens:
                record["tokens_per_second"] = round((clock.count - count) / took, 3)
        self._last = (clock.samples, clock.count, clock.train_seconds)
        return record
