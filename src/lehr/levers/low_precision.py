"""Weights in bfloat16 for the passes, with float32 masters for the update: one cast a step, not one at each product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lehr.base.batches import map_tensors
from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["BF16_WEIGHTS", "LowPrecision"]


class LowPrecision(nn.Module):
    """Calls ``model`` with its parameters and inputs cast to ``dtype``, and returns outputs in float32.

    The parameters themselves, which optimizers and checkpoints know, stay what they are, and gradients arrive there.
    Everything within the model is in ``dtype``, norms and softmax too; torch's kernels add up in float32. Buffers that
    are saved, such as running statistics, stay float32, with the parameters of their layer; others are constants and
    are cast.

    Cost: the parameters once more, in ``dtype``, while a pass lasts.

    >>> model = nn.Linear(2, 2)
    >>> LowPrecision(model)(torch.ones(1, 2)).dtype, model.weight.dtype
    (torch.float32, torch.float32)
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """Return what the model makes of its inputs, in float32."""
        cast = {name: self._low(value) for name, value in self._castable().items()}
        inputs = map_tensors(self._low, inputs)
        more = {name: map_tensors(self._low, value) for name, value in more.items()}
        outputs = torch.func.functional_call(self.model, cast, inputs, more)
        return map_tensors(lambda tensor: tensor.float() if tensor.dtype == self.dtype else tensor, outputs)

    def _castable(self) -> dict[str, Tensor]:
        """Return what a pass has in ``dtype``: all but buffers that are saved, and the parameters beside them."""
        saved = self.model.state_dict(keep_vars=True)
        parameters = dict(self.model.named_parameters())
        buffers = dict(self.model.named_buffers())
        collecting = {name.rpartition(".")[0] for name in buffers if name in saved}
        constants = {name: buffer for name, buffer in buffers.items() if name not in saved}
        return constants | {n: p for n, p in parameters.items() if n.rpartition(".")[0] not in collecting}

    def _low(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.dtype == torch.float32 else tensor


def _options(setup: Setup) -> Sequence[Settings]:
    if setup.precision == "bf16-weights":
        raise NotHere("the passes have bf16 weights already")
    if setup.world > 1:
        raise NotHere("gradients shared between processes are not tried with it")
    return [("precision=bf16-weights",)]


BF16_WEIGHTS = Lever(
    name="bf16-weights",
    summary="weights and activations in bfloat16 for the passes, float32 masters for the update",
    shortens=("forward", "backward"),
    options=_options,
    changes="rounding",
)
