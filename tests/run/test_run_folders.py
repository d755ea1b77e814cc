"""Where a run goes, whatever else happens meanwhile: another directory, another process, another start."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers import exact, recipe, run_steps
from torch import nn

import lehr
from lehr.base.errors import LehrWarning, SettingError
from lehr.base.protocols import Observer, Place
from lehr.checkpoint.store import CheckpointStore
from lehr.run import resume as resume_module
from lehr.run.recipe import Save


class Leave(Observer):
    """Changes the directory in the middle of the run, as a user's data set may."""

    def __init__(self, to: Path) -> None:
        self.to = to

    def step_end(self, place: Place) -> None:
        if place.step == 6:
            os.chdir(self.to)


def test_a_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    result = lehr.train(recipe(methods=(Leave(elsewhere),)), run_dir="run")
    assert result.run == str(tmp_path / "run"), "from here, `run` would be another folder"
    assert not any(elsewhere.iterdir())
    found = CheckpointStore(tmp_path / "run" / "checkpoints").newest()
    assert found is not None and found.step == 15
    assert (tmp_path / "run" / "report.html").exists()


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainers = [lehr.Trainer(recipe(steps=2)) for _ in range(3)]
    assert len({trainer.folder.path for trainer in trainers}) == 3
    runs = {str(trainer.fit().run) for trainer in trainers}
    assert runs == {str(path) for path in Path("runs").iterdir()} and len(runs) == 3


def test_a_run_that_never_began_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError):
        lehr.Trainer(recipe(model=nn.Identity))
    assert not any(tmp_path.iterdir())
    trainer = lehr.Trainer(recipe())
    assert trainer.folder.path.is_dir()
    del trainer
    assert not any(tmp_path.iterdir())


def test_a_resume_that_was_overtaken_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process goes on with the run between the choice of the checkpoint and the lock."""
    run, made = tmp_path / "run", recipe(save=Save(every=5, keep=9))
    run_steps(lehr.Trainer(made, run_dir=run), 7)
    trainer = resume_module.Trainer

    def overtaken(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(resume_module, "Trainer", trainer)
        lehr.resume(run, recipe=made)
        return trainer(*args, **options)

    monkeypatch.setattr(resume_module, "Trainer", overtaken)
    with pytest.raises(SettingError, match=r"another process has gone on with .*run since .*resume it again"):
        lehr.resume(run, recipe=made)
    assert json.loads((run / "result.json").read_text())["step"] == 15
    assert [session["resumed_at"] for session in json.loads((run / "environment.json").read_text())["sessions"]] == [
        0,
        5,
    ]


def test_a_run_whose_records_were_deleted_goes_on(tmp_path: Path) -> None:
    lehr.train(recipe(), run_dir=tmp_path / "whole")
    run_steps(lehr.Trainer(recipe(), run_dir=tmp_path / "run"), 7)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with pytest.warns(LehrWarning, match="the records in between are lost"):
        assert lehr.resume(tmp_path / "run", recipe=recipe()).step == 15
    left = exact(tmp_path / "run")
    assert left == exact(tmp_path / "whole")[-len(left) :] and left[0]["step"] == 6
