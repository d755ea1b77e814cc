"""Two hundred kills inside a save, at moments of the clock: a whole checkpoint is always there, and it is the newest."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import torch
from test_kill import PROCESSES, SEED
from victims import saving

from lehr.checkpoint.store import CheckpointStore

KILLS = 200


@pytest.mark.slow
def test_a_kill_inside_a_save_never_costs_a_whole_checkpoint(tmp_path: Path) -> None:
    draw = random.Random(f"{SEED} save")
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    marks = tmp_path / "marks"
    inside = attempts = 0
    while inside < KILLS and attempts < 3 * KILLS:
        attempts += 1
        marks.write_bytes(b"")
        found = store.newest()
        first = found.step + 1 if found else 1
        process = PROCESSES.Process(target=saving, args=(store.folder, marks, first))
        process.start()
        while not marks.stat().st_size:
            assert process.is_alive()
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        process.join()
        told = marks.read_bytes()
        inside += told.endswith(b"<")
        newest = store.newest()
        done = first - 1 + told.count(b">")
        if newest is None:
            assert done == 0
            continue
        assert newest.step in {done, done + 1}  # one that was published and killed before it could say so counts too
        assert not newest.passed_over
        assert torch.equal(store.read(newest)["model"]["w"], torch.full((250_000,), float(newest.step)))
    assert inside == KILLS
    assert len(store.paths()) <= 4
