"""The curves of a report as Plotly figures: plain dictionaries, one function per figure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from lehr.reporting.read import RunRecords

__all__ = ["COLORS", "Figure", "figures", "frame", "line_figure"]

COLORS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
"""One color per run; validation is the same color, with markers."""

Figure = dict[str, Any]


def figures(runs: Sequence[RunRecords]) -> list[Figure]:
    """Return the figures that these runs have data for."""
    metrics = dict.fromkeys(name for run in runs for name in run.val_metrics)
    candidates = [
        _loss(runs),
        *(
            line_figure(
                runs, f"{name.replace('_', ' ').capitalize()} on validation data", [("val", name)], _words(name)
            )
            for name in metrics
        ),
        line_figure(runs, "Learning rate", [("train", "lr")], "rate"),
        line_figure(runs, "Gradient norm before clipping", [("train", "grad_norm")], "norm", log=True),
        line_figure(runs, "Throughput", [("train", _throughput(runs))], _words(_throughput(runs))),
    ]
    return [figure for figure in candidates if figure["data"]]


def _words(name: str) -> str:
    return escape(name.replace("_", " "), quote=False)


def _loss(runs: Sequence[RunRecords]) -> Figure:
    in_bits = all(any("bits_per_byte" in r for r in run.records) for run in runs)
    name, unit = ("bits_per_byte", "bits per byte") if in_bits else ("loss", "loss")
    figure = line_figure(runs, "Loss", [("train", name), ("val", name)], unit)
    figure["data"] += [trace for run in runs if (trace := _withheld(run, name))["x"]]
    yardsticks = runs[0].result.get("compressors", {}) if in_bits and len(runs) == 1 else {}
    for place, (label, value) in enumerate(yardsticks.items()):
        figure["layout"]["shapes"] += [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": value,
                "y1": value,
                "line": {"dash": "dot", "width": 1, "color": "#6b7280"},
            }
        ]
        figure["layout"]["annotations"] += [
            {
                "text": f"{_words(label)} {value:.2f}",
                "xref": "paper",
                "x": 1 - 0.3 * (place % 2),
                "y": value,
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 10, "color": "#6b7280"},
            }
        ]
    return figure


def _withheld(run: RunRecords, name: str) -> dict[str, Any]:
    """The updates that were withheld, as crosses on the training curve."""
    steps: list[int] = []
    heights: list[float | None] = []
    height = None
    for record in run.records:
        if "withheld" in record:
            steps.append(record["step"])
            heights.append(height)
        elif record["split"] == "train":
            height = record.get(name)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "update withheld",
        "x": steps,
        "y": heights,
        "marker": {"symbol": "x", "size": 8, "color": "#111827"},
        "hovertemplate": "withheld",
    }


def _throughput(runs: Sequence[RunRecords]) -> str:
    tokens = any("tokens_per_second" in record for run in runs for record in run.records)
    return "tokens_per_second" if tokens else "samples_per_second"


def line_figure(
    runs: Sequence[RunRecords], title: str, series: Sequence[tuple[str, str]], unit: str, *, log: bool = False
) -> Figure:
    """Return one figure with a line for each run and each (split, name) that it has; it zooms by dragging.

    Its title is for the page around it, where it wraps on a narrow screen.

    >>> line_figure([], "Loss", [("train", "loss")], "loss")["data"]
    []
    """
    traces = []
    for place, run in enumerate(runs):
        for split, name in series:
            steps, values = run.curve(split, name)
            if not steps:
                continue
            label = escape(" ".join([run.name] * (len(runs) > 1) + [split] * (len(series) > 1)) or name, quote=False)
            color = COLORS[(2 * place + (split == "val") if len(runs) == 1 else place) % len(COLORS)]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if split == "val" or len(steps) == 1 else "lines",
                    "name": label,
                    "x": steps,
                    "y": values,
                    "line": {"color": color, "width": 2},
                    "marker": {"size": 7},
                    "hovertemplate": "%{y:.4g}",
                }
            )
    return {
        "title": title,
        "data": traces,
        "layout": frame(unit, log=log, legend=len(traces) > 1),
    }


def frame(unit: str, *, log: bool = False, legend: bool = False) -> dict[str, Any]:
    """Return the layout of a figure over steps, with ``unit`` at its other axis."""
    return {
        "height": 320,
        "margin": {"l": 64, "r": 20, "t": 24, "b": 56},
        "xaxis": {
            "title": {"text": "step", "standoff": 8},
            "unifiedhovertitle": {"text": "step %{x}"},
            "gridcolor": "#e5e7eb",
            "zeroline": False,
        },
        "yaxis": {
            "title": {"text": unit},
            "type": "log" if log else "linear",
            "gridcolor": "#e5e7eb",
            "zeroline": False,
        },
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
        "hovermode": "x unified",
        "showlegend": legend,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        "shapes": [],
        "annotations": [],
    }
