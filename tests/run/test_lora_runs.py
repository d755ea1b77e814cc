"""LoRA in a run of a built-in model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import recipe

import lehr
from lehr.base.errors import LehrWarning
from lehr.models.convnet import ConvNetSettings
from lehr.training.methods import LoRA


def test_pairs_beside_initial_weights_are_warned_of(tmp_path: Path) -> None:
    pictures = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    made = recipe(
        model=ConvNetSettings(width=4),
        data=lehr.Data(train=pictures, val=pictures, batch_size=4),
        methods=[LoRA(rank=1, layers=("head",))],
        steps=1,
    )
    with pytest.warns(LehrWarning, match="give weights=RUN"):
        lehr.Trainer(made, run_dir=tmp_path / "run")
