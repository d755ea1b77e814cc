"""How deep a parameter lies: the number of its block, counted from the input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

__all__ = ["depths", "layer_scales"]


def depths(model: nn.Module) -> dict[str, int]:
    """Return {parameter name: its depth}: 0 for the first block with parameters, one more for each later one.

    The order is that in which modules were registered. What stands in an `nn.Sequential` or an `nn.ModuleList` is a
    block, and so is every other child of the model; a module that holds an `nn.ModuleList` is looked into. A block of
    vectors only, such as a norm, has the depth of the one before it; embeddings that follow one another have the same;
    and what the model holds itself has depth 0. A tied weight counts where it appears first. Frozen parameters are
    counted too.

    >>> depths(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.ReLU(), nn.Linear(2, 1, bias=False)))
    {'0.weight': 0, '0.bias': 0, '1.weight': 0, '1.bias': 0, '3.weight': 1}
    """
    parameters = dict(model.named_parameters())
    found: dict[str, int] = {}
    depth, embedded = -1, False
    for prefix in _blocks(model, ""):
        inside = [name for name in parameters if name.startswith(f"{prefix}.") and name not in found]
        if any(parameters[name].ndim >= 2 for name in inside):
            was_embedded, embedded = embedded, isinstance(model.get_submodule(prefix), nn.Embedding | nn.EmbeddingBag)
            depth += not (embedded and was_embedded)
        found |= dict.fromkeys(inside, max(depth, 0))
    return {name: found.get(name, 0) for name in parameters}


def _blocks(module: nn.Module, name: str) -> Iterator[str]:
    """Yield the names of the blocks in ``module``, in their order."""
    listed = isinstance(module, nn.Sequential | nn.ModuleList)
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        if not listed and (isinstance(child, nn.Sequential) or _holds_list(child)):
            yield from _blocks(child, path)
        else:
            yield path


def _holds_list(module: nn.Module) -> bool:
    return any(isinstance(inner, nn.ModuleList) for inner in module.modules())


def layer_scales(depth_of: Mapping[str, int], decay: float) -> dict[str, float]:
    """Return ``decay^(top - depth)`` for each parameter: 1 for the last block, less for each one below it.

    Layer-wise rate decay. Source: Howard and Ruder 2018 (arXiv 1801.06146), as a factor per layer; Clark et al. 2020
    (arXiv 2003.10555).

    >>> layer_scales({"stem": 0, "block": 1, "head": 2}, 0.5)
    {'stem': 0.25, 'block': 0.5, 'head': 1.0}
    """
    top = max(depth_of.values(), default=0)
    return {name: decay ** (top - depth) for name, depth in depth_of.items()}
