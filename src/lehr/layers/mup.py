"""muP, the maximal update parametrization: rates found on a narrow model stay right for wide ones."""

from __future__ import annotations

import math

import torch
from torch import nn

from lehr.base.errors import SettingError
from lehr.layers.filling import EMBEDDINGS, Rule, matrices, refuse_lazy, unknown_weights
from lehr.layers.he import He
from lehr.layers.initialize import as_rule, initialize
from lehr.layers.lecun import LeCun

__all__ = ["mup_initialize", "mup_rates"]


def _growth(model: nn.Module, base: nn.Module) -> dict[str, tuple[float, bool]]:
    """Return {name: (how much wider the input of this matrix is than in the base, whether the output is wider too)}."""
    _check_the_same_but_for_widths(model, base)
    names: dict[nn.Parameter, str] = {parameter: name for name, parameter in model.named_parameters()}
    first: dict[str, tuple[float, bool]] = {}
    for module, other in zip(model.modules(), base.modules(), strict=True):
        for wide, narrow in zip(matrices(module), matrices(other), strict=True):
            parameter = module._parameters[wide.parameter]
            assert parameter is not None
            first[names[parameter]] = (wide.fan_in / narrow.fan_in, wide.fan_out != narrow.fan_out)
    embeddings = [module._parameters["weight"] for module in model.modules() if isinstance(module, EMBEDDINGS)]
    for weight in embeddings:
        if weight is not None and first.get(names[weight], (1.0, False))[0] != 1:
            raise SettingError(
                f"{names[weight]!r} is an embedding and an output layer at once, which mup treats differently; "
                "untie them"
            )
    return first


def _check_the_same_but_for_widths(model: nn.Module, base: nn.Module) -> None:
    """Refuse what differs in more than widths, and wider weights whose inputs cannot be told from their outputs."""
    for either in (model, base):
        refuse_lazy(either)
    what = "mup compares a model with a narrower one of the same depth, but"
    dimensions = [{name: p.ndim for name, p in m.named_parameters()} for m in (model, base)]
    kinds = [{name: type(module).__name__ for name, module in m.named_modules()} for m in (model, base)]
    for one, other in (dimensions, kinds):
        differing = sorted(name for name in one | other if one.get(name) != other.get(name))
        if differing:
            raise SettingError(f"{what} {differing[0]!r} is not in both; change the width alone")
    for (name, module), narrower in zip(model.named_modules(), base.modules(), strict=True):
        for fixed in ("kernel_size", "stride"):
            pair = getattr(module, fixed, None), getattr(narrower, fixed, None)
            if pair[0] != pair[1]:
                which = name or type(module).__name__
                raise SettingError(f"{what} {which!r} has {fixed} {pair[0]} and {pair[1]}; change the width alone")
    wider = [n for n in unknown_weights(model) if model.get_parameter(n).shape != base.get_parameter(n).shape]
    if wider:
        raise SettingError(
            f"mup cannot tell the inputs of {wider[0]!r} from its outputs; it knows linear layers, convolutions, "
            "attention and embeddings, without reparametrization"
        )


def mup_rates(model: nn.Module, base: nn.Module) -> dict[str, float]:
    """Return for each parameter the factor on the rate of Adam, or of another optimizer whose step ignores the scale.

    ``base`` is the same model at the width for which the rate was tuned. A weight matrix whose input is m times as wide
    as in the base gets 1/m, since its m times as many terms all move the output the same way; embeddings, first
    layers, biases and norms get 1. Weights are not drawn, so both may be on the device "meta". To be used with
    `mup_initialize`. Source: Yang et al. 2022 (arXiv 2203.03466), table 3, the columns for Adam.

    Two things are the model's own: attention has to divide q·k by the size of a head and not by its root, and weight
    decay that is multiplied by the rate shrinks with it.

    Raises: `SettingError` when the two differ in more than widths, an output layer shares an embedding's weights, or a
    wider weight is of another kind, as an LSTM's or a weight-normed layer's.

    >>> wide, base = (nn.Sequential(nn.Linear(3, w), nn.Linear(w, w), nn.Linear(w, 2)) for w in (64, 16))
    >>> {name: rate for name, rate in mup_rates(wide, base).items() if rate != 1}
    {'1.weight': 0.25, '2.weight': 0.25}
    """
    growth = _growth(model, base)
    return {name: 1 / growth.get(name, (1.0, False))[0] for name, _ in model.named_parameters()}


@torch.no_grad()
def mup_initialize(
    model: nn.Module, base: nn.Module, rule: str | Rule = "lecun", *, generator: torch.Generator | None = None
) -> dict[str, str]:
    """Initialize as `initialize` does, with the weights of output layers divided by √m once more; return how.

    The rule's variance is c/fan_in; an output layer, whose input is m times as wide as in the base and whose output is
    not, then has the base's variance over m². At the base's width this is the rule itself.

    Raises: `SettingError` for rules other than ``he`` and ``lecun`` by fan_in.

    >>> wide, base = (nn.Sequential(nn.Linear(3, w), nn.Linear(w, 2)) for w in (64, 16))
    >>> mup_initialize(wide, base)["1.weight"]
    'lecun normal, std 0.125; divided by 2'
    """
    chosen = as_rule(rule)
    if not (isinstance(chosen, LeCun) or (isinstance(chosen, He) and chosen.mode == "fan_in")):
        raise SettingError(f"mup needs a variance that goes with 1/fan_in, which {rule!r} has not; use 'he' or 'lecun'")
    growth = _growth(model, base)
    how = initialize(model, chosen, generator=generator)
    for name, parameter in model.named_parameters():
        wider, grows_too = growth.get(name, (1.0, False))
        if wider != 1 and not grows_too:
            parameter.div_(math.sqrt(wider))
            how[name] += f"; divided by {math.sqrt(wider):.4g}"
    return how
