"""The curves of a report as Plotly figures: plain dictionaries, one function per figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lehr.reporting.read import RunRecords

__all__ = ["COLORS", "figures", "line_figure"]

COLORS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
"""One color per run; validation is the same color, with markers."""

Figure = dict[str, Any]


def figures(runs: Sequence[RunRecords]) -> list[Figure]:
    """Return the figures that these runs have data for."""
    candidates = [
        _loss(runs),
        line_figure(runs, "Accuracy on validation data", [("val", "accuracy")], "share right"),
        line_figure(runs, "Learning rate", [("train", "lr")], "rate"),
        line_figure(runs, "Gradient norm before clipping", [("train", "grad_norm")], "norm", log=True),
        line_figure(runs, "Throughput", [("train", _throughput(runs))], "per second"),
    ]
    return [figure for figure in candidates if figure["data"]]


def _loss(runs: Sequence[RunRecords]) -> Figure:
    in_bits = all(any("bits_per_byte" in r for r in run.records) for run in runs)
    name, unit = ("bits_per_byte", "bits per byte") if in_bits else ("loss", "loss")
    figure = line_figure(runs, "Loss", [("train", name), ("val", name)], unit)
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
                "text": f"{label.replace('_', ' ')} {value:.2f}",
                "xref": "paper",
                "x": 1 - 0.3 * (place % 2),
                "y": value,
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 10, "color": "#6b7280"},
            }
        ]
    return figure


def _throughput(runs: Sequence[RunRecords]) -> str:
    tokens = any("tokens_per_second" in record for run in runs for record in run.records)
    return "tokens_per_second" if tokens else "samples_per_second"


def line_figure(
    runs: Sequence[RunRecords], title: str, series: Sequence[tuple[str, str]], unit: str, *, log: bool = False
) -> Figure:
    """Return one figure with a line for each run and each (split, name) that it has; it zooms by dragging.

    >>> line_figure([], "Loss", [("train", "loss")], "loss")["data"]
    []
    """
    traces = []
    for place, run in enumerate(runs):
        for split, name in series:
            steps, values = run.curve(split, name)
            if not steps:
                continue
            label = split if len(runs) == 1 else f"{run.name} {split}"
            color = COLORS[(2 * place + (split == "val") if len(runs) == 1 else place) % len(COLORS)]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if split == "val" else "lines",
                    "name": label if len(series) > 1 or len(runs) > 1 else name,
                    "x": steps,
                    "y": values,
                    "line": {"color": color, "width": 2},
                    "marker": {"size": 7},
                    "hovertemplate": "step %{x}: %{y:.4g}",
                }
            )
    return {
        "data": traces,
        "layout": {
            "title": {"text": title, "font": {"size": 15}},
            "height": 340,
            "margin": {"l": 64, "r": 20, "t": 44, "b": 44},
            "xaxis": {"title": {"text": "step"}, "gridcolor": "#e5e7eb", "zeroline": False},
            "yaxis": {
                "title": {"text": unit},
                "type": "log" if log else "linear",
                "gridcolor": "#e5e7eb",
                "zeroline": False,
            },
            "plot_bgcolor": "white",
            "paper_bgcolor": "white",
            "hovermode": "x unified",
            "showlegend": len(traces) > 1,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
            "shapes": [],
            "annotations": [],
        },
    }
