"""A run folder as the report sees it: whatever state it is in, what is there is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers import recipe, records

import lehr
from lehr.base.errors import LehrWarning, SettingError
from lehr.reporting.read import RunRecords, read_run, read_runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finished"
    lehr.train(recipe(), run_dir=run)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def made(*records: dict[str, object]) -> RunRecords:
    return RunRecords(
        name="made",
        path=Path("made"),
        records=list(records),
        recipe={},
        environment={},
        result={},
        failure={},
        checkpoints=[],
    )


def test_a_run_is_read_whole(finished: Path) -> None:
    read = read_run(finished)
    assert read.name == "finished"
    assert read.records == records(finished)
    assert read.recipe["fields"]["steps"] == 15
    assert read.environment["torch"]
    assert read.result["stopped"] == "finished" and not read.failure
    assert [c["name"] for c in read.checkpoints] == sorted(p.name for p in (finished / "checkpoints").iterdir())
    assert read.checkpoints[-1]["step"] == 15


def test_curves_are_what_was_recorded(finished: Path) -> None:
    read = read_run(finished)
    assert read.curve("train", "lr")[0] == [2, 4, 6, 8, 10, 12, 14, 15]
    assert read.curve("val", "accuracy") == (
        [5, 10, 15],
        [r["accuracy"] for r in records(finished) if r["split"] == "val"],
    )
    assert read.curve("train", "accuracy") == ([], [])
    assert read.val_metrics == ["accuracy"]
    assert read.last("val")["step"] == 15


def test_the_loss_of_a_withheld_update_is_no_point_of_a_curve() -> None:
    read = made(
        {"step": 1, "split": "train", "loss": 2.0},
        {"step": 1, "split": "train", "loss": "inf", "withheld": "nonfinite"},
        {"step": 2, "split": "train", "loss": "nan"},
    )
    assert read.curve("train", "loss") == ([1, 2], [2.0, None])


def test_the_loss_in_other_units_is_no_metric_of_its_own() -> None:
    both = {"step": 1, "loss": 1.0, "perplexity": 2.7}
    read = made(both | {"split": "train"}, both | {"split": "val", "top5": 0.5, "accuracy": 0.25})
    assert read.val_metrics == ["top5", "accuracy"]


@pytest.mark.parametrize("gone", ["metrics.jsonl", "environment.json", "result.json", "checkpoints"])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_part_that_is_not_there_is_empty(run: Path, gone: str, how: str) -> None:
    part = run / gone
    if part.is_dir():
        shutil.rmtree(part)
    else:
        part.unlink()
    if how == "damaged":
        part.write_bytes(b'{"half": ')
    read = read_run(run)
    kept = {
        "metrics.jsonl": read.records,
        "environment.json": read.environment,
        "result.json": read.result,
        "checkpoints": read.checkpoints,
    }
    assert not kept.pop(gone)
    assert all(kept.values())


def test_a_last_line_that_was_cut_short_costs_one_record(run: Path) -> None:
    whole = records(run)
    metrics = run / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-10])
    assert read_run(run).records == whole[:-1]


def test_a_damaged_line_is_said(run: Path) -> None:
    whole = records(run)
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = b"\0" * 8 + b"\n"
    (run / "metrics.jsonl").write_bytes(b"".join(lines))
    with pytest.warns(LehrWarning, match=r"metrics.jsonl: left out damaged lines"):
        assert read_run(run).records == [*whole[:2], *whole[3:]]


@pytest.mark.parametrize("kind", ["empty folder", "file", "nothing"])
def test_a_path_that_holds_no_run_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "path"
    if kind == "empty folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("text")
    with pytest.raises(
        SettingError, match=r"^\S+path holds no run \(it has no recipe.json\); give the folder of a run$"
    ):
        read_run(path)


def test_runs_in_folders_of_one_name_are_told_apart(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = shutil.copytree(run, tmp_path / "elsewhere" / "run")
    third = shutil.copytree(run, tmp_path / "third")
    assert [r.name for r in read_runs([run, other, third])] == [str(run), str(other), "third"]
    monkeypatch.chdir(run)
    assert read_run(Path()).name == "run"
