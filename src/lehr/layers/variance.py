"""Whether signals pass through a model: the size of activations and of gradients, layer by layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.protocols import Batch
from lehr.base.seeds import generator, isolated_global_generators
from lehr.layers.filling import matrices
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
    """Standard deviation of the loss's gradient with respect to it; 0 where none arrives."""
    activation_ratio: float
    """`activation` over that of the first layer."""
    gradient_ratio: float
    """`gradient` over that of the last layer, where gradients come from."""
    ok: bool
    """Whether both ratios are within the bounds."""


@dataclass(frozen=True)
class VarianceReport:
    """The layers in the order of the forward pass; `str` is a table."""

    layers: tuple[LayerVariance, ...]
    low: float
    high: float

    @property
    def ok(self) -> bool:
        """Whether all layers are within the bounds."""
        return all(layer.ok for layer in self.layers)

    def __str__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [f"{'layer':{width}}  activation   to first    gradient    to last"]
        lines += [
            f"{layer.name:{width}}  {layer.activation:10.3g} {layer.activation_ratio:10.3g}  {layer.gradient:10.3g} "
            f"{layer.gradient_ratio:10.3g}  {'pass' if layer.ok else 'fail'}"
            for layer in self.layers
        ]
        return "\n".join([*lines, f"bounds of the ratios: {self.low:g} to {self.high:g}"])


def check_variance(
    model: nn.Module,
    batch: Batch,
    *,
    loss: Loss | None = None,
    layers: Sequence[str] = (),
    low: float = 0.1,
    high: float = 10.0,
) -> VarianceReport:
    """Measure one forward and backward pass, and compare each layer with where the signal came from.

    ``loss(model, batch)`` returns a scalar, or a sum and a count as objectives do. Without it the model gets the batch,
    or its first element, and gradients start as standard normal noise at its output: no labels needed. ``layers`` are
    name patterns of what to look at; without them, all linear layers and convolutions. A layer that is called twice is
    listed twice. Activations are compared with those of the first layer, gradients with those of the last, and a layer
    passes within ``low`` to ``high``; a value that is not finite never passes.

    The bounds are rough on purpose: a factor of 10 over a whole network is no trouble, one per layer is, and it is
    outside by the third. Where the last layer starts at 0, as in `GPT`, no gradient passes it at first.

    Works on a copy of the model, in the mode that it is in, and leaves the global generators where they were. Cost: the
    copy, and one step without an update.

    Raises: `SettingError` for bounds that hold nothing between them, or when no layer is run.

    >>> stack = nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)])
    >>> for layer in stack:
    ...     _ = nn.init.normal_(layer.weight, std=0.01)  # a factor of 0.08 per layer
    >>> check_variance(stack, torch.randn(32, 64)).ok
    False
    """
    if not 0 < low < high:
        raise SettingError(f"bounds low={low}, high={high}: use 0 < low < high, such as 0.1 and 10")
    model = copy.deepcopy(model)
    seen: list[tuple[str, Tensor, list[Tensor]]] = []
    for name, module in _watched(model, layers).items():
        module.register_forward_hook(lambda _module, _given, output, name=name: _look(seen, name, output))
    with isolated_global_generators(), torch.enable_grad():
        value = _noise(model, batch) if loss is None else _scalar(loss(model, batch))
        if not seen:
            raise SettingError(f"no layer of {type(model).__name__} to look at was run; name those to see in layers=")
        _backward(value, model)
    sizes = [(name, float(size), float(arrived[0]) if arrived else 0.0) for name, size, arrived in seen]
    first, last = sizes[0][1], sizes[-1][2]
    return VarianceReport(tuple(_judged(*size, first, last, (low, high)) for size in sizes), low, high)


def _watched(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules to look at; each once, though it may have several names."""
    if patterns:
        return modules_like(model, *patterns)
    return {name: module for name, module in model.named_modules() if any(True for _ in matrices(module))}


def _look(seen: list[tuple[str, Tensor, list[Tensor]]], name: str, output: Any) -> None:
    """Note the std of a layer's output, and have the gradient's noted when it arrives."""
    output = output[0] if isinstance(output, tuple | list) else output
    arrived: list[Tensor] = []
    # read now: an operation in place may follow, and a tensor's own hook still sees the gradient before that
    seen.append((name, _std(output), arrived))
    if output.requires_grad:
        output.register_hook(lambda gradient: arrived.append(_std(gradient)))


def _std(values: Tensor) -> Tensor:
    return values.detach().double().std(correction=0)


def _scalar(given: Any) -> Tensor:
    value: Tensor = given[0] / given[1] if isinstance(given, tuple) else given
    return value


def _noise(model: nn.Module, batch: Batch) -> Tensor:
    """Return a scalar whose gradient at the model's output is standard normal noise, always the same."""
    given = batch[0] if isinstance(batch, tuple | list) else batch
    output = model(given) if isinstance(given, Tensor) else None
    if not isinstance(output, Tensor):
        what = "a batch that is no tensor, nor begins with one" if output is None else "a model that returns no tensor"
        raise SettingError(f"check_variance was given {what}; pass loss=, a function of the model and the batch")
    noise = torch.randn(output.shape, generator=generator(0, "variance")).to(output)
    return (output * noise).sum()


def _backward(value: Tensor, model: nn.Module) -> None:
    """Run the backward pass; the hooks see the gradients, and nothing keeps them."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained or not value.requires_grad:
        raise SettingError(
            f"no gradient reaches {type(model).__name__}: its parameters are frozen, or the loss is cut off"
        )
    torch.autograd.grad(value, trained, allow_unused=True)


def _judged(
    name: str, activation: float, gradient: float, first: float, last: float, bounds: tuple[float, float]
) -> LayerVariance:
    """Compare one layer with where its signals came from; nothing over nothing is not a number, and fails."""
    ratios = [value / source if source else math.nan for value, source in ((activation, first), (gradient, last))]
    return LayerVariance(
        name=name,
        activation=activation,
        gradient=gradient,
        activation_ratio=ratios[0],
        gradient_ratio=ratios[1],
        ok=all(bounds[0] <= ratio <= bounds[1] for ratio in ratios),
    )
