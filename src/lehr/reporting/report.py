"""report.html: the curves, the result, the recipe, the environment, the checkpoints and the sample of a run."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lehr.base.errors import SettingError
from lehr.reporting.figures import COLORS, figures
from lehr.reporting.read import RunRecords, read_runs

__all__ = ["render", "write_report"]

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1180px; padding: 24px; color: #111827; }
body { overflow-wrap: anywhere; }
@media (max-width: 600px) { body { padding: 16px 12px; } }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 32px 0 8px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 16px; }
.figures > section { border: 1px solid #e5e7eb; border-radius: 8px; overflow: hidden; min-width: 0; }
.figures > section:first-child { grid-column: 1 / -1; }
h3 { font-size: 15px; font-weight: 500; margin: 10px 16px 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
td, th { text-align: left; padding: 3px 16px 3px 0; vertical-align: top; overflow-wrap: normal; }
th { font-weight: 500; } tr, dl > div { border-bottom: 1px solid #f3f4f6; }
dl { columns: 340px; column-gap: 32px; font-size: 13px; margin: 8px 0; }
dl > div { display: flex; gap: 16px; padding: 3px 0; break-inside: avoid; }
dt { flex: 0 0 40%; } dd { margin: 0; } th, dt, .dim { color: #6b7280; }
pre { background: #f9fafb; border: 1px solid #e5e7eb; border-radius: 8px; padding: 12px; }
pre { font-size: 12.5px; white-space: pre-wrap; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 16px 0; }
.tile { border: 1px solid #e5e7eb; border-radius: 8px; padding: 8px 16px; min-width: 110px; }
.tile b { display: block; font-size: 20px; font-weight: 600; } .tile span { color: #6b7280; font-size: 12px; }
.failed { background: #fef2f2; border: 1px solid #fecaca; border-radius: 8px; padding: 12px 16px; margin: 16px 0; }
"""


def write_report(runs: Sequence[Path], target: Path) -> Path:
    """Write one HTML file about one run, or with several runs laid over one another; it needs no network."""
    page = render(read_runs(runs))
    staged = target.with_name(f".{target.name}-{os.getpid()}")
    try:
        staged.write_text(page, encoding="utf-8")
        staged.replace(target)
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise SettingError(f"the report {target} cannot be written: {error.strerror}") from error
    return target


def render(runs: Sequence[RunRecords]) -> str:
    """Return the page."""
    from plotly.offline import get_plotlyjs  # here, since only reports need it

    several, drawn = len(runs) > 1, figures(runs)
    boxes = "".join(
        f'<section><h3>{_text(f["title"])}</h3><div id="figure-{place}"></div></section>'
        for place, f in enumerate(drawn)
    )
    calls = "".join(
        f"Plotly.newPlot('figure-{place}', {_script(f['data'])}, {_script(f['layout'])}, "
        "{responsive: true, displaylogo: false});"
        for place, f in enumerate(drawn)
    )
    curves = f'<div class="figures">{boxes}</div><p class="dim">Drag to zoom, double-click to see all again.</p>'
    title = _text(" and ".join(run.name for run in runs))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body><h1>{title}</h1>"
        f"{''.join(_head(run, place, several=several) for place, run in enumerate(runs))}"
        f"{curves if drawn else '<p>Nothing has been recorded yet.</p>'}{_differences(runs) if several else ''}"
        f"{''.join(_sections(run, several=several) for run in runs)}<script>{calls}</script></body></html>\n"
    )


def _head(run: RunRecords, place: int, *, several: bool) -> str:
    """The tiles with what the run came to, and its failure if it failed."""
    tiles = "".join(
        f'<div class="tile"><b>{_text(value)}</b><span>{_text(name)}</span></div>' for name, value in _tiles(run)
    )
    name = f'<h2 style="color:{COLORS[place % len(COLORS)]}">{_text(run.name)}</h2>' if several else ""
    failed = ""
    if run.failure:
        evidence = {k: v for k, v in run.failure.items() if k != "message" and v not in (None, "", [])}
        message = _text(run.failure.get("message", ""))
        failed = f'<div class="failed"><b>The run failed.</b> {message}{_facts(evidence)}</div>'
    return f'{name}{failed}<div class="tiles">{tiles}</div>'


def _tiles(run: RunRecords) -> list[tuple[str, str]]:
    train, val, result = run.last("train"), run.last("val"), run.result
    newest = {"train_loss": train.get("loss"), "val_loss": val.get("loss"), "train_seconds": train.get("seconds")}
    known = train | newest | result
    metrics = result.get("metrics", {name: val[name] for name in run.val_metrics if name in val})
    tiles = [("steps", str(result.get("step", run.records[-1]["step"] if run.records else 0)))]
    losses = ["train_loss", "val_loss"]
    if known.get("best_val_loss") != known["val_loss"]:
        losses.append("best_val_loss")
    tiles += [(_words(name), _short(known[name])) for name in losses if known.get(name) is not None]
    tiles += [(_words(name), _short(value)) for name, value in metrics.items()]
    tiles += [
        (f"{_words(name)}, bits per byte", _short(value)) for name, value in result.get("compressors", {}).items()
    ]
    rate = next((n for n in ("tokens_per_second", "samples_per_second") if known.get(n)), None)
    if rate is not None:
        tiles.append((_words(rate), f"{known[rate]:,.0f}"))
    if known["train_seconds"] is not None:
        tiles.append(("in training steps", _duration(known["train_seconds"])))
    if result.get("skipped"):
        tiles.append(("updates withheld", str(result["skipped"])))
    return [*tiles, ("ended", "failed" if run.failure else result.get("stopped", "not yet"))]


def _sections(run: RunRecords, *, several: bool) -> str:
    of = f" of {_text(run.name)}" if several else ""
    sections = []
    if run.result.get("sample"):
        sections.append(f"<h2>Sample{of}</h2><pre>{_text(run.result['sample'])}</pre>")
    sections.append(
        f"<h2>Recipe{of}</h2><p>{_text(_source(run.recipe))}</p>{_facts(_flat(run.recipe.get('fields', {})))}"
    )
    facts = {k: v for k, v in run.recipe.get("facts", {}).items() if not isinstance(v, list | dict)}
    if facts:
        sections.append(f"<h2>Data{of}</h2>{_facts(facts)}")
    sections.append(f"<h2>Checkpoints{of}</h2>{_checkpoints(run)}")
    environment = {k: v for k, v in run.environment.items() if k != "sessions"}
    sections.append(f"<h2>Environment{of}</h2>{_facts(environment)}{_sessions(run)}")
    return "".join(sections)


def _source(recipe: Mapping[str, Any]) -> str:
    """Where the recipe came from, and what was changed, as the command line writes it."""
    source = recipe.get("source", {})
    place = f"{source['place']}:{source['function']}" if source.get("place") else "Made in an interactive session."
    parts = [place, *(f"--set {text}" for text in recipe.get("overrides", []))]
    return "  ".join(parts) + (f" ({recipe['weights']})" if recipe.get("weights") else "")


def _differences(runs: Sequence[RunRecords]) -> str:
    """The settings that are not the same in all runs."""
    settings = [_flat(run.recipe.get("fields", {})) for run in runs]
    names = dict.fromkeys(name for each in settings for name in each)
    rows = [[name, *(each.get(name, "") for each in settings)] for name in names]
    rows = [row for row in rows if any(value != row[1] for value in row[2:])]
    same = "<p>None: all settings are the same.</p>"
    return f"<h2>Settings that differ</h2>{_table(['', *(run.name for run in runs)], rows) if rows else same}"


def _checkpoints(run: RunRecords) -> str:
    rows = [
        [c["name"], _short(c.get("value")), _size(sum(f["bytes"] for f in c["files"].values()))]
        if "files" in c
        else [c["name"], "its manifest is damaged", ""]
        for c in run.checkpoints
    ]
    monitored = run.recipe.get("fields", {}).get("evaluate", {}).get("monitor", "value")
    return _table(["folder", f"validation {_words(monitored)}", "size"], rows) if rows else "<p>None.</p>"


def _sessions(run: RunRecords) -> str:
    resumed = [s for s in run.environment.get("sessions", []) if s.get("resumed_at")]
    lines = [f"resumed at step {s['resumed_at']}" + "".join(f"; {c}" for c in s.get("changes", [])) for s in resumed]
    return "<p>" + "<br>".join(_text(line) for line in lines) + "</p>" if lines else ""


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return nested settings by the paths that ``--set`` takes.

    >>> _flat({"kind": "Recipe", "optim": {"kind": "AdamW", "lr": 0.1}})
    {'optim': 'AdamW', 'optim.lr': 0.1}
    >>> _flat({"save": {"kind": "Save", "keep": 2}})
    {'save.keep': 2}
    """
    if not isinstance(value, Mapping):
        return {path: value} if path else {}
    kind = value.get("kind", "")
    flat = {path: kind} if kind.lower() != path.rpartition(".")[2] and path else {}
    for name, inner in value.items():
        if name != "kind":
            flat |= _flat(inner, f"{path}.{name}" if path else name)
    return flat


def _facts(facts: Mapping[str, Any]) -> str:
    return (
        "<dl>"
        + "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(_short(v))}</dd></div>" for k, v in facts.items())
        + "</dl>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    top = "".join(f"<th>{_text(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{_text(_exact(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _words(name: str) -> str:
    return name.replace("_", " ")


def _exact(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_exact, value)) or "none"
    return "none" if value is None else str(value)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _exact(value)


def _duration(seconds: float) -> str:
    """Return a time in units that suit it.

    >>> _duration(0.0321), _duration(75), _duration(7260)
    ('32 ms', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _size(count: float) -> str:
    """Return a number of bytes in units that suit it.

    >>> _size(3862), _size(2.5e9)
    ('3.9 kB', '2.5 GB')
    """
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def _text(value: Any) -> str:
    return html.escape(str(value))


def _script(value: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value).replace("<", "\\u003c")
