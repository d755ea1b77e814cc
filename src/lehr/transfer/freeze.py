"""Freezing parts of a model: neither gradients, nor decay, nor running statistics change them."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from lehr.base.errors import SettingError
from lehr.base.tables import did_you_mean
from lehr.optim.frozen import frozen_norms

__all__ = ["freeze", "matching", "unfreeze"]


def freeze(model: nn.Module, patterns: str | Sequence[str] = "*") -> list[str]:
    """Freeze the parameters whose names match ``patterns`` (``layer1.*``); returns their names.

    Norms with running statistics all of whose parameters are now frozen go into evaluation mode: otherwise the
    statistics of a frozen part would drift with the new data. They stay in it, since training keeps the mode that each
    module has; a later ``model.train()`` of a loop of your own would undo it. Raises `SettingError` for a pattern that
    matches nothing.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    >>> freeze(model, ["0.*", "1.*"])
    ['0.weight', '0.bias', '1.weight', '1.bias']
    >>> [module.training for module in model]
    [True, False, True]
    """
    names = matching(model, patterns)
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    for norm in frozen_norms(model):
        norm.eval()
    return names


def unfreeze(model: nn.Module, patterns: str | Sequence[str] = "*") -> list[str]:
    """Train the parameters whose names match ``patterns`` again; returns their names. The reverse of `freeze`.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    >>> _ = freeze(model)
    >>> unfreeze(model, "1.*"), [module.training for module in model]
    (['1.weight', '1.bias'], [True, True, True])
    """
    before = frozen_norms(model)
    names = matching(model, patterns)
    for name in names:
        model.get_parameter(name).requires_grad_(True)
    still = set(frozen_norms(model))
    for norm in before:
        norm.train(norm not in still)
    return names


def matching(model: nn.Module, patterns: str | Sequence[str]) -> list[str]:
    """Return the first names of the parameters that any of ``patterns`` matches under any of their names.

    Raises `SettingError` for a pattern that matches nothing.

    >>> matching(nn.Linear(2, 2), "weight")
    ['weight']
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    names = list(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name, _ in names):
            known = [name for name, _ in names]
            shown = ", ".join(known[:8]) + (" ..." if len(known) > 8 else "")
            raise SettingError(
                f"{pattern!r} matches no parameter of {type(model).__name__}{did_you_mean(pattern, known)}; its "
                f"parameters: {shown or 'none'}"
            )
    chosen = {id(p) for name, p in names if any(fnmatchcase(name, pattern) for pattern in patterns)}
    return [name for name, p in model.named_parameters() if id(p) in chosen]
