"""Checkpoints at the ends of cycles: they are written, outlive all later ones, and change nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import exact, recipe, run_steps

import lehr
from lehr.base.errors import SettingError
from lehr.checkpoint import CheckpointStore
from lehr.run.recipe import Recipe, Save
from lehr.schedules import CosineRestarts


def snapshots(every: int | str | None = "25%") -> Recipe:
    return recipe(
        schedule=CosineRestarts(period="25%"), steps=20, save=Save(every=7, keep=1, best=False, keep_every=every)
    )


def steps(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in CheckpointStore(run / "checkpoints").paths()]


def test_the_ends_of_cycles_are_kept(tmp_path: Path) -> None:
    made = snapshots()
    trainer = lehr.Trainer(made, run_dir=tmp_path / "run")
    rate = trainer.loop.update.schedule
    trainer.fit()
    assert steps(tmp_path / "run") == [5, 10, 15, 20]
    # after the update with the lowest rate of its cycle, and before the restart
    assert all(rate(step - 1) == min(map(rate, range(20))) for step in (5, 10, 15, 20))
    assert all(rate(step) == 1.0 for step in (5, 10, 15))
    lehr.train(snapshots(None), run_dir=tmp_path / "none")
    assert len(steps(tmp_path / "none")) == 1
    assert exact(tmp_path / "run") == exact(tmp_path / "none"), "nothing else is changed"


def test_they_outlive_a_resumed_run_that_keeps_none(tmp_path: Path) -> None:
    run_steps(lehr.Trainer(snapshots(), run_dir=tmp_path / "run"), 12)
    lehr.resume(tmp_path / "run", recipe=snapshots(), overrides=["save.keep_every=none"])
    assert steps(tmp_path / "run") == [5, 10, 20]


def test_a_distance_beyond_the_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="save.keep_every=21 steps is 21 steps, but the run ends at 20, so nothing"):
        lehr.Trainer(snapshots(21), run_dir=tmp_path / "run")
    with pytest.raises(SettingError, match="save.keep_every=0 steps is never and always"):
        lehr.Trainer(snapshots(0), run_dir=tmp_path / "run")
