"""Going on with a run: what has changed is named and refused, what has ended is left alone, what is damaged is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import HEAD, RECIPE, lehr, snapshot, unchanged
from helpers import recipe

import lehr as lehr_api


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run of eight of twelve steps, with a checkpoint after each four."""
    monkeypatch.chdir(tmp_path)
    code = """
import pathlib
from lehr.base.errors import StopRun
class Pause(Observer):
    def step_end(self, place):
        if place.step == 8 and not pathlib.Path("again").read_text():
            raise StopRun("preempted")
"""
    Path("again").touch()
    Path("mine.py").write_text(HEAD + code + RECIPE.replace("steps=12", "steps=12, methods=(Pause(),)"))
    done = lehr("train", "mine.py", "--run", "run", "--json")
    assert (done.code, done.json["stopped"], done.json["step"]) == (75, "preempted", 8)
    Path("again").write_text("go on")
    return Path("run")


def refused(*args: str | Path, code: int = 2) -> str:
    with unchanged(Path.cwd()):
        done = lehr(*args, "--json")
    assert done.code == done.json["exit_code"] == code, done
    assert "Traceback" not in done.err
    message: str = done.json["error"]
    return message


def sessions(run: Path) -> list[dict[str, object]]:
    content: list[dict[str, object]] = json.loads((run / "environment.json").read_text())["sessions"]
    return content


def test_a_preempted_run_says_how_to_go_on_and_goes_on(run: Path) -> None:
    shutil.rmtree(run)
    Path("again").write_text("")
    assert "go on with it: lehr resume run" in lehr("train", "mine.py", "--run", run).out
    Path("again").write_text("go on")
    done = lehr("resume", run, "--json")
    assert (done.code, done.json["stopped"], done.json["step"]) == (0, "finished", 12)
    assert sessions(run)[-1]["resumed_at"] == 8


def test_a_run_that_has_ended_is_left_as_it_is(run: Path) -> None:
    first = lehr("resume", run, "--json").json
    with unchanged(Path.cwd()):
        done = lehr("resume", run, "--json")
        spoken = lehr("resume", run)
    assert done.code == spoken.code == 0
    assert done.json == first
    expected = (
        "run has ended (finished at step 12), so nothing was done; to train on, ask for more, for example --set st"
    )
    assert expected in done.err and expected in spoken.err


def test_a_run_that_has_ended_goes_on_when_more_is_asked_for(run: Path) -> None:
    lehr("resume", run)
    done = lehr("resume", run, "--set", "steps=16", "--json")
    assert (done.code, done.json["step"]) == (0, 16)
    assert sessions(run)[-1]["changes"] == ["steps: 12 then, 16 now"]
    assert "is at step 16 already, past the 5 steps asked for; give steps=16 or more" in refused(
        "resume", run, "--set", "steps=5"
    )


def test_a_target_ends_a_run_and_can_be_given_up(run: Path) -> None:
    done = lehr("train", "mine.py", "--run", "other", "--set", "stop.val_loss=9", "--json")
    assert (done.code, done.json["stopped"], done.json["step"]) == (0, "target", 4)
    assert (
        "(target at step 4), so nothing was done; to train on, ask for more, for example --set stop.val_loss=none"
        in (lehr("resume", "other").err)
    )
    assert lehr("resume", "other", "--set", "stop.val_loss=none", "--json").json["step"] == 12


CHANGES = {
    "code": ("class Net(", "# edited\nclass Net(", "mine.py has been edited"),
    "setting": ("batch_size=8", "batch_size=10", "data.batch_size: 8 then, 10 now"),
    "model": ("model=Net", "model=nn.Identity", "mine.Net then, torch.nn.modules.linear.Identity now"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_changed_code_and_settings_are_named_and_refused(run: Path, case: str) -> None:
    before, after, expected = CHANGES[case]
    Path("mine.py").write_text(Path("mine.py").read_text().replace(before, after))
    message = refused("resume", run)
    assert message.startswith("run was trained with other code, settings or data:\n")
    assert expected in message
    assert message.endswith("accept them with --allow-changes (from Python: allow_changes=True)")


def test_changes_that_are_allowed_are_noted(run: Path) -> None:
    Path("mine.py").write_text(Path("mine.py").read_text() + "# edited\n")
    done = lehr("resume", run, "--allow-changes", "--json")
    assert (done.code, done.json["step"]) == (0, 12)
    assert sessions(run)[0]["changes"] == []
    assert [str(change).endswith("mine.py has been edited") for change in sessions(run)[1]["changes"]] == [True]  # type: ignore[attr-defined]


@pytest.mark.parametrize("asked", [[], ["--set", "steps=24"]], ids=["alone", "beside another change"])
def test_changed_data_is_named_and_refused(run: Path, asked: list[str]) -> None:
    Path("text.txt").write_text("some words of a text\n" * 60)
    small = ["model.width=8", "model.depth=1", "model.heads=1", "data.context=8", "steps=12", "save.every=4"]
    options = [word for setting in ["data.path=text.txt", *small] for word in ("--set", setting)]
    assert lehr("train", "gpt-text", "--run", "text", *options).code == 0
    (Path("text") / "result.json").unlink()  # as if it had been killed before its end
    Path("text.txt").write_text("other words of a text\n" * 60)
    message = refused("resume", "text", *asked)
    assert "data: content_sha256: " in message and "data: train_tokens: 1134 then, 1188 now" in message
    done = lehr("resume", "text", *asked, "--allow-changes", "--json")
    assert done.code == 0
    assert "data: train_tokens: 1134 then, 1188 now" in sessions(Path("text"))[-1]["changes"]  # type: ignore[operator]
    assert "warning: this is not the data of the run" not in lehr("eval", "text").err
    Path("text.txt").write_text("some words of a text\n" * 60)
    assert "warning: this is not the data of the run: data: content_sha256" in lehr("eval", "text").err


@pytest.mark.parametrize("verb", ["resume", "eval", "sample"])
def test_a_recipe_file_that_has_moved_is_named(run: Path, verb: str) -> None:
    Path("mine.py").rename("moved.py")
    assert "mine.py does not exist; put it back if it was moved" in refused(verb, run)


def test_a_recipe_made_in_a_session_says_how_it_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lehr_api.train(recipe(steps=5), run_dir="run")
    (tmp_path / "run" / "result.json").unlink()  # as if it had been killed before its end
    assert "resume it there with lehr.resume('run', recipe=...)" in refused("resume", "run")


@pytest.mark.parametrize("verb", ["resume", "eval", "sample"])
def test_checkpoints_that_are_all_damaged_are_listed(run: Path, verb: str) -> None:
    for file in run.glob("checkpoints/*/model.safetensors"):
        file.write_bytes(b"damaged")
    message = refused(verb, run)
    assert message.startswith(f"none of the checkpoints in {run.absolute()}/checkpoints is intact")
    assert "step-00000008: model.safetensors has 7 bytes instead of" in message


@pytest.mark.parametrize("verb", ["eval", "sample"])
def test_a_run_without_a_checkpoint_cannot_be_looked_at_yet(run: Path, verb: str) -> None:
    shutil.rmtree(run / "checkpoints")
    assert refused(verb, run) == "run has no checkpoint yet; resume it with `lehr resume run`"


@pytest.mark.parametrize(
    ("content", "expected"),
    [("{", "is damaged: it is not JSON"), ("{}", "is damaged: it lacks facts, fields, hashes, overrides, source")],
)
@pytest.mark.parametrize("verb", ["resume", "eval", "sample"])
def test_a_damaged_recipe_is_said(run: Path, verb: str, content: str, expected: str) -> None:
    (run / "recipe.json").write_text(content)
    assert expected in refused(verb, run)


def test_a_refused_resume_leaves_the_run_as_it_was(run: Path) -> None:
    lehr("resume", run)
    assert "Recipe has no field 'stepz'" in refused("resume", run, "--set", "stepz=5")
    assert "labels" not in refused("resume", run, "--set", "data.batch_size=100")


def test_looking_at_a_run_changes_nothing_in_it(run: Path) -> None:
    with unchanged(Path.cwd()):
        first = lehr("eval", run, "--json")
        last = lehr("eval", run, "--json", "--checkpoint", "last", "--split", "train")
    assert first.code == last.code == 0
    assert first.json["metrics"].keys() == {"loss"}
    assert (last.json["step"], last.json["checkpoint"], last.json["split"]) == (8, "last", "train")
    assert first.json["step"] in (4, 8)
    assert "run, best checkpoint (step" in lehr("eval", run).out
    assert "Net cannot be sampled from: it has no translate(), nor generate()" in refused("sample", run)
    assert "has no CUDA device" in refused("eval", run, "--set", "device=cuda")


def test_reports_are_written_where_they_are_asked_for(run: Path) -> None:
    before = snapshot(run)
    done = lehr("report", run, "--to", "seen.html", "--json")
    assert (done.code, done.json) == (0, {"report": "seen.html", "runs": ["run"]})
    assert Path("seen.html").read_text().startswith("<!doctype html>")
    assert snapshot(run) == before
    assert lehr("report", run).out == "report: run/report.html\n"
    expected = "the report nowhere/seen.html cannot be written: No such file or directory"
    assert expected in refused("report", run, "--to", "nowhere/seen.html")


def test_a_resume_that_is_refused_late_keeps_what_the_run_came_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = """
class Stream:
    def __iter__(self): return iter([(x, y) for x, y in zip(X, Y)])
"""
    Path("mine.py").write_text(HEAD + code + RECIPE.replace("train=(X, Y)", "train=Stream()"))
    ended = lehr("train", "mine.py", "--run", "run", "--json").json
    refused_ = lehr("resume", "run", "--set", "steps=20", "--json")
    assert refused_.code == 2
    assert "--set data.replay=true" in refused_.json["error"]
    assert json.loads(Path("run/result.json").read_text())["step"] == 12
    assert not Path("run/failure.json").exists()
    assert (
        lehr("resume", "run", "--set", "steps=12", "--set", "data.replay=true", "--json").json["step"] == ended["step"]
    )
