"""Fewer, larger microbatches at the same effective batch: the guide's larger batch, without another training run."""

from __future__ import annotations

from collections.abc import Sequence

from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["MICROBATCHES"]


def _options(setup: Setup) -> Sequence[Settings]:
    if setup.accumulate == 1:
        raise NotHere(
            f"each batch of {setup.batch_size} goes through the model at once already; another batch size is another "
            "training run, not the same one faster"
        )
    fewer = [setup.accumulate // 2**i for i in range(1, setup.accumulate.bit_length())]
    return [(f"accumulate={number}",) for number in reversed(fewer)]


MICROBATCHES = Lever(
    name="microbatches",
    summary="fewer and larger microbatches; the batch of an update stays the same",
    shortens=("forward", "backward", "python"),
    options=_options,
    changes="rounding",
)
