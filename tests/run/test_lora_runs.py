"""LoRA in a run of a model that settings make, whose weights are known to be initial ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import Mlp, recipe

import lehr
from lehr.base.errors import LehrWarning
from lehr.base.settings import Settings
from lehr.training.methods import LoRA


class Small(Settings):
    """Makes an `Mlp`."""

    def build(self, facts: Mapping[str, Any]) -> Mlp:
        return Mlp()


def test_pairs_beside_initial_weights_are_warned_of(tmp_path: Path) -> None:
    made = recipe(model=Small(), methods=[LoRA(rank=1, layers=("last",))])
    with pytest.warns(LehrWarning, match="give weights=RUN"):
        lehr.Trainer(made, run_dir=tmp_path / "run")
