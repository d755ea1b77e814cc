"""A profile of some steps: a trace that can be opened, a table, and the same run as without."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path

import pytest
import torch
from helpers import exact, recipe

import lehr
from lehr.base.errors import LehrWarning
from lehr.training.profiling import STEPS


@pytest.mark.parametrize("steps", [2, 8, 40])
def test_a_profiled_run_leaves_a_trace_and_a_table_and_trains_the_same(steps: int, tmp_path: Path) -> None:
    made = recipe(steps=steps, evaluate=lehr.Evaluate(every="100%"))
    profiled = lehr.train(made, run_dir=tmp_path / "profiled", profile=True)
    plain = lehr.train(made, run_dir=tmp_path / "plain")
    assert exact(tmp_path / "profiled") == exact(tmp_path / "plain")
    for one, other in zip(profiled.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not (tmp_path / "plain" / "profile").exists()
    with gzip.open(tmp_path / "profiled" / "profile" / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    products = [event for event in events if event.get("name") == "aten::addmm"]
    assert len(products) == 2 * min(STEPS, steps - 1), "two layers, forward, in each recorded step"
    lines = (tmp_path / "profiled" / "profile" / "operators.txt").read_text().splitlines()
    assert len(lines) == 11
    shares = [float(line.split()[-1].rstrip("%")) for line in lines[1:]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 100.5


def test_a_profile_that_cannot_be_written_costs_no_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    trainer = lehr.Trainer(recipe(steps=30), run_dir=tmp_path / "run", profile=True)
    batches = trainer.batches()
    first = next(batches)
    (tmp_path / "run" / "profile").write_text("in the way")
    trainer.step(first)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", LehrWarning)
        for batch in batches:
            trainer.step(batch)
    assert [w for w in said if "the profile could not be written" in str(w.message)]
    assert trainer.finish().step == 30
