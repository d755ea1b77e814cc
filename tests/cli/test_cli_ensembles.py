"""`lehr eval` of several runs, and of the snapshots of one."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import HEAD, RECIPE, lehr, unchanged


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensembles")
    recipe = RECIPE.replace("steps=12", 'steps=12, metrics=("accuracy",)')
    (folder / "mine.py").write_text(HEAD + recipe.replace('save={"every": 4}', 'save={"every": 4, "keep_every": 4}'))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed in (0, 1):
            assert lehr("train", "mine.py", "--run", f"run{seed}", "--set", f"seed={seed}").code == 0
        assert lehr("train", "mine.py", "--run", "none", "--set", "save.keep_every=none").code == 0
    return folder


@pytest.fixture(autouse=True)
def _there(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)


def test_several_runs_predict_together() -> None:
    with unchanged(Path.cwd()):
        done = lehr(
            "eval", "run0", "run1", "--ensemble", "mean", "--weights", "0.6,0.2", "--checkpoint", "last", "--json"
        )
    assert done.code == 0
    said = done.json
    assert (said["ensemble"], said["checkpoint"], said["split"], said["note"]) == ("mean", "last", "val", None)
    assert [(m["run"], m["step"]) for m in said["members"]] == [("run0", 12), ("run1", 12)]
    assert [m["share"] for m in said["members"]] == pytest.approx([0.75, 0.25])
    alone = lehr("eval", "run1", "--checkpoint", "last", "--json").json["metrics"]
    assert said["members"][1]["metrics"] == alone
    losses = [m["metrics"]["loss"] for m in said["members"]]
    assert said["metrics"]["loss"] < 0.75 * losses[0] + 0.25 * losses[1]
    text = lehr("eval", "run0", "run1", "--ensemble", "logits").out
    assert "run0, best checkpoint (step" in text and ", share 0.5:" in text
    assert "together, mean of the logits:\n  loss " in text


def test_a_vote_says_that_it_has_no_loss() -> None:
    said = lehr("eval", "run0", "run1", "--ensemble", "vote", "--json").json
    assert said["metrics"].keys() == {"accuracy"}
    assert "a vote has no loss" in said["note"]
    text = lehr("eval", "run0", "run1", "--ensemble", "vote").out
    assert text.partition("together, by vote:")[2].count("loss") == 1, "in the note"
    assert text.endswith("(a vote has no loss: shares of votes are no probabilities)\n")


def test_snapshots_of_a_run_predict_together() -> None:
    said = lehr("eval", "run0", "--snapshots", "--ensemble", "mean", "--json").json
    assert said["checkpoint"] == "kept"
    assert [(m["run"], m["step"]) for m in said["members"]] == [("run0", 4), ("run0", 8), ("run0", 12)]
    assert (
        "run0, kept checkpoint (step 4), val, share 0.333:"
        in lehr("eval", "run0", "--snapshots", "--ensemble", "mean").out
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run0", "run1"], "several runs are for an ensemble; give --ensemble mean, logits or vote"),
        (["run0", "--weights", "1"], "--weights is for an ensemble"),
        (["run0", "--snapshots"], "--snapshots is for an ensemble"),
        (["run0", "--ensemble", "mean"], "an ensemble has two members or more; 1 given"),
        (["run0", "run1", "--ensemble", "median"], "--ensemble median is unknown (did you mean 'mean'?); choose from"),
        (["run0", "run1", "--ensemble", "mean", "--weights", "1;2"], "--weights 1;2 is no list of numbers; write them"),
        (["run0", "run1", "--ensemble", "mean", "--weights", "1"], "1 weights were given for 2 members"),
        (["run0", "run1", "--ensemble", "mean", "--weights", "1,-1"], "must be 0 or more, and not all of them 0"),
        (["run0", "run1", "--ensemble", "mean", "--snapshots"], "--snapshots is for all that one run has kept"),
        (["none", "--ensemble", "mean", "--snapshots"], "none has kept no snapshots"),
        (
            ["run0", "run1", "./run0", "--ensemble", "mean"],
            "a run is there twice, so it would count twice; give each once",
        ),
        (["run0", "nowhere", "--ensemble", "mean"], "nowhere holds no run"),
    ],
)
def test_what_makes_no_ensemble_is_refused(args: list[str], message: str) -> None:
    with unchanged(Path.cwd()):
        done = lehr("eval", *args, "--json")
    assert done.code == 2
    assert message in done.json["error"]
