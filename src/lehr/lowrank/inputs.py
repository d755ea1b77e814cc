"""Looking at what enters the layers of a model, batch by batch, without changing the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lehr.base.errors import SettingError
from lehr.base.modes import evaluation_mode
from lehr.base.protocols import Batch
from lehr.base.seeds import isolated_global_generators
from lehr.base.tables import did_you_mean

__all__ = ["Forward", "look_at_inputs", "positions", "rows"]

Forward = Callable[[Batch], Any]
"""Runs the model on a batch; what it returns is not used."""


@torch.no_grad()
def look_at_inputs(
    model: nn.Module,
    names: Iterable[str],
    batches: Iterable[Batch],
    forward: Forward,
    look: Callable[[str, nn.Module, Tensor], None],
) -> list[str]:
    """Call ``look(name, layer, input)`` whenever one of the named layers is run, in evaluation and without gradients.

    It is called where the layer is, under autocast too. Returns the names of those that were never run, such as layers
    whose weights another module reads by itself. Nothing is left changed: hooks, modes, and the global generators are
    as before, also after an error.

    Raises SettingError for a name that the model does not have, and a layer whose input is no floating tensor.

    >>> seen = []
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> look_at_inputs(model, ["2"], [torch.zeros(5, 2)], model, lambda name, layer, x: seen.append(x.shape))
    []
    >>> seen
    [torch.Size([5, 3])]
    """
    modules = dict(model.named_modules())
    names = list(names)
    for name in names:
        if name not in modules:
            raise SettingError(f"{type(model).__name__} has no layer {name!r}{did_you_mean(name, modules)}")
    run: set[str] = set()

    def see(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else next(iter(kwargs.values()), None)
        if not isinstance(given, Tensor) or not given.is_floating_point():
            raise SettingError(f"layer {name!r} ({type(module).__name__}) gets no floating tensor; leave it out")
        run.add(name)
        look(name, module, given.detach())

    with isolated_global_generators(), evaluation_mode(model), _hooked({name: modules[name] for name in names}, see):
        for batch in batches:
            forward(batch)
    return [name for name in names if name not in run]


@contextmanager
def _hooked(modules: dict[str, nn.Module], see: Callable[..., None]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, module in modules.items():
            hook = module.register_forward_pre_hook(
                lambda module, args, kwargs, name=name: see(name, module, args, kwargs), with_kwargs=True
            )
            stack.callback(hook.remove)
        yield


def positions(module: nn.Module, x: Tensor) -> int:
    """Return how many vectors a layer multiplies by its matrix: tokens, pixels of the output, samples.

    >>> positions(nn.Linear(3, 2), torch.zeros(4, 5, 3)), positions(nn.Conv2d(1, 2, 3), torch.zeros(4, 1, 8, 8))
    (20, 144)
    """
    if not isinstance(module, nn.Conv2d):
        return math.prod(x.shape[:-1])
    before, after = module._reversed_padding_repeated_twice[::2], module._reversed_padding_repeated_twice[1::2]
    places = [
        (size + pad_before + pad_after - dilation * (kernel - 1) - 1) // stride + 1
        for size, pad_before, pad_after, dilation, kernel, stride in zip(
            x.shape[-2:], before[::-1], after[::-1], module.dilation, module.kernel_size, module.stride, strict=True
        )
    ]
    return (x.shape[0] if x.ndim == 4 else 1) * int(math.prod(places))


def rows(module: nn.Module, x: Tensor) -> Tensor:
    """Return the vectors that a layer multiplies by its matrix, (positions, in); a convolution's by unfolding.

    A kernel counts as the matrix (out, in x height x width). Raises SettingError for a convolution in groups.

    >>> rows(nn.Conv2d(1, 2, 3), torch.zeros(4, 1, 8, 8)).shape
    torch.Size([144, 9])
    """
    if not isinstance(module, nn.Conv2d):
        return x.reshape(-1, x.shape[-1])
    if module.groups > 1:
        raise SettingError(f"a convolution of {module.groups} groups is no single matrix; leave it out")
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(x if x.ndim == 4 else x[None], module._reversed_padding_repeated_twice, mode=mode)
    unfolded = F.unfold(padded, module.kernel_size, dilation=module.dilation, stride=module.stride)  # (N, in, places)
    return unfolded.mT.reshape(-1, unfolded.shape[1])
