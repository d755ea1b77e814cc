"""Zero-initialized residual branches: each block begins by passing on what it gets."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from lehr.base.errors import SettingError
from lehr.layers.residual import ResidualBlock

__all__ = ["modules_like", "zero_init_residual"]


def modules_like(model: nn.Module, *patterns: str) -> dict[str, nn.Module]:
    """Return the modules whose names match a pattern; ``*`` stands for any part of a name, dots too.

    Raises: `SettingError` for a pattern that no name matches.

    >>> list(modules_like(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), "0"))
    ['0']
    """
    named = {name: module for name, module in model.named_modules() if name}
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        matching = {name: module for name, module in named.items() if fnmatchcase(name, pattern)}
        if not matching:
            some = ", ".join(name for name in list(named)[:8])
            raise SettingError(f"no module of {type(model).__name__} matches {pattern!r}; its first ones: {some}")
        found |= matching
    return found


def zero_init_residual(model: nn.Module, *ends: str) -> list[str]:
    """Set the weights of what ends each residual branch to 0, its bias too, and return the names of these modules.

    f(x) = 0 at the start, so y = x, at any depth; the end's own gradient is not zero, and the rest of the branch
    follows one step later. Without ``ends``, patterns for the names of norms or layers, the branches are those of
    `ResidualBlock`. Source: Goyal et al. 2017, arXiv 1706.02677.

    Raises: `SettingError` when nothing ends a branch, or what does has no weight.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), ResidualBlock(4, 4))
    >>> zero_init_residual(model)
    ['1.norm2']
    """
    if ends:
        last = modules_like(model, *ends)
    else:
        blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
        last = {name: m for name, m in model.named_modules() if any(m is block.last for block in blocks)}
    if not last:
        raise SettingError(
            f"{type(model).__name__} has no ResidualBlock; name what ends its branches, for example 'layer*.bn2'"
        )
    for name, module in last.items():
        if not isinstance(getattr(module, "weight", None), nn.Parameter):
            raise SettingError(f"{name} is a {type(module).__name__} without a weight; name a layer or an affine norm")
        nn.init.zeros_(module.weight)  # type: ignore[arg-type]
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return list(last)
