"""Initial weights by rule, for any model; what each parameter got is told."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from lehr.base.errors import SettingError
from lehr.base.tables import Row, Table
from lehr.layers.filling import EMBEDDINGS, NORM_MODULES, Rule, matrices, refuse_lazy
from lehr.layers.he import He
from lehr.layers.lecun import LeCun
from lehr.layers.orthogonal import Orthogonal
from lehr.layers.truncated_normal import TruncatedNormal
from lehr.layers.xavier import Xavier

__all__ = ["ACTIVATIONS", "RULES", "as_rule", "for_activation", "initialize"]

RULES = Table(
    "initialization",
    [
        Row(name="xavier", make=Xavier, summary="by fan_in + fan_out; sigmoid and tanh"),
        Row(name="he", make=He, summary="by fan_in, twice the variance; relu and its family"),
        Row(name="lecun", make=LeCun, summary="by fan_in; selu, and layers that no activation follows"),
        Row(name="orthogonal", make=Orthogonal, summary="orthonormal rows or columns; deep and recurrent networks"),
        Row(name="truncated_normal", make=TruncatedNormal, summary="one std for all; Transformers"),
    ],
)

ACTIVATIONS = Table(
    "activation",
    [
        Row(name="sigmoid", make=Xavier, summary="Xavier"),
        Row(name="tanh", make=Xavier, summary="Xavier"),
        Row(name="relu", make=He, summary="He"),
        Row(name="leaky_relu", make=lambda slope=0.01: He(activation="leaky_relu", slope=slope), summary="He"),
        Row(name="gelu", make=lambda: He(activation="gelu"), summary="He with gelu's gain"),
        Row(name="silu", make=lambda: He(activation="silu"), summary="He with silu's gain"),
        Row(name="selu", make=LeCun, summary="LeCun"),
        Row(name="linear", make=LeCun, summary="LeCun"),
    ],
)


def for_activation(activation: str, **options: float) -> Rule:
    """Return the rule for layers that this activation follows; ``slope`` is an option of leaky_relu.

    >>> for_activation("tanh").distribution, for_activation("leaky_relu", slope=0.2).slope
    ('uniform', 0.2)
    """
    make: Callable[..., Rule] = ACTIVATIONS[activation].make
    if set(options) - ({"slope"} if activation == "leaky_relu" else set()):
        raise SettingError(f"{activation} takes no {', '.join(options)}; only leaky_relu has an option, its slope")
    return make(**options)


def as_rule(given: str | Rule) -> Rule:
    """Return the rule of that name with its defaults, or the rule itself.

    >>> as_rule("orthogonal").gain
    1.0
    """
    made = RULES[given].make() if isinstance(given, str) else given
    if not isinstance(made, Rule) or isinstance(made, type):
        raise SettingError(f"{given!r} is no initialization; give settings such as He(), or one of {', '.join(RULES)}")
    return made


@torch.no_grad()
def initialize(model: nn.Module, rule: str | Rule, *, generator: torch.Generator | None = None) -> dict[str, str]:
    """Draw the weights of ``model`` anew and return for each parameter how.

    Linear layers, convolutions and attention's projections follow the ``rule``: settings, or a name in `RULES` for
    their defaults. Embeddings are normal with the rule's ``embedding_std``, 1 but for `TruncatedNormal`, and 0 in
    rows of padding. Biases are 0, the gains of norms 1. A weight that an output layer shares with an embedding is
    drawn as the output layer's, but for its row of padding. Other parameters are left as they were, and the answer says
    so; a matrix without elements is ``empty``.

    What the model's own code set is replaced, branches that begin at zero included: call `zero_init_residual` after.
    Without a ``generator``, torch's global one is drawn from, as modules do.

    Raises: `SettingError` for an unknown rule, lazy parameters, or a model without any such layer.

    >>> model = nn.Sequential(nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 1))
    >>> initialize(model, "he")["0.weight"]
    'he normal, std 0.2, fan_in'
    """
    chosen = as_rule(rule)
    refuse_lazy(model)
    done: dict[nn.Parameter, str] = {}
    for module in model.modules():
        for matrix in matrices(module):
            parameter = module._parameters[matrix.parameter]
            assert parameter is not None
            done[parameter] = chosen.fill(matrix, generator) if matrix.values.numel() else "empty"
    for module in model.modules():
        _fill_the_rest(module, chosen.embedding_std, done, generator)
    if not done:
        raise SettingError(f"{type(model).__name__} has no layer that initialize knows; draw its weights yourself")
    return {name: done.get(parameter, "left as it was") for name, parameter in model.named_parameters()}


def _fill_the_rest(
    module: nn.Module, embedding_std: float, done: dict[nn.Parameter, str], generator: torch.Generator | None
) -> None:
    """Fill the embeddings, biases and norms of one module, where nothing has been drawn yet."""
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    if isinstance(module, nn.MultiheadAttention):
        bias = module.in_proj_bias
    if isinstance(module, EMBEDDINGS) and weight is not None:
        if weight not in done:
            nn.init.normal_(weight, std=embedding_std, generator=generator)
            done[weight] = f"normal, std {embedding_std:g}"
        if module.padding_idx is not None:
            weight[module.padding_idx] = 0
    if isinstance(module, NORM_MODULES) and weight is not None:
        done[nn.init.ones_(weight)] = "ones"  # type: ignore[index]
    if bias is not None and (isinstance(module, NORM_MODULES) or any(True for _ in matrices(module))):
        done[nn.init.zeros_(bias)] = "zeros"  # type: ignore[index]
