"""`lehr schedule`: the rate of a recipe, or of a schedule written as an expression, before anything is trained."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lehr.cli.output import JsonOption, SetOption, print_json

if TYPE_CHECKING:
    from lehr.reporting.curve import Curve
    from lehr.schedules.schedule import ScheduleSettings

__all__ = ["schedule"]

STEPS, RATE, BATCH_SIZE, MOMENTUM = 1000, 0.1, 32, 0.0
"""What an expression is drawn with where nothing is given and it does not say how long it lasts."""


def schedule(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE|EXPRESSION...",
            help="A recipe, or a schedule such as 'warmup(200) then cosine(1800)'; several are drawn together.",
        ),
    ],
    set_: SetOption = [],  # noqa: B006 - read only
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the run, for expressions.")] = None,
    lr: Annotated[float | None, typer.Option(help=f"Base rate, for expressions; {RATE} if not given.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help=f"Samples per update, for expressions; {BATCH_SIZE} if not given.")
    ] = None,
    momentum: Annotated[float | None, typer.Option(help=f"For expressions; {MOMENTUM:g} if not given.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
    json: JsonOption = False,
) -> None:
    """Show the rate over the steps, where its phases begin, and the temperature that it makes."""
    given = {"steps": steps, "lr": lr, "batch_size": batch_size, "momentum": momentum}
    _check(what, set_, given)
    curves = [_of_recipe(text, set_) if _is_recipe(text) else _of_expression(text, given) for text in what]
    if html is not None:
        from lehr.reporting.schedule_page import write_schedule_page

        write_schedule_page(curves, html)
    if json:
        plain = [curve.plain() for curve in curves]
        print_json(plain[0] if len(plain) == 1 else {"schedules": plain})
        return
    from lehr.reporting.schedule_text import describe

    print("\n\n".join(describe(curve) for curve in curves))
    if html is not None:
        print(f"page: {html}")


def _is_recipe(text: str) -> bool:
    """Whether a text names a recipe: one of the table, or a file."""
    from lehr.recipes.table import RECIPES

    return text in RECIPES or text.endswith(".py") or ":" in text


def _check(what: Sequence[str], set_: Sequence[str], given: dict[str, Any]) -> None:
    """Refuse values that cannot be, and options that none of the arguments would use."""
    from lehr.base.errors import SettingError

    lr, momentum = given["lr"], given["momentum"]
    if lr is not None and not 0 < lr < math.inf:
        raise SettingError(f"--lr {lr:g} is no rate; give a number above 0")
    if momentum is not None and not 0 <= momentum < 1:
        raise SettingError(f"--momentum {momentum:g} is refused; give 0 or more and less than 1")
    recipes = sum(map(_is_recipe, what))
    used = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if used and recipes == len(what):
        raise SettingError(
            f"{', '.join(used)} would have no effect on a recipe, which has its own; "
            "use --set, for example --set steps=2000 or --set optim.lr=0.1"
        )
    if set_ and not recipes:
        raise SettingError(
            f"--set {set_[0]} would have no effect on an expression, which is no recipe; write it into the "
            "expression, or use --steps, --lr, --batch-size or --momentum"
        )


def _of_recipe(text: str, set_: Sequence[str]) -> Curve:
    from lehr.cli.names import recipe_place
    from lehr.run.origin import load
    from lehr.run.plan import planned_curve

    recipe, _ = load(recipe_place(text), set_)
    return planned_curve(recipe, " ".join([text, *(f"--set {change}" for change in set_)]))


def _of_expression(text: str, given: dict[str, Any]) -> Curve:
    from lehr.base.durations import RunLength
    from lehr.base.errors import SettingError
    from lehr.reporting.curve import BY_EVALUATIONS, Curve
    from lehr.schedules.schedule import observers

    settings = _parsed(text)
    run = RunLength(given["steps"] or _length(settings))
    resolved, cycled = settings.resolve(run), settings.momentum(run)
    if settings.absolute and given["lr"] not in (None, 1):
        raise SettingError(f"{text!r} gives rates themselves, so --lr {given['lr']:g} has no use; leave it out")
    if cycled is not None and given["momentum"] is not None:
        raise SettingError(f"{text!r} cycles the momentum, so --momentum has no use; leave it out")
    return Curve(
        name=text,
        schedule=resolved,
        steps=run.steps,
        rate=given["lr"] or (1.0 if settings.absolute else RATE),
        batch_size=given["batch_size"] or BATCH_SIZE,
        momentum=cycled or given["momentum"] or MOMENTUM,
        notes=(BY_EVALUATIONS,) if observers(resolved) else (),
    )


def _parsed(text: str) -> ScheduleSettings:
    """Read an expression; a single word that is unknown may have been meant as a recipe too."""
    from lehr.base.errors import SettingError
    from lehr.base.tables import did_you_mean
    from lehr.recipes.table import RECIPES
    from lehr.schedules.expression import parse
    from lehr.schedules.table import SCHEDULES

    if re.fullmatch(r"[\w./-]+", text) and text not in SCHEDULES:
        raise SettingError(
            f"{text!r} is neither a recipe nor a schedule{did_you_mean(text, [*RECIPES, *SCHEDULES])}; "
            f"recipes: {', '.join(RECIPES)}, or FILE.py; schedules: {', '.join(SCHEDULES)}"
        )
    return parse(text)


def _length(settings: ScheduleSettings) -> int:
    """Return how long a schedule lasts if it is written in steps throughout."""
    from lehr.base.durations import RunLength

    short, long = (settings.lasts(RunLength(steps)) for steps in (STEPS, 2 * STEPS))  # a share grows with the run
    return short if short and short == long else STEPS
