"""`lehr eval`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lehr.base.errors import SettingError
from lehr.cli.output import JsonOption, SetOption, print_json

if TYPE_CHECKING:
    from lehr.run.ensemble import EnsembleResult

__all__ = ["eval_"]


def eval_(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The run folder; several with --ensemble.")],
    checkpoint: Annotated[str, typer.Option(help="Which weights: best or last.")] = "best",
    split: Annotated[str, typer.Option(help="Which side of the data: val or train.")] = "val",
    ensemble: Annotated[
        str | None, typer.Option(help="Let the runs predict together: mean (of probabilities), logits or vote.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="The members' weights in the ensemble, such as 0.7,0.3; equal if not given.")
    ] = None,
    snapshots: Annotated[
        bool, typer.Option("--snapshots", help="The ensemble of the checkpoints that save.keep_every has kept.")
    ] = False,
    set_: SetOption = [],  # noqa: B006 - read only
    json: JsonOption = False,
) -> None:
    """Evaluate a run's model on all of its validation data, with the costly metrics too; or several together."""
    from lehr.cli.choices import choice

    which: Literal["best", "last"] = choice("--checkpoint", checkpoint, ("best", "last"))
    side: Literal["val", "train"] = choice("--split", split, ("val", "train"))
    if ensemble is None:
        alone = {"several runs are": len(runs) > 1, "--weights is": weights is not None, "--snapshots is": snapshots}
        for what, given in alone.items():
            if given:
                raise SettingError(f"{what} for an ensemble; give --ensemble mean, logits or vote")
        _alone(runs[0], which=which, side=side, set_=set_, json=json)
        return
    from lehr.run.ensemble import evaluate_ensemble
    from lehr.run.opened import open_run, open_snapshots

    how: Literal["mean", "logits", "vote"] = choice("--ensemble", ensemble, ("mean", "logits", "vote"))
    if len({run.resolve() for run in runs}) < len(runs):
        raise SettingError("a run is there twice, so it would count twice; give each once, and --weights to weigh them")
    shares = None if weights is None else _numbers(weights)
    if snapshots and (len(runs) > 1 or which != "best"):
        raise SettingError("--snapshots is for all that one run has kept; give one run, and no --checkpoint")
    if snapshots:
        members = open_snapshots(runs[0], overrides=set_)
        runs *= len(members)
    else:
        members = [open_run(run, which=which, overrides=set_) for run in runs]
    result = evaluate_ensemble(members, how=how, weights=shares, split=side)
    listed = [
        {"run": str(run), "step": member.step, "share": share, "metrics": values}
        for run, member, share, values in zip(runs, members, result.shares, result.members, strict=True)
    ]
    _say_together(listed, result, {"checkpoint": "kept" if snapshots else which, "split": side}, json=json)


def _alone(run: Path, *, which: Literal["best", "last"], side: Literal["val", "train"], set_: Any, json: bool) -> None:
    from lehr.run.opened import open_run

    opened = open_run(run, which=which, overrides=set_)
    values = opened.evaluate(split=side)
    if json:
        print_json({"run": str(run), "step": opened.step, "checkpoint": which, "split": side, "metrics": values})
        return
    print(f"{run}, {which} checkpoint (step {opened.step}), {side}:")
    _print_values(values)


def _say_together(members: list[dict[str, Any]], result: EnsembleResult, asked: dict[str, Any], *, json: bool) -> None:
    note = _NOTES.get(result.how)
    if json:
        print_json(asked | {"ensemble": result.how, "members": members, "metrics": result.values, "note": note})
        return
    for member in members:
        where = f"{asked['checkpoint']} checkpoint (step {member['step']}), {asked['split']}"
        print(f"{member['run']}, {where}, share {member['share']:.3g}:")
        _print_values(member["metrics"])
    print(f"together, {_WORDS[result.how]}:")
    _print_values(result.values)
    if note:
        print(f"  {note}")


_WORDS = {
    "mean": "mean of the probabilities",
    "logits": "mean of the logits",
    "vote": "by vote",
    "outputs": "mean of the outputs",
}
_NOTES = {"vote": "(a vote has no loss: shares of votes are no probabilities)"}


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SettingError(f"--weights {text} is no list of numbers; write them as 0.7,0.3") from None


def _print_values(values: Mapping[str, float]) -> None:
    for name, value in values.items():
        print(f"  {name.replace('_', ' '):16} {value:.4f}")
