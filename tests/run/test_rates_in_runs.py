"""Too large, too small and right: what a rate does to a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import recipe, records
from torch import Tensor, nn

import lehr
from lehr.losses import Supervised, mse
from lehr.optim import SGD
from lehr.run.recipe import Track


def lines() -> tuple[Tensor, Tensor]:
    """Inputs whose mean square is exactly 1 in each place and that are independent: all curvatures are 2."""
    x = torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)]).repeat(4, 1)
    return x, x @ torch.tensor([[2.0], [-1.0]])


def losses(run: Path, lr: float) -> list[float]:
    """Return the losses of 30 updates of a line on all samples; each weight's error is multiplied by 1 - 2 lr."""
    made = recipe(
        model=lambda: nn.Linear(2, 1, bias=False),
        data=lehr.Data(train=lines(), batch_size=16),
        objective=Supervised(loss=mse),
        metrics=(),
        optim=SGD(lr=lr, momentum=0.0),
        schedule="constant",
        clip=None,
        steps=30,
        track=Track(every=1),
    )
    lehr.train(made, run_dir=run)
    return [r["loss"] for r in records(run) if r["split"] == "train"]


def test_too_large_too_small_and_right(tmp_path: Path) -> None:
    large, small, right = (losses(tmp_path / str(lr), lr) for lr in (1.1, 0.001, 0.25))
    assert large[0] == small[0] == right[0] > 0.5
    assert large[29] == pytest.approx(large[0] * 1.2**58, rel=1e-3)  # the loss is of the error's square
    assert small[29] == pytest.approx(small[0] * 0.998**58, rel=1e-3)
    assert right[29] < 1e-10


def test_at_the_edge_it_oscillates_for_ever(tmp_path: Path) -> None:
    """At 1 each weight jumps to the other side of its minimum, as high as it was."""
    assert losses(tmp_path / "run", 1.0) == pytest.approx([losses(tmp_path / "first", 1.0)[0]] * 30, rel=1e-4)
