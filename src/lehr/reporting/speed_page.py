"""The page about a recipe's speed: where a step's time goes, and what each lever brings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lehr.reporting.figures import COLORS, Figure, frame
from lehr.reporting.page import document, figure_boxes, table, text, write_page

__all__ = ["figures", "render", "write_speed_page"]

PARTS = {
    "data": ("data", "waiting for the next batch"),
    "forward": ("forward", "model and loss; with step=whole the graph of both passes"),
    "backward": ("backward", "gradients"),
    "optimizer": ("optimizer", "the update"),
    "synchronization": ("waiting", "the host waiting for the device"),
    "rest": ("rest", "clipping, records, the loop"),
}
GUIDE = {
    "Python interpreter": ("40 %", "python"),
    "waiting for data": ("20 %", "data"),
    "CPU-GPU synchronization": ("10 %", "synchronization"),
}
"""What the guide believes of its base case, and which of our figures stands beside it."""


def write_speed_page(report: Mapping[str, Any], name: str, use: str, target: Path) -> Path:
    """Write one HTML file about what `lehr.measurement.speed` found, and how to ``use`` it; it needs no network."""
    return write_page(render(report, name, use), target, what="page")


def render(report: Mapping[str, Any], name: str, use: str) -> str:
    """Return the page."""
    drawn = figures(report)
    total, patch = report["total"], report["patch"]
    said = [report["reason"] + "."]
    if patch:
        said.append(f"In the total the loss is {_percent(total['loss_delta'])} after {total['steps']} steps.")
        said.append(f"It sets {', '.join(patch)}: {use}")
    rows = [
        [
            tried["name"],
            " ".join(tried["settings"]) or "–",
            "kept" if tried["kept"] else "dropped" if tried["settings"] else "not tried",
            _ratio(tried),
            _percent(tried["loss_delta"]) if tried["ratio"] is not None else "–",
            "–" if tried["warm_up_seconds"] is None else f"{tried['warm_up_seconds']:.1f} s",
            "–" if tried["repaid_after"] is None else f"{tried['repaid_after']:,} steps",
            tried["changes"] if tried["ratio"] is not None else "–",
            tried["reason"],
        ]
        for tried in sorted(report["levers"], key=lambda tried: not tried["settings"])  # what was tried comes first
    ]
    head = [
        "lever",
        "settings",
        "",
        "times as fast, with interval",
        "loss",
        "warm-up",
        "repaid after",
        "may change",
        "reason",
    ]
    untested = [[lever, where] for lever, where in report["untested"].items()]
    body = (
        f"{''.join(f'<p>{text(line)}</p>' for line in said)}{figure_boxes(drawn)}"
        f"<h2>A step</h2>{table(['part', 'ms', 'share', 'what it is'], _parts(report['baseline']))}"
        f"<h2>Beside the guide</h2>{table(['overhead', 'the guide', 'here'], _beside(report['baseline']))}"
        f"<h2>Levers</h2>{table(head, rows)}"
        + (f"<h2>Never run on their devices</h2>{table(['lever', 'where'], untested)}" if untested else "")
    )
    return document(f"Speed of {name}", body, drawn)


def figures(report: Mapping[str, Any]) -> list[Figure]:
    """Return the stacked bar of a step, and the ratios of what was tried."""
    step = report["baseline"]
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": label,
            "y": ["a step"],
            "x": [1000 * step[key]],
            "marker": {"color": COLORS[place % len(COLORS)]},
            "hovertemplate": f"{label} %{{x:.3g}} ms",
        }
        for place, (key, (label, _)) in enumerate(PARTS.items())
        if step[key] > 0
    ]
    layout = frame("", legend=True)
    layout |= {"barmode": "stack", "height": 220, "hovermode": "closest"}
    layout["xaxis"] = {"title": {"text": "ms", "standoff": 8}, "zeroline": False}
    layout["yaxis"] = {"type": "category", "showticklabels": False}
    layout.setdefault("legend", {})["traceorder"] = "normal"
    found = [{"title": "Where a step's time goes", "data": bars, "layout": layout}]
    measured = [tried for tried in report["levers"] if tried["ratio"] is not None]
    return [*found, _ratios(measured)] if measured else found


def _ratios(measured: list[Any]) -> Figure:
    labels = [" ".join(tried["settings"]) for tried in measured]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": [tried["ratio"] for tried in measured],
        "y": labels,
        "marker": {"size": 9, "color": ["#16a34a" if tried["kept"] else "#6b7280" for tried in measured]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [tried["high"] - tried["ratio"] for tried in measured],
            "arrayminus": [tried["ratio"] - tried["low"] for tried in measured],
            "color": "#9ca3af",
        },
        "hovertemplate": "%{x:.3f}",
    }
    layout = frame("", legend=False)
    layout |= {"hovermode": "closest", "height": 120 + 32 * len(measured)}
    layout["xaxis"] = {"title": {"text": "times as fast, with its interval", "standoff": 8}, "zeroline": False}
    layout["yaxis"] = {"automargin": True, "autorange": "reversed", "type": "category"}
    layout["shapes"] = [{"type": "line", "x0": 1, "x1": 1, "yref": "paper", "y0": 0, "y1": 1, "line": {"dash": "dot"}}]
    return {"title": "Each lever beside what was kept before it", "data": [dots], "layout": layout}


def _parts(step: Mapping[str, float]) -> list[list[str]]:
    rows = [
        [label, f"{1000 * step[key]:.3f}", f"{step[key] / step['total']:.0%}", what]
        for key, (label, what) in PARTS.items()
    ]
    between = ["between operations", f"{1000 * step['python']:.3f}", f"{step['python'] / step['total']:.0%}"]
    return [*rows, [*between, "in whichever of the others: Python, and calls of the operations"]]


def _beside(step: Mapping[str, float]) -> list[list[str]]:
    return [[what, claimed, f"{step[key] / step['total']:.0%}"] for what, (claimed, key) in GUIDE.items()]


def _ratio(tried: Mapping[str, Any]) -> str:
    return "–" if tried["ratio"] is None else f"{tried['ratio']:.3f} ({tried['low']:.3f} to {tried['high']:.3f})"


def _percent(share: float | None) -> str:
    return "not compared" if share is None else f"{share:+.2%}"
