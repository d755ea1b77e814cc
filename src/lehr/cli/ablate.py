"""`lehr ablate`: whether each technique of a recipe helps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lehr.cli.output import JsonOption, SetOption, print_json

if TYPE_CHECKING:
    from lehr.measurement.ablate import AblationReport

__all__ = ["ablate"]


def ablate(
    recipe: Annotated[str, typer.Argument(help="A built-in name (see `lehr list`), FILE.py or FILE.py:FUNCTION.")],
    set_: SetOption = [],  # noqa: B006 - read only
    try_: Annotated[
        list[str], typer.Option("--try", metavar="NAME", help="A technique to judge; the recipe's own if not given.")
    ] = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(help="How many seeds each is trained with.")] = 5,
    equal: Annotated[str, typer.Option(help="What both sides get as much of: steps or time.")] = "steps",
    markdown: Annotated[Path | None, typer.Option(help="Write the table to this file, as a card has it.")] = None,
    json: JsonOption = False,
) -> None:
    """Train a recipe with and without each of its techniques, over several seeds, and say which of them help."""
    from lehr.base.errors import SettingError
    from lehr.cli.choices import choice
    from lehr.cli.names import recipe_place
    from lehr.measurement.ablate import ablate as ablate_
    from lehr.reporting.page import write_page

    equal_ = choice("--equal", equal, ("steps", "time"))
    if markdown is not None and not markdown.parent.is_dir():
        raise SettingError(f"--markdown {markdown}: there is no such folder; make it, or name another")
    report = ablate_(recipe_place(recipe), overrides=set_, seeds=seeds, equal=equal_, names=try_)
    if json:
        print_json(report.plain())
    else:
        _print(report, seeds, asked=bool(try_))
    if markdown is not None:
        write_page(report.markdown(recipe) + "\n", markdown, what="table")


def _print(report: AblationReport, seeds: int, *, asked: bool) -> None:
    print(f"{'technique':28} {'without - with':>14}  {'interval':22} {'time':>6}  verdict")
    for row in report.rows:
        delta = row.delta
        shown = f"{delta.low:+.4f} to {delta.high:+.4f}" if delta else ""
        middle = f"{delta.median:+.4f}" if delta else ""
        ratio = f"{row.seconds_ratio:.2f}" if row.seconds_ratio is not None else ""
        name = row.name if row.on else f"{row.name} (added)"
        print(f"{name:28} {middle:>14}  {shown:22} {ratio:>6}  {row.verdict}{f': {row.reason}' if row.reason else ''}")
    print(
        f"\nvalidation loss without the technique minus that with it, {seeds} seeds, equal {report.equal}; time: "
        f"seconds a step with it over without it; {report.confidence:.0%} confidence for all rows together"
    )
    if report.offers and not asked:
        print(f"not in the recipe; judge one with --try NAME: {', '.join(report.offers)}")
