"""What the rules of initialization share: how many values a layer adds up, and drawing weights of a given std."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from lehr.base.errors import SettingError
from lehr.layers.norms import SampleRMSNorm

__all__ = [
    "EMBEDDINGS",
    "NORM_MODULES",
    "Distribution",
    "Matrix",
    "Rule",
    "draw",
    "matrices",
    "refuse_lazy",
    "unknown_weights",
]

NORM_MODULES = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, SampleRMSNorm)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

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
    maps: tuple[Tensor, ...] = ()
    """The same weights as (outputs, inputs, ...), one for each set of outputs that add up other inputs; none: whole.

    One per group of a convolution. A transposed one with stride s has s kinds of places in its output, and each adds up
    taps of its own.
    """


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
    convolution has them the other way round. ``torch.nn.init`` counts groups in fan_in alone and strides nowhere.

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
        if isinstance(module, _TRANSPOSED):
            yield Matrix("weight", values, fan_in / steps, fan_out, tuple(_transposed_maps(module, values)))
        else:
            yield Matrix("weight", values, fan_in, fan_out / steps, values.chunk(module.groups))


def _transposed_maps(
    module: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d, values: Tensor
) -> Iterator[Tensor]:
    """Yield views of a transposed convolution's weights: for each group, and each kind of place in the output."""
    phases: list[list[slice]] = []
    for taps, stride, dilation in zip(module.kernel_size, module.stride, module.dilation, strict=True):
        step = stride // math.gcd(stride, dilation)  # taps t and t + step reach the same outputs
        phases.append([slice(first, None, step) for first in range(min(taps, step))])
    for group in values.chunk(module.groups):
        for kind in product(*phases):
            yield group.transpose(0, 1)[(slice(None), slice(None), *kind)]


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


def refuse_lazy(model: nn.Module) -> None:
    """Refuse a model with parameters that have no shape before its first batch.

    >>> refuse_lazy(nn.LazyLinear(2))
    Traceback (most recent call last):
    ...
    lehr.base.errors.SettingError: weight has no shape yet; pass one batch through the model first
    """
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise SettingError(f"{name} has no shape yet; pass one batch through the model first")


def unknown_weights(model: nn.Module) -> list[str]:
    """Return the names of what may be a weight matrix in a module of a kind that `matrices` does not know.

    Norms and embeddings are known as well; what has a single dimension, or a first one of 1, is added or multiplied and
    maps nothing.

    >>> unknown_weights(nn.ModuleList([nn.Linear(2, 3), nn.Bilinear(2, 3, 4)]))
    ['1.weight']
    """
    held = {id(m._parameters[matrix.parameter]) for m in model.modules() for matrix in matrices(m)}
    for module in model.modules():
        if isinstance(module, NORM_MODULES + EMBEDDINGS):
            held |= {id(parameter) for parameter in module.parameters(recurse=False)}
    return [
        name
        for name, weight in model.named_parameters()
        if id(weight) not in held and sum(size > 1 for size in weight.shape) > 1 and weight.shape[0] > 1
    ]
