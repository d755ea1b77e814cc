"""`lehr eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lehr.cli.output import JsonOption, SetOption, print_json

__all__ = ["eval_"]


def eval_(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    checkpoint: Annotated[str, typer.Option(help="Which weights: best or last.")] = "best",
    split: Annotated[str, typer.Option(help="Which side of the data: val or train.")] = "val",
    set_: SetOption = [],  # noqa: B006 - read only
    json: JsonOption = False,
) -> None:
    """Evaluate a run's model on all of its validation data, with the costly metrics too."""
    from lehr.cli.choices import choice
    from lehr.run.opened import open_run

    which: Literal["best", "last"] = choice("--checkpoint", checkpoint, ("best", "last"))
    side: Literal["val", "train"] = choice("--split", split, ("val", "train"))
    opened = open_run(run, which=which, overrides=set_)
    values = opened.evaluate(split=side)
    if json:
        print_json({"run": str(run), "step": opened.step, "checkpoint": which, "split": side, "metrics": values})
        return
    print(f"{run}, {which} checkpoint (step {opened.step}), {side}:")
    for name, value in values.items():
        print(f"  {name.replace('_', ' '):16} {value:.4f}")
