"""The blocks that a model is a stack of."""

from __future__ import annotations

from torch import nn

__all__ = ["repeated_blocks"]


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the modules that stand in a list with others of their class: the outermost ones, in their order.

    >>> stack = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2)) for _ in "ab"))
    >>> [type(block).__name__ for block in repeated_blocks(stack)]
    ['Sequential', 'Sequential']
    """
    if isinstance(model, nn.ModuleList | nn.Sequential):
        entries = [
            entry for entry in model if any(True for _ in entry.parameters()) and any(True for _ in entry.children())
        ]
        if len(entries) > 1 and len({type(entry) for entry in entries}) == 1:
            return entries
    return [block for child in model.children() for block in repeated_blocks(child)]
