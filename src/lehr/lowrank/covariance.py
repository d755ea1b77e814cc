"""Second moments of what enters a layer: in which directions an error of its matrix counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lehr.base.errors import NonFiniteError, SettingError
from lehr.base.protocols import Batch
from lehr.base.tensors import in_full
from lehr.lowrank.inputs import Forward, look_at_inputs, rows

__all__ = ["second_moments", "weighted_spectrum"]


def second_moments(
    model: nn.Module,
    names: Iterable[str],
    batches: Iterable[Batch],
    forward: Forward,
    *,
    sum_over: Callable[[Tensor], Tensor] = lambda value: value,
) -> dict[str, Tensor]:
    """Return the mean of ``x x^T`` (in, in) over all positions that enter each named layer.

    ``forward(batch)`` runs the model on a batch, in evaluation mode and without gradients. A convolution's input is
    unfolded, (in x height x width). Summed up in float32 at least, also under autocast; padding counts as what it is
    in the batch. Fewer positions than inputs give a singular matrix. ``sum_over`` adds a tensor up over processes.

    Raises: `NonFiniteError` naming the layers whose input is not finite, or too large to be squared; SettingError for
    layers that were never run, and as `look_at_inputs` does. Cost: the forward passes and in^2 products per position;
    in^2 values per layer.

    >>> layer = nn.Linear(2, 1)
    >>> second_moments(layer, [""], [torch.tensor([[1.0, 0.0], [1.0, 2.0]])], layer)[""]
    tensor([[1., 1.],
            [1., 2.]])
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, module: nn.Module, x: Tensor) -> None:
        with torch.autocast(x.device.type, enabled=False):  # half precision is for the model, not for its measurement
            vectors = in_full(rows(module, x))
            product = vectors.mT @ vectors
        if name not in sums:
            sums[name], counts[name] = torch.zeros_like(product), 0
        sums[name] += product
        counts[name] += len(vectors)

    names = list(names)
    if never := look_at_inputs(model, names, batches, forward, add):
        raise SettingError(
            f"never run on these batches: {', '.join(never)}; leave them out, or give batches (and a forward) that do"
        )
    moments = {}
    for name in names:
        count = sum_over(torch.tensor(float(counts[name]), dtype=torch.float64, device=sums[name].device))
        if not count:
            raise SettingError(f"only empty batches enter the layer {name!r}; give batches with samples in them")
        moments[name] = sum_over(sums[name]) / count.to(sums[name].dtype)
    if bad := [name for name in names if not moments[name].isfinite().all()]:
        raise NonFiniteError(
            f"what enters {', '.join(map(repr, bad))} is not finite, or too large to be squared; "
            "look for the first layer that gives such values, or leave these out"
        )
    return moments


def weighted_spectrum(weight: Tensor, moment: Tensor | None = None) -> Tensor:
    """Return the singular values of ``W C^(1/2)``, descending, float64: what each direction adds to the output.

    For a weight (out, in) or a kernel, and the second moment C (in, in) of its input: the sum of the squares is the
    mean of ``||W x||^2``, and those after the first r are what the best factors of rank r lose of it (arXiv
    2403.07378). C may be singular. Without C the singular values of W itself. NaN where W or C is not finite.

    Raises SettingError for a moment of another size. Cost: an eigendecomposition of C, the singular values of W.

    >>> W, C = torch.eye(2), torch.diag(torch.tensor([1.0, 9.0]))
    >>> weighted_spectrum(W, C)
    tensor([3., 1.], dtype=torch.float64)
    """
    matrix = weight.detach().reshape(weight.shape[0], -1).double()
    if not (matrix.isfinite().all() and (moment is None or moment.isfinite().all())):
        return matrix.new_full((min(matrix.shape),), torch.nan)
    if moment is not None:
        size = matrix.shape[1]
        if moment.shape != (size, size):
            raise SettingError(
                f"a second moment of shape {tuple(moment.shape)} for {size} inputs; use ({size}, {size})"
            )
        values, vectors = torch.linalg.eigh(moment.double())
        matrix = matrix @ (vectors * values.clamp_min(0).sqrt())
    spectrum: Tensor = torch.linalg.svdvals(matrix)
    return spectrum
