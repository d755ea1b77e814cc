"""What several verbs print: results, and one JSON object where that was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lehr.base.settings import strict

if TYPE_CHECKING:
    from lehr.run.result import RunResult

__all__ = ["JsonOption", "SetOption", "print_json", "print_result"]

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")
]
SetOption = Annotated[
    list[str],
    typer.Option("--set", metavar="PATH=VALUE", help="Change a field of the recipe, for example optim.lr=3e-4."),
]


def print_json(content: Mapping[str, Any]) -> None:
    """Print one line of strict JSON; numbers that JSON lacks become null."""
    print(json.dumps(strict(content), ensure_ascii=False), flush=True)


def print_result(result: RunResult, extra: Mapping[str, Any]) -> None:
    """Print what a run came to, for people."""
    lines = [f"{result.stopped} at step {result.step}: {result.train_seconds:.1f} s of training"]
    rate = f"{result.tokens_per_second:,.0f} tokens/s" if result.tokens_per_second else ""
    rate = rate or (f"{result.samples_per_second:,.0f} samples/s" if result.samples_per_second else "")
    lines[0] += f", {rate}" if rate else ""
    if result.val_loss is not None:
        values = "  ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in result.metrics.items())
        lines.append(f"validation: loss {result.val_loss:.4f}  {values}".rstrip())
    if "compressors" in extra and "bits_per_byte" in result.metrics:
        lines += _yardsticks(result.metrics["bits_per_byte"], extra["compressors"])
    if extra.get("sample"):
        lines += ["", "sample:", extra["sample"].rstrip(), ""]
    lines.append(f"run:    {result.run}")
    lines.append(f"report: {result.run}/report.html")
    if result.stopped == "preempted":
        lines.append(f"go on with it: lehr resume {result.run}")
    print("\n".join(lines), flush=True)


def _shown(value: float | None) -> str:
    """Write a value, also one that was not finite when it went through JSON."""
    return "not finite" if value is None else f"{value:.4g}"


def _yardsticks(bits: float, compressors: Mapping[str, float]) -> list[str]:
    names = {
        "gzip": "gzip -9",
        "xz": "xz -9",
        "xz_after_training_text": "xz -9 that has read the training text",
    }
    rows = [("this model", bits), *((names[key], value) for key, value in compressors.items())]
    lines = ["bits per byte on the same validation text:"]
    lines += [f"  {value:6.3f}  {name}" for name, value in sorted(rows, key=lambda row: row[1])]
    verdict = "below" if bits < compressors["gzip"] else "not below"
    lines.append(f"  the model is {verdict} gzip -9")
    return lines
