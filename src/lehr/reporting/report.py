"""report.html: the curves, the result, the recipe, the environment, the checkpoints and the sample of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lehr.reporting.figures import COLORS, figures
from lehr.reporting.page import document, exact, figure_boxes, table, text, write_page
from lehr.reporting.read import RunRecords, read_runs

__all__ = ["render", "write_report"]


def write_report(runs: Sequence[Path], target: Path) -> Path:
    """Write one HTML file about one run, or with several runs laid over one another; it needs no network."""
    return write_page(render(read_runs(runs)), target, what="report")


def render(runs: Sequence[RunRecords]) -> str:
    """Return the page."""
    several, drawn = len(runs) > 1, figures(runs)
    return document(
        " and ".join(run.name for run in runs),
        f"{''.join(_head(run, place, several=several) for place, run in enumerate(runs))}"
        f"{figure_boxes(drawn) if drawn else '<p>Nothing has been recorded yet.</p>'}"
        f"{_differences(runs) if several else ''}{''.join(_sections(run, several=several) for run in runs)}",
        drawn,
    )


def _head(run: RunRecords, place: int, *, several: bool) -> str:
    """The tiles with what the run came to, and its failure if it failed."""
    tiles = "".join(
        f'<div class="tile"><b>{text(value)}</b><span>{text(name)}</span></div>' for name, value in _tiles(run)
    )
    name = f'<h2 style="color:{COLORS[place % len(COLORS)]}">{text(run.name)}</h2>' if several else ""
    failed = ""
    if run.failure:
        evidence = {k: v for k, v in run.failure.items() if k != "message" and v not in (None, "", [])}
        message = text(run.failure.get("message", ""))
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
    of = f" of {text(run.name)}" if several else ""
    sections = []
    if run.result.get("sample"):
        sections.append(f"<h2>Sample{of}</h2><pre>{text(run.result['sample'])}</pre>")
    sections.append(
        f"<h2>Recipe{of}</h2><p>{text(_source(run.recipe))}</p>{_facts(_flat(run.recipe.get('fields', {})))}"
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
    return f"<h2>Settings that differ</h2>{table(['', *(run.name for run in runs)], rows) if rows else same}"


def _checkpoints(run: RunRecords) -> str:
    rows = [
        [c["name"], _short(c.get("value")), _size(sum(f["bytes"] for f in c["files"].values()))]
        if "files" in c
        else [c["name"], "its manifest is damaged", ""]
        for c in run.checkpoints
    ]
    monitored = run.recipe.get("fields", {}).get("evaluate", {}).get("monitor", "value")
    return table(["folder", f"validation {_words(monitored)}", "size"], rows) if rows else "<p>None.</p>"


def _sessions(run: RunRecords) -> str:
    resumed = [s for s in run.environment.get("sessions", []) if s.get("resumed_at")]
    lines = [f"resumed at step {s['resumed_at']}" + "".join(f"; {c}" for c in s.get("changes", [])) for s in resumed]
    return "<p>" + "<br>".join(text(line) for line in lines) + "</p>" if lines else ""


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
        "<dl>" + "".join(f"<div><dt>{text(k)}</dt><dd>{text(_short(v))}</dd></div>" for k, v in facts.items()) + "</dl>"
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else exact(value)


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
