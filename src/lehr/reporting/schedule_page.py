"""The page about schedules: rates over the steps, the momentum, and beside them the temperature that they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lehr.reporting.curve import Curve, reading
from lehr.reporting.figures import COLORS, Figure, frame
from lehr.reporting.page import document, figure_boxes, table, text, write_page
from lehr.reporting.schedule_text import formula

__all__ = ["figures", "landscape", "render", "write_schedule_page"]

POINTS = 1000
"""About so many points are drawn of each curve, and both sides of each jump."""
HOT, COLD = 1.0, 0.08
"""The temperatures of the picture, in units of its loss; the ridge between its two valleys is about 1 high."""

MEANINGS = (
    ("constant", "held at one temperature: the weights never come to rest, they keep on wandering about a valley"),
    ("warmup", "heated slowly before the cooling starts, so that nothing is thrown about while all is still random"),
    ("step, multi_step", "cooled in stages, with time at each of them to come into balance"),
    ("exponential, annealing", "loses the same share of its heat in equal times, as a radioactive sample its activity"),
    ("cosine, linear, polynomial", "cooled without a stop down to the end: no oscillation"),
    ("cosine_restarts", "cooled, heated up at once and cooled again: each time it may settle in another valley"),
    ("cyclic", "driven from outside in a fixed rhythm, up and down"),
    ("one_cycle", "heated to a peak and then cooled far down; a momentum that is cycled against it evens out the peak"),
    ("plateau", "a thermostat: it watches the evaluations and cools when they stop improving, so it has no curve yet"),
)


def write_schedule_page(curves: Sequence[Curve], target: Path) -> Path:
    """Write one HTML file about one schedule, or with several laid over one another; it needs no network."""
    return write_page(render(curves), target, what="page")


def render(curves: Sequence[Curve]) -> str:
    """Return the page."""
    drawn = figures(curves)
    title = curves[0].name if len(curves) == 1 else f"{len(curves)} schedules"
    body = (
        f"{figure_boxes(drawn)}"
        f"{''.join(_section(curve, place, several=len(curves) > 1) for place, curve in enumerate(curves))}"
        f"{_temperature(curves)}<h2>Schedules as temperatures</h2>{table(['schedule', 'what happens'], MEANINGS)}"
    )
    return document(title, body, drawn)


def figures(curves: Sequence[Curve]) -> list[Figure]:
    """Return the figures: all rates in one, each of several by itself, temperatures, momenta if cycled, the picture."""
    found = [_with_switch(_figure("Learning rate", "rate", curves, lambda c: c.rate_at))]
    if len(curves) > 1:
        for place, curve in enumerate(curves):
            alone = _figure(curve.name, "rate", [curve], lambda c: c.rate_at, first=place)
            alone["layout"]["yaxis"]["type"] = "log"
            found.append(alone)
    found.append(_with_switch(_figure("Temperature", "temperature", curves, lambda c: c.temperature_at)))
    if any(callable(curve.momentum) for curve in curves):
        found.append(_figure("Momentum", "momentum", curves, lambda c: c.momentum_at))
    return [*found, landscape()]


def _figure(
    title: str,
    unit: str,
    curves: Sequence[Curve],
    value: Callable[[Curve], Callable[[int], float]],
    *,
    first: int = 0,
) -> Figure:
    traces = []
    for place, curve in enumerate(curves, start=first):
        at = _points(curve)
        traces.append(_line(curve.name, at, list(map(value(curve), at)), COLORS[place % len(COLORS)]))
    layout = frame(unit, legend=len(traces) > 1)
    layout["yaxis"]["exponentformat"] = "power"
    return {"title": title, "data": traces, "layout": layout}


def _points(curve: Curve) -> list[int]:
    """Return the steps to draw: evenly spread, and on both sides of where phases meet."""
    starts = [boundary.step for boundary in curve.boundaries[1:POINTS]]
    return sorted({*curve.sampled(POINTS), *starts, *(step - 1 for step in starts if step)})


def _line(name: str, x: Sequence[float], y: Sequence[float], color: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines" if len(x) > 1 else "markers",
        "name": text(name),
        "x": list(x),
        "y": list(y),
        "line": {"color": color, "width": 2},
        "hovertemplate": "%{y:.4g}",
    } | more


def _with_switch(figure: Figure) -> Figure:
    """Let the reader choose between a linear and a logarithmic axis."""
    buttons = [{"label": k, "method": "relayout", "args": [{"yaxis.type": k}]} for k in ("linear", "log")]
    figure["layout"]["updatemenus"] = [
        {
            "type": "buttons",
            "direction": "right",
            "buttons": buttons,
            "showactive": True,
            "x": 1,
            "xanchor": "right",
            "y": -0.12,
            "yanchor": "top",
            "font": {"size": 11},
        }
    ]
    return figure


def landscape() -> Figure:
    """Return the picture of a loss with two valleys, and of how the time is spent there when hot and when cold.

    In balance at temperature T the share of the time is proportional to ``exp(-loss / T)``.
    """
    places = [i / 50 for i in range(-85, 86)]
    losses = [(x * x - 1) ** 2 + 0.25 * x for x in places]
    layout = frame("loss, share of time", legend=True)
    layout["xaxis"] |= {"title": {"text": "one weight", "standoff": 8}, "showticklabels": False}
    layout["xaxis"].pop("unifiedhovertitle")
    layout["yaxis"] |= {"showticklabels": False}
    layout["hovermode"] = False
    data = [_line("loss", places, losses, "#6b7280")]
    for name, heat, color in (("hot: everywhere", HOT, "#dc2626"), ("cold: stays in a valley", COLD, "#2563eb")):
        data.append(_line(name, places, _shares(losses, heat), color, fill="tozeroy"))
    return {"title": "Hot and cold: a picture, not this model", "data": data, "layout": layout}


def _shares(losses: Sequence[float], heat: float) -> list[float]:
    """Return the share of the time at each place, per unit of the weight."""
    weights = [math.exp(-loss / heat) for loss in losses]
    return [50 * weight / sum(weights) for weight in weights]


def _section(curve: Curve, place: int, *, several: bool) -> str:
    head = ["step", "phase", "rate", "factor", "momentum", "temperature"]
    rows = [
        [b.step, b.phase, *(f"{v:.4g}" for v in (b.rate, b.factor, b.momentum, b.temperature))]
        for b in curve.boundaries[:200]
    ]
    more = len(curve.boundaries) - len(rows)
    name = f'<span style="color:{COLORS[place % len(COLORS)]}">{text(curve.name)}</span>' if several else "Phases"
    said = [f"{curve.steps} steps, base rate {curve.rate:.4g}. Seen as a temperature: {reading(curve)}.", *curve.notes]
    said += [f"{more} more phases are not listed."] if more else []
    return f"<h2>{name}</h2>{''.join(f'<p>{text(line)}</p>' for line in said)}{table(head, rows)}"


def _temperature(curves: Sequence[Curve]) -> str:
    """Say what the temperature is, and for whom it is only a guide."""
    formulas = dict.fromkeys(formula(curve) for curve in curves)
    others = " and ".join(dict.fromkeys(curve.other for curve in curves if curve.other))
    lines = [
        *formulas,
        "The noise of the batches moves the weights as heat moves a particle. With SGD its strength is proportional to "
        "this number (arXiv 1704.04289, 1710.06451): a lower rate and a larger batch both cool, a higher momentum "
        "heats. Hot weights cross ridges and find other valleys, cold ones settle into the valley that they are in. "
        "Cooled too fast, they are caught wherever they happen to be; too slowly, the time is wasted.",
    ]
    if others:
        lines.append(
            f"It is derived for SGD. With {others} it is a rough guide only: Adam and its kin divide by the size of "
            "the gradients, noise included. Compare it within a run, not between optimizers."
        )
    return f"<h2>Temperature</h2>{''.join(f'<p>{text(line)}</p>' for line in lines)}"
