"""The end of a run: all validation data, a sample, the result and the report."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from typing import Any

from torch import nn

from lehr.base.errors import LehrWarning, SettingError
from lehr.data.text import TextData
from lehr.dist.ranks import Ranks
from lehr.metrics.compression import compressor_bits
from lehr.reporting.report import write_report
from lehr.run.assemble import Assembly
from lehr.run.folder import RunFolder
from lehr.run.result import RunResult
from lehr.run.sample import can_sample, sample_text
from lehr.training.evaluate import put_in, weights_of

__all__ = ["finish"]

LARGEST_TEXT = 64 << 20
"""Bytes of text up to which compressors are asked: xz reads about 3 MB a second."""


def finish(assembly: Assembly, folder: RunFolder, ranks: Ranks, *, yardsticks: bool) -> RunResult:
    """Validate on everything, write result.json and report.html, and return the result."""
    result = _result(assembly, folder)
    if not ranks.main:
        return result
    content: dict[str, Any] = result.plain()
    if can_sample(assembly.model, assembly.splits.facts):
        with put_in(assembly.averages, weights_of(assembly.recipe.evaluate.monitor, assembly.averages)):
            content["sample"] = sample_text(assembly.model, assembly.splits.facts, seed=assembly.recipe.seed)
    data = assembly.recipe.data
    if yardsticks and isinstance(data, TextData) and data.tokens == "byte" and "bits_per_byte" in result.metrics:
        training, held_out = data.texts()
        if len(training) <= LARGEST_TEXT:
            content["compressors"] = dataclasses.asdict(compressor_bits(held_out, training))
    folder.write_json(folder.result, content)
    try:
        write_report([folder.path], folder.report)
    except (OSError, SettingError) as error:  # the run is whole without it
        warnings.warn(f"{error}; once there is room, `lehr report {folder}` writes it", LehrWarning, stacklevel=2)
    return result


def _measured(assembly: Assembly) -> nn.Module:
    """Return the model; where others than its trained weights were measured, a copy that has those."""
    if all(average.prefix for average in assembly.averages):
        return assembly.model
    with put_in(assembly.averages, "model"):
        return copy.deepcopy(assembly.model)


def _result(assembly: Assembly, folder: RunFolder) -> RunResult:
    loop, clock, scores = assembly.loop, assembly.loop.clock, assembly.loop.scores
    values = scores.values
    limited = assembly.recipe.evaluate.batches is not None
    outdated = limited or scores.evaluated_at != clock.step
    if assembly.validate is not None and outdated and loop.stopped != "preempted":
        values = assembly.validate(None)
    tokens = loop.describe.tokens  # type: ignore[attr-defined]
    seconds = clock.train_seconds
    return RunResult(
        run=str(folder),
        step=clock.step,
        train_loss=scores.train_loss,
        val_loss=values.get("loss"),
        best_val_loss=scores.best_loss,
        metrics={name: value for name, value in values.items() if name != "loss"},
        stopped=loop.stopped or ("finished" if clock.step >= loop.total_steps else "left"),
        train_seconds=seconds,
        wall_seconds=clock.wall_seconds,
        samples_per_second=clock.samples / seconds if seconds else None,
        tokens_per_second=clock.count / seconds if seconds and tokens else None,
        skipped=clock.skipped,
        compilations=assembly.compiled.compilations if assembly.compiled else None,
        model=_measured(assembly),
    )
