"""Whether signals pass through a model: the size of activations and of gradients, layer by layer.

Activations are measured by their standard deviation, gradients by their norm, √Σg² over all values. Those are the two
that weights of variance 1/fan_in keep, whatever the widths and strides: y = Wx has the variance of x, Wᵀg the norm of
g. What they do not keep is a mean over places, as in pooling: of P places it makes P′, and with a = √(P′/P)

    std of the values       falls to a where they are independent, and stays where they are all the same
    norm of the gradient    falls to a on its way back, since each place gets its share

so between one layer and the next a factor from a to 1 is put down to pooling and left out of the ratios; likewise one
from 1 to a where the places become more. Without pooling the ratios are simply those to the first and the last layer.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.protocols import Batch
from lehr.base.seeds import generator, isolated_global_generators
from lehr.layers.filling import matrices, refuse_lazy, unknown_weights
from lehr.layers.zero_init import modules_like

__all__ = ["LayerVariance", "VarianceReport", "check_variance"]

Loss = Callable[[nn.Module, Batch], Any]


@dataclass(frozen=True, kw_only=True)
class LayerVariance:
    """What was measured at the output of one layer."""

    name: str
    activation: float
    """Standard deviation of the output."""
    gradient: float
    """Norm of the loss's gradient with respect to it; 0 where none arrives."""
    activation_ratio: float
    """`activation` over that of the first layer, without what pooling accounts for."""
    gradient_ratio: float
    """`gradient` over that of the last layer that gets one, likewise."""
    ok: bool
    """Whether both ratios are within the bounds."""

    @property
    def verdict(self) -> str:
        """``pass``, ``fail``, or ``no gradient``."""
        return "no gradient" if self.gradient == 0 else "pass" if self.ok else "fail"


@dataclass(frozen=True)
class VarianceReport:
    """The layers in the order of the forward pass, and what was not seen; `str` is a table."""

    layers: tuple[LayerVariance, ...]
    low: float
    high: float
    unseen: tuple[str, ...] = ()
    """What the check knows nothing about: layers that were not run, and weights in modules of other kinds."""

    @property
    def ok(self) -> bool:
        """Whether all layers are within the bounds and nothing is `unseen`."""
        return all(layer.ok for layer in self.layers) and not self.unseen

    def __str__(self) -> str:
        width = max(5, *(len(layer.name) for layer in self.layers))
        lines = [f"{'layer':{width}}  activation   to first    gradient    to last"]
        lines += [
            f"{layer.name:{width}}  {layer.activation:10.3g} {layer.activation_ratio:10.3g}  {layer.gradient:10.3g} "
            f"{layer.gradient_ratio:10.3g}  {layer.verdict}"
            for layer in self.layers
        ]
        lines += [f"bounds of the ratios: {self.low:g} to {self.high:g}"]
        if any(layer.gradient == 0 for layer in self.layers):
            lines += [
                "no gradient: frozen, not read by the loss, or behind weights that begin at 0 (check after a step)"
            ]
        if self.unseen:
            lines += [f"not looked at: {', '.join(self.unseen)}; layers= names what to look at"]
        return "\n".join(lines)


@dataclass
class _Seen:
    """The output of one layer: its size, its places (samples times positions), and its gradient's norm."""

    name: str
    activation: float
    places: float
    gradient: float = 0.0


def check_variance(
    model: nn.Module,
    batch: Batch,
    *,
    loss: Loss | None = None,
    layers: str | Sequence[str] = (),
    low: float = 0.1,
    high: float = 10.0,
) -> VarianceReport:
    """Measure one forward and backward pass, and compare each layer with where the signal came from.

    ``loss(model, batch)`` returns a scalar, or a sum and a count as objectives do. Without it the model gets the batch,
    or its first element, and gradients start as standard normal noise at its output: no labels needed. ``layers`` are
    name patterns of what to look at; without them, all linear layers, convolutions and attentions (whose output is
    that of their ``out_proj``). A layer that is called twice is listed twice. Activations are compared with those of
    the first layer, gradients with those of the last one that gets any, and a layer passes within ``low`` to ``high``;
    a value that is not finite never passes.

    The bounds are rough on purpose: a factor of 10 over a whole network is no trouble, one per layer is, and it is
    outside by the third. The factor that pooling has by nature is not counted, see the head of this file. Where the
    last layer starts at 0, as in `GPT`, no gradient passes it at first; of a residual branch that begins at 0 the
    layers have none either, and the report says so.

    Weights that are no such layer's, as in an LSTM, are named in ``unseen``, and so are layers that were not run; the
    report is then not ``ok``. Naming ``layers`` limits what is claimed to these.

    Works on a copy of the model, in the mode that it is in, and leaves the global generators where they were. Cost: the
    copy, and one step without an update.

    Raises: `SettingError` for bounds that hold nothing between them, a model whose parameters have no shape yet, a
    batch that does not fit, or when no layer is run.

    >>> stack = nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)])
    >>> for layer in stack:
    ...     _ = nn.init.normal_(layer.weight, std=0.01)  # a factor of 0.08 per layer
    >>> check_variance(stack, torch.randn(32, 64)).ok
    False
    """
    if not 0 < low < high:
        raise SettingError(f"bounds low={low}, high={high}: use 0 < low < high, such as 0.1 and 10")
    refuse_lazy(model)
    model = copy.deepcopy(model)
    seen: list[_Seen] = []
    watched = _watched(model, [layers] if isinstance(layers, str) else layers)
    for name, module in watched.items():
        module.register_forward_hook(lambda module, _given, output, name=name: _look(seen, name, module, output))
    with isolated_global_generators(), torch.enable_grad():
        value = _noise(model, batch) if loss is None else _scalar(loss(model, batch))
        if not seen:
            raise SettingError(f"no layer of {type(model).__name__} to look at was run; name those to see in layers=")
        _backward(value, model)
    run = {layer.name for layer in seen}
    unseen = [f"{name} (not run)" for name in watched if name not in run]
    if not layers:
        unseen += unknown_weights(model)
    return VarianceReport(_judged(seen, low, high), low, high, tuple(unseen))


def _watched(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules to look at; each once, though it may have several names."""
    if patterns:
        return modules_like(model, *patterns)
    # torch's attention reads the weights of its out_proj and never runs it
    inner = {module.out_proj for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
    return {n: m for n, m in model.named_modules() if m not in inner and any(True for _ in matrices(m))}


def _look(seen: list[_Seen], name: str, module: nn.Module, output: Any) -> None:
    """Note the size of a layer's output, and have the gradient's noted when it arrives."""
    output = output[0] if isinstance(output, tuple | list) else output
    # read now: an operation in place may follow, and a tensor's own hook still sees the gradient before that
    values = output.detach().double()
    if values.numel() < 2:
        raise SettingError(f"{name} returned a single number, which has no spread; give a batch of several samples")
    channels = getattr(module, "out_channels", None) or output.shape[1 if output.ndim > 3 else -1]
    layer = _Seen(name, float(values.std(correction=0)), output.numel() / channels)
    seen.append(layer)
    if output.requires_grad:
        output.register_hook(lambda gradient: setattr(layer, "gradient", float(gradient.double().norm())))


def _scalar(given: Any) -> Tensor:
    value: Tensor = given[0] / given[1] if isinstance(given, tuple) else given
    return value


def _noise(model: nn.Module, batch: Batch) -> Tensor:
    """Return a scalar whose gradient at the model's output is standard normal noise, always the same."""
    given = batch[0] if isinstance(batch, tuple | list) else batch
    if not isinstance(given, Tensor):
        what = "a batch that is no tensor, nor begins with one"
    elif not _takes_one(model):
        what = f"a {type(model).__name__}, which takes more than one input"
    elif not isinstance(output := model(given), Tensor):
        what = "a model that returns no tensor"
    else:
        noise = torch.randn(output.shape, generator=generator(0, "variance")).to(output)
        return (output * noise).sum()
    raise SettingError(f"check_variance was given {what}; pass loss=, a function of the model and the batch")


def _takes_one(model: nn.Module) -> bool:
    """Return whether the model can be called with one input."""
    try:
        inspect.signature(model.forward).bind(None)
    except TypeError:
        return False
    return True


def _backward(value: Tensor, model: nn.Module) -> None:
    """Run the backward pass; the hooks see the gradients, and nothing keeps them."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained or not value.requires_grad:
        raise SettingError(
            f"no gradient reaches {type(model).__name__}: its parameters are frozen, or the loss is cut off"
        )
    torch.autograd.grad(value, trained, allow_unused=True)


def _ratios(sizes: Sequence[tuple[float, float]]) -> list[float]:
    """Return each size over the first one, without what a change of the number of places accounts for.

    ``sizes`` are (size, √places) in the order in which the signal passes, which for gradients is the other way round
    and has 1/√places. A size of 0 has the ratio 0, and nothing is compared with it.

    >>> _ratios([(5.0, 2.0), (0.0, 2.0), (1.0, 2.0), (0.3, 0.5), (0.01, 0.5)])  # 0.3 of it through a mean of 16 places
    [1.0, 0.0, 0.2, 0.2, 0.006666666666666667]
    """
    ratios: list[float] = []
    before: tuple[float, float, float] | None = None
    for size, root in sizes:
        if size == 0:
            ratios.append(0.0)
            continue
        ratio = size / size  # 1, but not for what is not finite
        if before is not None:
            step, pooling = size / before[0], root / before[1]
            ratio = before[2] * step / min(max(step, min(1.0, pooling)), max(1.0, pooling))
        ratios.append(ratio)
        before = (size, root, ratio)
    return ratios


def _judged(seen: list[_Seen], low: float, high: float) -> tuple[LayerVariance, ...]:
    """Compare each layer with where its signals came from."""
    forward = _ratios([(layer.activation, math.sqrt(layer.places)) for layer in seen])
    backward = _ratios([(layer.gradient, 1 / math.sqrt(layer.places)) for layer in reversed(seen)])[::-1]
    return tuple(
        LayerVariance(
            name=layer.name,
            activation=layer.activation,
            gradient=layer.gradient,
            activation_ratio=to_first,
            gradient_ratio=to_last,
            ok=all(low <= ratio <= high for ratio in (to_first, to_last)),
        )
        for layer, to_first, to_last in zip(seen, forward, backward, strict=True)
    )
