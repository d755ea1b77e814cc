"""Between `fit` and the user's model stand at most six frames of lehr."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch
from torch import nn

import lehr
from lehr.losses import Supervised, cross_entropy

FRAMES: list[traceback.StackSummary] = []


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        FRAMES.append(traceback.extract_stack())
        return self.linear(x)


def test_at_most_six_frames_between_fit_and_the_model(tmp_path: Path) -> None:
    FRAMES.clear()
    data = lehr.Data(train=(torch.randn(8, 4), torch.zeros(8, dtype=torch.long)), batch_size=4)
    recipe = lehr.Recipe(model=Model, data=data, objective=Supervised(loss=cross_entropy), steps=2)
    lehr.Trainer(recipe, run_dir=tmp_path / "run").fit()
    ours = [f.name for f in FRAMES[-1] if "/lehr/" in f.filename]
    between = ours[len(ours) - ours[::-1].index("fit") :]
    assert 1 <= len(between) <= 6, between
