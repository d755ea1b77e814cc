"""`lehr speed`: which levers make a recipe faster on this machine."""

from __future__ import annotations

import json as json_
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lehr.cli.output import JsonOption, SetOption, print_json

if TYPE_CHECKING:
    from lehr.measurement.speed import SpeedReport

__all__ = ["speed"]


def speed(
    recipe: Annotated[str, typer.Argument(help="A built-in name (see `lehr list`), FILE.py or FILE.py:FUNCTION.")],
    set_: SetOption = [],  # noqa: B006 - read only
    budget: Annotated[str, typer.Option(help="How long it may take: 90s, 5min.")] = "5min",
    lever: Annotated[list[str], typer.Option("--lever", help="Try this lever only; may be repeated.")] = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option("--out", help="Where patch and page go; a new folder below runs/ if not given.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure every lever on this recipe and this machine, and write those that pay as a patch."""
    from lehr.base.durations import wall_seconds
    from lehr.cli.names import recipe_place
    from lehr.levers.table import LEVERS
    from lehr.measurement.speed import speed as speed_
    from lehr.reporting.page import write_page
    from lehr.reporting.speed_page import write_speed_page
    from lehr.run.folder import claim_new
    from lehr.run.patch import write_patch

    place = recipe_place(recipe)
    folder = out or claim_new(f"speed-{Path(recipe.partition(':')[0]).stem}")
    write_patch(folder / "patch.json", set_, recipe=recipe, why="not measured yet")  # that it can be, before the work
    report = speed_(place, overrides=set_, budget=wall_seconds(budget), levers=lever or tuple(LEVERS))
    # what was measured is the recipe with --set, and the levers after that
    patch = write_patch(folder / "patch.json", [*set_, *report.patch], recipe=recipe, why=report.reason)
    use = f"lehr train {shlex.quote(recipe)} --recipe-patch {shlex.quote(str(patch))}"
    write_page(json_.dumps(report.plain(), indent=1) + "\n", folder / "speed.json", what="measurement")
    page = write_speed_page(report.plain(), recipe, use, folder / "report.html")
    if json:
        print_json(report.plain() | {"patch_file": str(patch), "report": str(page)})
        return
    print("\n".join([*_lines(report), "", f"report: {page}"]))
    if report.patch:
        print(f"patch:  {patch}\nuse it: {use}")


def _lines(report: SpeedReport) -> list[str]:
    step = report.phases
    names = ("data", "forward", "backward", "optimizer", "synchronization", "rest")
    lines = [f"a step takes {1000 * step.total:.3f} ms:"]
    lines += [
        f"  {name:16} {1000 * getattr(step, name):9.3f} ms  {getattr(step, name) / step.total:5.0%}" for name in names
    ]
    lines += [f"  between operations, in any of them: {step.python / step.total:.0%}", ""]
    for tried in report.levers:
        what = "kept" if tried.kept else "dropped" if tried.settings else "-"
        lines.append(f"{what:8} {tried.name:16} {' '.join(tried.settings):28} {tried.reason}".rstrip())
    if report.untested:
        lines += ["", "never run by those who wrote them:"]
        lines += [f"  {name}: {where}" for name, where in report.untested.items()]
    lines += ["", f"total: {report.reason}"]
    if report.total is not None:
        ratio, loss = report.total.ratio, report.total.loss_delta
        shown = f"loss {loss:+.2%} after {report.total.steps} steps" if loss is not None else "loss not compared"
        lines.append(f"  ratio {ratio.median:.3f}, 99 % interval {ratio.low:.3f} to {ratio.high:.3f}; {shown}")
        if report.total.repaid_after:
            lines.append(f"  its longer warm-up is made up for after {report.total.repaid_after:,} steps")
    return lines
