"""Runs that a recipe builds on: made once, gone on with, and never another one than was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

import lehr
from lehr.base.errors import SettingError
from lehr.recipes.digits_pretrain import recipe
from lehr.recipes.trained import trained

SHORT = ["steps=4", "model.width=4"]


def test_another_run_is_not_taken_for_it(tmp_path: Path) -> None:
    lehr.train(recipe, run_dir=tmp_path / "run", overrides=SHORT)
    with pytest.raises(SettingError, match="run of digits-pretrain with its own settings, but holds one of .*steps=4"):
        trained("digits-pretrain", tmp_path / "run")
    with pytest.raises(SettingError, match="run of digits with its own settings, but holds one of .*digits_pretrain"):
        trained("digits", tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(SettingError, match="holds other files; move them away"):
        trained("digits", tmp_path / "other")


def test_it_is_made_once_and_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = lehr.Trainer(recipe(), run_dir=tmp_path / "unused")
    assert trainer.loop.total_steps == 240
    assert trained("digits-pretrain", tmp_path / "run") == tmp_path / "run"
    assert "training digits-pretrain in" in capsys.readouterr().err
    (tmp_path / "run" / "result.json").unlink()
    trained("digits-pretrain", tmp_path / "run")
    assert "going on with digits-pretrain in" in capsys.readouterr().err
    trained("digits-pretrain", tmp_path / "run")
    assert capsys.readouterr().err == ""
