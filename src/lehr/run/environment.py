"""What a run ran on: versions, machine, threads; recorded with the run, compared when it is resumed."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["DECIDES_BITS", "describe_environment", "differences"]

DECIDES_BITS = (
    "lehr",
    "python",
    "torch",
    "numpy",
    "processor",
    "device",
    "threads",
    "compiled",
    "world_size",
)
"""What the last bits of a result can depend on; a difference in any of it is named when a run is resumed."""


def describe_environment(*, device: torch.device, compiled: bool | str, world_size: int) -> dict[str, Any]:
    """Return what is recorded in environment.json and in each checkpoint's manifest."""
    return {
        "lehr": _version("lehr"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "safetensors": _version("safetensors"),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "compiled": compiled,
        "world_size": world_size,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing that decides bits and is not as it was.

    >>> differences({"threads": 2}, {"threads": 1})
    ['threads: 2 then, 1 now']
    """
    return [
        f"{name}: {then[name]} then, {now.get(name)} now"
        for name in DECIDES_BITS
        if name in then and then[name] != now.get(name)
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
