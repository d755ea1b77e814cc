"""Starting from weights that exist: strict by default, and it says what it loaded."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from lehr.base.errors import SettingError

__all__ = ["load_weights"]


def load_weights(model: nn.Module, path: str | Path, *, allow: Sequence[str] = (), leave: Sequence[str] = ()) -> str:
    """Copy the tensors of a safetensors file (or of a checkpoint folder) into ``model``; returns a line about it.

    ``allow`` lists patterns (``head.*``) of names that may be missing from the file, extra in it, or of another
    shape; any other mismatch is an error that lists the names, and changes nothing. What a pattern of ``leave`` matches
    stays as the model has it, even where the file has something that fits. Prefixes that wrappers put before every name
    are left off.
    """
    file = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    try:
        given = safetensors.torch.load_file(file)
    except (OSError, SafetensorError) as error:
        raise SettingError(f"weights={str(path)!r} cannot be read as safetensors: {error}") from None
    everything = model.state_dict(keep_vars=True)
    wanted = {name: value for name, value in everything.items() if not _is_extra(name)}
    given = {name: value for name, value in unwrapped(given, wanted).items() if not _is_extra(name)}
    for name, tensor in _tied(wanted).items():  # a file stores a tied weight once, under any of its names
        if name not in given and tensor in given:
            given[name] = given[tensor]
    left = {n for n in wanted if _matches(n, leave)}
    unused = [pattern for pattern in leave if not any(fnmatch.fnmatchcase(n, pattern) for n in left)]
    if unused:
        raise SettingError(
            f"weights_leave={unused[0]!r} matches no tensor of {type(model).__name__}; it has: "
            f"{', '.join(list(wanted)[:10])}{' ...' if len(wanted) > 10 else ''}"
        )
    wanted = {name: value for name, value in wanted.items() if name not in left}
    given = {name: value for name, value in given.items() if not _matches(name, leave)}
    fits = [n for n in wanted if n in given and given[n].shape == wanted[n].shape]
    unfit = [n for n in wanted if n not in fits]
    extra = [n for n in given if n not in wanted]
    refused = [n for n in unfit + extra if not _matches(n, allow)]
    counts = (
        f"{len(fits)} of {len(wanted)} tensors loaded, {len(unfit)} missing or of another shape, "
        f"{len(extra)} unexpected"
    )
    if refused:
        raise SettingError(
            f"{file} does not fit {type(model).__name__}: {counts}. Not loaded: {', '.join(refused[:10])}"
            f"{' ...' if len(refused) > 10 else ''}. Name what may differ in weights_allow, for example 'head.*'"
        )
    with torch.no_grad():
        for name in fits:
            wanted[name].copy_(given[name])
    kept = f", {len(left)} left as the model has them" if left else ""
    extras = ", the model's extra state left as it is" if any(map(_is_extra, everything)) else ""
    return f"{file}: {counts}{kept}{extras}"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _is_extra(name: str) -> bool:
    """Whether a name is that of what `torch.nn.Module.get_extra_state` gives, or of a part of it: no weight."""
    return "_extra_state" in name.replace("/", ".").split(".")


def unwrapped(given: dict[str, torch.Tensor], wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """Return the tensors without the prefixes of a compiled or a distributed model, unless the model has them itself.

    >>> unwrapped({"module._orig_mod.weight": torch.ones(1)}, ["weight"])
    {'weight': tensor([1.])}
    """
    while given:
        first = min(given).partition(".")[0] + "."
        if first not in {"module.", "_orig_mod."} or not all(name.startswith(first) for name in given):
            break
        if any(name.startswith(first) for name in wanted):
            break
        given = {name.removeprefix(first): tensor for name, tensor in given.items()}
    return given


def _tied(state: dict[str, torch.Tensor]) -> dict[str, str]:
    """Return {name: another name of the same tensor} for tensors that have several."""
    first: dict[int, str] = {}
    tied = {}
    for name, tensor in state.items():
        other = first.setdefault(id(tensor), name)
        if other != name:
            tied[name], tied[other] = other, name
    return tied
