"""The curve of a schedule for a terminal: drawn with plain characters, and its phases as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lehr.reporting.curve import Boundary, Curve, reading

__all__ = ["chart", "describe", "formula"]

WIDTH, HEIGHT = 64, 10
ROWS = 14
"""So many phases are listed at most: the first and the last of them."""
COLUMNS = ("step", "phase", "rate", "factor", "temperature")


def chart(
    value_at: Callable[[int], float],
    at: Sequence[int],
    steps: int,
    *,
    low: float | None = 0.0,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> list[str]:
    """Return the lines of a drawing with axes: values upwards, steps from left to right.

    The axis begins at ``low``, or lower if a value is; None for the lowest value. A column shows the whole range of
    values of its steps among ``at``.

    >>> print("\\n".join(chart(lambda step: 1 - step / 8, range(8), 8, width=8, height=4)))
            1 |**
              |  ***
              |     **
            0 |       *
              +--------
               0      7
    """
    buckets: list[list[float]] = [[] for _ in range(width)]
    for step in at:
        first, last = step * width // steps, max(step * width // steps, (step + 1) * width // steps - 1)
        for column in range(first, last + 1):  # a step is wider than a column where there are few
            buckets[column].append(value_at(step))
    known = [bucket for bucket in buckets if bucket]
    low, high = min(map(min, known)) if low is None else min(low, *map(min, known)), max(map(max, known))
    scale = (height - 1) / (high - low) if high > low else 0.0
    ranges = [(round((min(b) - low) * scale), round((max(b) - low) * scale)) if b else None for b in buckets]
    rows = [[" "] * width for _ in range(height)]
    before: tuple[int, int] | None = None
    for column, found in enumerate(ranges):
        if found is None:
            continue
        joined = found if before is None else (min(found[0], before[1] + 1), max(found[1], before[0] - 1))
        for row in range(joined[0], joined[1] + 1):
            rows[row][column] = "*" if found[0] <= row <= found[1] else "|"
        before = found
    labels = {height - 1: f"{high:.3g}", 0: f"{low:.3g}"}
    lines = [f"{labels.get(row, ''):>9} |{''.join(rows[row]).rstrip()}".rstrip() for row in reversed(range(height))]
    return [*lines, f"{'':9} +{'-' * width}", f"{'':9}  0{steps - 1:>{width - 1}}"]


def describe(curve: Curve) -> str:
    """Return the drawing of the rate, of the momentum if it is cycled, the phases, and what they mean."""
    lines = [f"{curve.name}: {curve.steps} steps, base rate {curve.rate:.4g}", "", "rate"]
    lines += chart(curve.rate_at, curve.at, curve.steps)
    if callable(curve.momentum):
        lines += ["", "momentum", *chart(curve.momentum_at, curve.at, curve.steps, low=None)]
    lines += ["", *_phases(curve.boundaries), "", f"{formula(curve)}: {reading(curve)}"]
    hottest, heat = curve.hottest
    lines.append(f"hottest {heat:.3g} at step {hottest}, {curve.boundaries[-1].temperature:.3g} at the end")
    rough = (f"the temperature is that of SGD; with {curve.other} it is a rough guide only",) if curve.other else ()
    return "\n".join([*lines, *(f"note: {note}" for note in (*rough, *curve.notes))])


def formula(curve: Curve) -> str:
    """Return how the temperature is made, with this run's numbers.

    >>> formula(Curve(name="", schedule=lambda step: 1.0, steps=9, rate=1, batch_size=32, momentum=0.9))
    'temperature = rate / (batch size 32 * (1 - momentum 0.9))'
    """
    momentum = "momentum" if callable(curve.momentum) else f"momentum {curve.momentum:g}"
    return f"temperature = rate / (batch size {curve.batch_size} * (1 - {momentum}))"


def _phases(boundaries: Sequence[Boundary]) -> list[str]:
    shown = list(boundaries)
    if len(shown) > ROWS:
        shown = [*shown[: ROWS - 3], *shown[-2:]]
    cells = [(str(b.step), b.phase, f"{b.rate:.4g}", f"{b.factor:.4g}", f"{b.temperature:.3g}") for b in shown]
    lines = [_row(cell) for cell in (COLUMNS, *cells)]
    left_out = len(boundaries) - len(shown)
    return [*lines[:-2], f"{'...':>9}  {left_out} more", *lines[-2:]] if left_out else lines


def _row(cells: Sequence[str]) -> str:
    step, phase, *numbers = cells
    return f"{step:>9}  {phase:9}" + "".join(f"{number:>12}" for number in numbers)
