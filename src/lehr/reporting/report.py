"""report.html: the curves, the result, the recipe, the environment, the checkpoints and the sample of a run."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lehr.reporting.figures import COLORS, figures
from lehr.reporting.read import RunRecords, read_run

__all__ = ["render", "write_report"]

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1180px; padding: 24px; color: #111827; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 32px 0 8px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 16px; }
.figures > div { border: 1px solid #e5e7eb; border-radius: 8px; overflow: hidden; }
.figures > div:first-child { grid-column: 1 / -1; }
table { border-collapse: collapse; font-size: 13px; }
td, th { text-align: left; padding: 3px 16px 3px 0; vertical-align: top; }
th { color: #6b7280; font-weight: 500; } tr { border-bottom: 1px solid #f3f4f6; }
pre { background: #f9fafb; border: 1px solid #e5e7eb; border-radius: 8px; padding: 12px; overflow-x: auto; }
pre { font-size: 12.5px; white-space: pre-wrap; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 16px 0; }
.tile { border: 1px solid #e5e7eb; border-radius: 8px; padding: 8px 16px; min-width: 110px; }
.tile b { display: block; font-size: 20px; font-weight: 600; } .tile span { color: #6b7280; font-size: 12px; }
.failed { background: #fef2f2; border: 1px solid #fecaca; border-radius: 8px; padding: 12px 16px; }
details summary { cursor: pointer; } .dim { color: #6b7280; }
"""


def write_report(runs: Sequence[Path], target: Path) -> Path:
    """Write one HTML file about one run, or with several runs laid over one another; it needs no network."""
    staged = target.with_name(f".{target.name}-{os.getpid()}")
    staged.write_text(render([read_run(path) for path in runs]), encoding="utf-8")
    staged.replace(target)
    return target


def render(runs: Sequence[RunRecords]) -> str:
    """Return the page."""
    from plotly.offline import get_plotlyjs  # here, since only reports need it

    drawn = figures(runs)
    boxes = "".join(f'<div id="figure-{place}"></div>' for place in range(len(drawn)))
    calls = "".join(
        f"Plotly.newPlot('figure-{place}', {_script(f['data'])}, {_script(f['layout'])}, "
        "{responsive: true, displaylogo: false});"
        for place, f in enumerate(drawn)
    )
    title = " and ".join(run.name for run in runs)
    curves = f'<div class="figures">{boxes}</div>' if drawn else '<p class="dim">Nothing has been recorded yet.</p>'
    sections = "".join(_run_sections(run, place, several=len(runs) > 1) for place, run in enumerate(runs))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body><h1>{_text(title)}</h1>"
        f"{''.join(_head(run, place, several=len(runs) > 1) for place, run in enumerate(runs))}"
        f"{curves}{sections}<script>{calls}</script></body></html>\n"
    )


def _head(run: RunRecords, place: int, *, several: bool) -> str:
    """The tiles with what the run came to, and its failure if it failed."""
    result = run.result
    tiles = [("steps", result.get("step") or (run.records[-1]["step"] if run.records else 0))]
    tiles += [(name.replace("_", " "), _short(result[name])) for name in ("train_loss", "val_loss") if result.get(name)]
    tiles += [(name.replace("_", " "), _short(value)) for name, value in result.get("metrics", {}).items()]
    tiles += [(f"{name.replace('_', ' ')}, bits", _short(v)) for name, v in result.get("compressors", {}).items()]
    if "train_seconds" in result:
        tiles.append(("training", f"{result['train_seconds']:.1f} s"))
    tiles.append(("ended", result.get("stopped") or ("failed" if run.failure else "not yet")))
    body = "".join(f'<div class="tile"><b>{_text(value)}</b><span>{_text(name)}</span></div>' for name, value in tiles)
    name = f'<h2 style="color:{COLORS[place % len(COLORS)]}">{_text(run.name)}</h2>' if several else ""
    failed = ""
    if run.failure and not result:
        failed = f'<div class="failed"><b>The run failed.</b> {_text(run.failure.get("message", ""))}</div>'
    return f'{name}<div class="tiles">{body}</div>{failed}'


def _run_sections(run: RunRecords, place: int, *, several: bool) -> str:
    name = f" of {run.name}" if several else ""
    sections = []
    if run.result.get("sample"):
        sections.append(f"<h2>Sample{_text(name)}</h2><pre>{_text(run.result['sample'])}</pre>")
    source = run.recipe.get("source", {})
    lines = [f"{source.get('place', '')}:{source.get('function', '')}".strip(":")]
    lines += [f"--set {text}" for text in run.recipe.get("overrides", [])]
    fields = json.dumps(run.recipe.get("fields", {}), indent=2, ensure_ascii=False)
    facts = {k: v for k, v in run.recipe.get("facts", {}).items() if not isinstance(v, list | dict)}
    sections.append(
        f"<h2>Recipe{_text(name)}</h2><p>{_text('  '.join(lines))}</p>"
        f"<details><summary>All settings</summary><pre>{_text(fields)}</pre></details>"
        f"<h2>Data{_text(name)}</h2>{_table(facts)}"
    )
    sections.append(f"<h2>Checkpoints{_text(name)}</h2>{_checkpoints(run)}")
    environment = {k: v for k, v in run.environment.items() if k != "sessions"}
    sections.append(f"<h2>Environment{_text(name)}</h2>{_table(environment)}{_sessions(run)}")
    return "".join(sections)


def _checkpoints(run: RunRecords) -> str:
    rows = "".join(
        f"<tr><td>{_text(c['name'])}</td><td>{_text(_short(c.get('value')))}</td>"
        f"<td>{sum(f['bytes'] for f in c.get('files', {}).values()) / 1e6:.1f} MB</td></tr>"
        for c in run.checkpoints
    )
    return (
        f"<table><tr><th>folder</th><th>monitored value</th><th>size</th></tr>{rows}</table>"
        if rows
        else "<p>None.</p>"
    )


def _sessions(run: RunRecords) -> str:
    resumed = [s for s in run.environment.get("sessions", []) if s.get("resumed_at")]
    if not resumed:
        return ""
    lines = [f"resumed at step {s['resumed_at']}" + "".join(f"; {c}" for c in s.get("changes", [])) for s in resumed]
    return "<p>" + "<br>".join(_text(line) for line in lines) + "</p>"


def _table(rows: Mapping[str, Any]) -> str:
    return "<table>" + "".join(f"<tr><th>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in rows.items()) + "</table>"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _text(value: Any) -> str:
    return html.escape(str(value))


def _script(value: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value).replace("</", "<\\/")
