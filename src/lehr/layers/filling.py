"""What the rules of initialization share: how many values a layer adds up, and drawing weights of a given std."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = ["Distribution", "Matrix", "Rule", "draw", "matrices"]

Distribution: TypeAlias = Literal["normal", "uniform"]

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Matrix(NamedTuple):
    """Weights that map inputs to outputs: a parameter, or a part of one."""

    parameter: str
    """The parameter's name within its module."""
    values: Tensor
    """The weights, without gradient."""
    fan_in: float
    """How many inputs one output adds up."""
    fan_out: float
    """How many outputs one input goes to."""


@runtime_checkable
class Rule(Protocol):
    """One way to draw initial weights."""

    @property
    def embedding_std(self) -> float:
        """Standard deviation for embeddings, where a row is looked up and nothing is added up."""

    def fill(self, matrix: Matrix, generator: torch.Generator | None) -> str:
        """Draw the weights of ``matrix`` and say how."""


def matrices(module: nn.Module) -> Iterator[Matrix]:
    """Yield the weight matrices that ``module`` itself holds: linear layers, convolutions, attention's projections.

    For convolutions the fans are exact on average, borders aside: groups and strides count, and a transposed
    convolution has them the other way round. ``torch.nn.init`` agrees where the stride and the groups are 1 and
    nothing is transposed.

    >>> [m.fan_in for m in matrices(nn.Conv2d(8, 4, 3))], [m.fan_in for m in matrices(nn.ConvTranspose2d(8, 4, 4, 2))]
    ([72.0], [32.0])
    """
    if isinstance(module, nn.MultiheadAttention):
        yield from _projections(module)
    weight = module._parameters.get("weight")
    if weight is None:
        return
    values = weight.detach()
    if isinstance(module, nn.Linear):
        yield Matrix("weight", values, module.in_features, module.out_features)
    elif isinstance(module, _CONVS + _TRANSPOSED):
        taps, steps = math.prod(module.kernel_size), math.prod(module.stride)
        fan_in, fan_out = module.in_channels * taps / module.groups, module.out_channels * taps / module.groups
        transposed = isinstance(module, _TRANSPOSED)
        yield (
            Matrix("weight", values, fan_in / steps, fan_out)
            if transposed
            else Matrix("weight", values, fan_in, fan_out / steps)
        )


def _projections(module: nn.MultiheadAttention) -> Iterator[Matrix]:
    """Yield the queries', keys' and values' matrices, which torch keeps in one parameter when they are equally wide."""
    width = module.embed_dim
    if module._qkv_same_embed_dim:
        for part in module.in_proj_weight.detach().chunk(3):
            yield Matrix("in_proj_weight", part, width, width)
        return
    for name, inputs in (("q", width), ("k", module.kdim), ("v", module.vdim)):
        yield Matrix(f"{name}_proj_weight", getattr(module, f"{name}_proj_weight").detach(), inputs, width)


def draw(values: Tensor, std: float, distribution: Distribution, generator: torch.Generator | None) -> str:
    """Fill ``values`` with mean 0 and this std, and say so; uniform is within ±√3·std.

    >>> draw(torch.empty(2, 2), 0.5, "uniform", None)
    'uniform, std 0.5'
    """
    if distribution == "uniform":
        nn.init.uniform_(values, -math.sqrt(3) * std, math.sqrt(3) * std, generator=generator)
    else:
        nn.init.normal_(values, std=std, generator=generator)
    return f"{distribution}, std {std:.4g}"
