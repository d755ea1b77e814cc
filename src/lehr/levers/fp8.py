"""Products of linear layers in 8 bits, by torchao's layers; all else in bfloat16 by autocast."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from torch import nn

from lehr.base.errors import SettingError
from lehr.base.optional import need
from lehr.levers.lever import Lever, NotHere, Settings, Setup

__all__ = ["ADA", "FP8", "fp8"]

ADA = (8, 9)
"""The first CUDA devices with products in fp8."""
MULTIPLE = 16
"""What both sizes of a layer must be multiples of, for the kernels."""


def fp8(model: nn.Module, *, emulate: bool = False) -> int:
    """Exchange the linear layers within a model, in place, for torchao's with products in fp8; returns how many.

    Inputs and weights are cast to e4m3, gradients of outputs to e5m2, each with one scale a tensor that is taken from
    the tensor itself, so there is no state to save. Weights, their names and the optimizer's state stay float32.
    Layers whose sizes are no multiples of 16 stay as they are, and so do layers that are more than `torch.nn.Linear`,
    and the ones within torch's attention, which does not call them. Rows are padded to a multiple of 16. ``emulate``
    rounds as fp8 does, on any device, and is slow. Source: Micikevicius et al. 2022 (arXiv 2209.05433).

    Raises: `SettingError` without torchao (extra ``fp8``), and where no layer can be exchanged.
    """
    float8 = need("torchao.float8", extra="fp8", why="precision=fp8")

    aside = {
        child for module in model.modules() if isinstance(module, nn.MultiheadAttention) for child in module.children()
    }

    def fits(module: nn.Module, _name: str) -> bool:
        if type(module) is not nn.Linear or module in aside:
            return False
        return not (module.in_features % MULTIPLE or module.out_features % MULTIPLE)

    many = sum(fits(module, "") for module in model.modules() if module is not model)
    if not many:
        raise SettingError(
            f"precision=fp8 has no effect: no linear layer within the model has sizes that are multiples of {MULTIPLE}"
        )
    float8.convert_to_float8_training(
        model, module_filter_fn=fits, config=float8.Float8LinearConfig(emulate=emulate, pad_inner_dim=True)
    )
    return many


def _options(setup: Setup) -> Sequence[Settings]:
    if setup.device != "cuda" or setup.capability < ADA:
        have = f"capability {'.'.join(map(str, setup.capability))}" if setup.device == "cuda" else f"a {setup.device}"
        raise NotHere(f"fp8 needs a CUDA device of capability 8.9 or later; this is {have}")
    if setup.precision == "fp8":
        raise NotHere("linear layers multiply in fp8 already")
    if importlib.util.find_spec("torchao") is None:
        raise NotHere("fp8 needs torchao: pip install 'lehr[fp8]'")
    if not setup.compiler:
        raise NotHere("casts to fp8 pay only where they are compiled, and there is no compiler")
    # uncompiled, the casts cost more than the products save
    return [("step=eager", "dropout=torch", "compile=true", "precision=fp8")]


FP8 = Lever(
    name="fp8",
    summary="products of linear layers in 8 bits, where the hardware has them",
    shortens=("forward", "backward"),
    options=_options,
    changes="rounding",
    compiles=True,
    untested="everywhere: it needs a CUDA device of capability 8.9 or later; its rounding was tried by emulation",
)
