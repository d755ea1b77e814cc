"""`lehr sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lehr.cli.output import JsonOption, print_json

__all__ = ["sample"]


def sample(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    prompt: Annotated[str | None, typer.Option(help="What to continue or to translate.")] = None,
    length: Annotated[int, typer.Option(min=1, help="Tokens to make.")] = 400,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 for the best token each time.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Choose among so many best tokens.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="What the choice follows from.")] = 0,
    checkpoint: Annotated[str, typer.Option(help="Which weights: best or last.")] = "best",
    weights: Annotated[
        str | None, typer.Option(help="model, ema, ...; those of the monitored value if not given.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Let a run's model write: a continuation of a text, or a translation."""
    from lehr.cli.choices import choice
    from lehr.run.opened import open_run
    from lehr.run.sample import sample_text

    opened = open_run(run, which=choice("--checkpoint", checkpoint, ("best", "last")))
    with opened.using(weights) as model:
        text = sample_text(model, opened.facts, prompt, length=length, temperature=temperature, top_k=top_k, seed=seed)
    if json:
        print_json({"run": str(run), "step": opened.step, "prompt": prompt, "text": text})
    else:
        print((prompt or "") + text if hasattr(opened.model, "generate") else text)
