"""What the pages have in common: one HTML document with its style, its tables, and Plotly inside."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lehr.base.errors import SettingError

__all__ = ["STYLE", "document", "exact", "figure_boxes", "table", "text", "write_page"]

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


def write_page(page: str, target: Path, *, what: str) -> Path:
    """Write a page, whole or not at all; ``what`` is what it is called if that fails."""
    staged = target.with_name(f".{target.name}-{os.getpid()}")
    try:
        staged.write_text(page, encoding="utf-8")
        staged.replace(target)
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise SettingError(f"the {what} {target} cannot be written: {error.strerror}") from error
    return target


def document(title: str, body: str, drawn: Sequence[Mapping[str, Any]]) -> str:
    """Return a page that needs no network, with its figures drawn into the boxes that ``body`` has for them."""
    from plotly.offline import get_plotlyjs  # here, since only pages need it

    calls = "".join(
        f"Plotly.newPlot('figure-{place}', {_script(f['data'])}, {_script(f['layout'])}, "
        "{responsive: true, displaylogo: false});"
        for place, f in enumerate(drawn)
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body><h1>{text(title)}</h1>"
        f"{body}<script>{calls}</script></body></html>\n"
    )


def figure_boxes(drawn: Sequence[Mapping[str, Any]]) -> str:
    """Return a box for each figure, with its title, and how to look closer."""
    boxes = "".join(
        f'<section><h3>{text(f["title"])}</h3><div id="figure-{place}"></div></section>'
        for place, f in enumerate(drawn)
    )
    return f'<div class="figures">{boxes}</div><p class="dim">Drag to zoom, double-click to see all again.</p>'


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table, which scrolls by itself where the screen is narrow."""
    top = "".join(f"<th>{text(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{text(exact(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def exact(value: Any) -> str:
    """Return a value as it is given, without brackets around several."""
    if isinstance(value, list | tuple):
        return ", ".join(map(exact, value)) or "none"
    return "none" if value is None else str(value)


def text(value: Any) -> str:
    """Return what shows ``value`` inside an element or an attribute.

    >>> text("a < b")
    'a &lt; b'
    """
    return html.escape(str(value))


def _script(value: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(value).replace("<", "\\u003c")
