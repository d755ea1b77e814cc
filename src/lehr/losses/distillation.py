"""Knowledge distillation: a student learns from the labels and from a teacher's whole distribution."""

from __future__ import annotations

import hashlib
import math
import weakref
from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field, PrivateAttr, model_validator
from torch import Tensor, nn

from lehr.base.batches import tensors_of
from lehr.base.errors import SettingError
from lehr.base.modes import evaluation_mode
from lehr.base.protocols import Batch
from lehr.base.seeds import seeded
from lehr.base.settings import describe_callable
from lehr.base.tensors import in_full
from lehr.losses.cross_entropy import cross_entropy
from lehr.losses.kinds import class_weights, classes_last, ignored, of_classes
from lehr.losses.rows import counted_rows, kept_rows
from lehr.losses.supervised import Supervised, sum_and_count

__all__ = ["Distilled", "distillation", "softened_divergence"]


def softened_divergence(
    student: Tensor, teacher: Tensor, *, temperature: float = 3.0, counted: Tensor | None = None
) -> Tensor:
    """Return ``T^2 sum_i KL(softmax(teacher_i / T) ‖ softmax(student_i / T))`` in nats, over the rows that count.

    Both are logits (..., classes); ``counted`` (...) is true for the rows that count, and None for all. No gradient
    goes to the teacher. The factor T² keeps the gradient's size while T changes.

    >>> logits = torch.tensor([[1.0, 2.0, 0.5]])
    >>> float(softened_divergence(logits, logits))
    0.0
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise SettingError(f"temperature={temperature}; use more than 0, usually 1 to 10")
    if student.shape != teacher.shape:
        raise SettingError(
            f"the student's logits have shape {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}; both "
            "must be scores of the same classes"
        )
    known = F.log_softmax(kept_rows(in_full(teacher.detach()), counted) / temperature, dim=-1)
    learned = F.log_softmax(kept_rows(in_full(student), counted) / temperature, dim=-1)
    possible = known != -math.inf  # 0 log 0 is 0; torch's would be NaN
    terms = F.kl_div(learned.where(possible, 0), known.where(possible, 0), reduction="none", log_target=True)
    each = terms.where(possible, 0).sum(dim=-1)
    return temperature**2 * (each if counted is None else each.where(counted, 0)).sum()


def distillation(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float = 3.0,
    alpha: float = 0.7,
    ignore: int | None = None,
) -> tuple[Tensor, Tensor | int]:
    """Return ``sum_i α T² KL(teacher_i ‖ student_i, both softened by T) + (1 - α) cross entropy_i``, and the number.

    Shapes, soft targets and ``ignore`` are those of `cross_entropy`; ``teacher`` has the shape of ``student``. Source:
    Hinton, Vinyals and Dean 2015, arXiv 1503.02531. Raises `SettingError` for a temperature that is not above 0, and an
    α outside 0 to 1. `Distilled` is the objective that runs the teacher.

    >>> logits, target = torch.tensor([[0.7, 0.3]]).log(), torch.tensor([0])
    >>> total, count = distillation(logits, logits, target)
    >>> round(float(total), 4), count  # 0.3 * 0.3567: the teacher has nothing to add
    (0.107, 1)
    """
    _check_alpha(alpha)
    hard, count = cross_entropy(student, target, ignore=ignore)
    counted = None if ignore is None else counted_rows(target, ignore)
    soft = softened_divergence(student, teacher, temperature=temperature, counted=counted)
    return alpha * soft + (1 - alpha) * hard, count


def _check_alpha(alpha: float) -> float:
    if not 0 <= alpha <= 1:
        raise SettingError(f"alpha={alpha}; it is the teacher's share of the loss: use 0 to 1")
    return alpha


def _check_teacher(given: Any) -> Any:
    if not callable(given):
        raise SettingError(f"teacher={given!r} is neither an nn.Module nor a function that makes one")
    return given


class Distilled(Supervised):
    """The objective of `distillation`: the teacher sees each batch as the student does, and only training uses it.

    ``loss`` is the hard part, a loss over classes, and what evaluations report unless there is a ``val_loss``. The
    teacher runs in evaluation mode without gradients, after the student and under the same autocast; then its modules
    have the modes that they had. It is no part of the model: neither trained nor saved. It is made, by its own seed,
    and moved to the inputs' device when it is first needed. Cost: one forward pass of the teacher for each microbatch,
    and its memory.

    >>> objective = Distilled(loss=cross_entropy, teacher=lambda: nn.Linear(4, 3), temperature=2.0)
    >>> total, count = objective(nn.Linear(4, 3), (torch.ones(2, 4), torch.tensor([0, 2])))
    >>> total.requires_grad, count
    (True, 2)
    """

    teacher: Annotated[Callable[..., Any], AfterValidator(_check_teacher)]
    """A trained `nn.Module`, or a function without arguments that returns one."""
    temperature: float = Field(default=3.0, gt=0)
    """T: what both models' logits are divided by."""
    alpha: float = Field(default=0.7, ge=0, le=1)
    """The teacher's share of the loss."""

    _made: nn.Module | None = PrivateAttr(default=None)
    _device: torch.device | None = PrivateAttr(default=None)
    _student: weakref.ref[nn.Module] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check_hard(self) -> Distilled:
        if not of_classes(self.loss) or class_weights(self.loss) is not None:
            fault = "weighs its classes" if of_classes(self.loss) else "is not known to be over classes"
            raise SettingError(
                f"distillation needs a loss over classes that counts rows, but {describe_callable(self.loss)} {fault}; "
                "use cross_entropy, label_smoothing, focal_loss, z_loss or torch's cross entropy without weights"
            )
        return self

    def __call__(self, model: nn.Module, batch: Batch, /) -> tuple[Tensor, Tensor | float]:
        """Return the sum and the count of the distilled loss on one batch."""
        *inputs, target = batch
        output = model(*inputs)
        hard, count = sum_and_count(self.loss, output, target, batch)
        teacher = self._teacher_for(model, inputs)
        with evaluation_mode(teacher):  # after the student, whose random draws it so cannot move
            known = teacher(*inputs)
        if not (isinstance(known, Tensor) and isinstance(output, Tensor) and known.shape == output.shape):
            raise SettingError(
                f"the student gives {_shape(output)} and the teacher {_shape(known)}; both must give scores of the "
                "same classes for the same inputs"
            )
        label = None if target.is_floating_point() else ignored(self.loss)
        soft = softened_divergence(
            classes_last(self.loss, output),
            classes_last(self.loss, known),
            temperature=self.temperature,
            counted=counted_rows(target, label),
        )
        return self.alpha * soft + (1 - self.alpha) * hard, count

    def measures_its_loss(self) -> bool:
        """Whether training minimizes what evaluations report: it does not, since they leave the teacher out."""
        return False

    def fingerprint(self) -> str:
        """Return a digest of all that the teacher's ``state_dict`` holds: that of another teacher is another one.

        >>> Distilled(loss=cross_entropy, teacher=lambda: nn.Linear(2, 2)).fingerprint() == (
        ...     Distilled(loss=cross_entropy, teacher=lambda: nn.Linear(2, 3)).fingerprint()
        ... )
        False
        """
        digest = hashlib.sha256()
        for name, value in self._teacher().state_dict().items():
            digest.update(f"{name} {_kind(value)}\n".encode())
            if isinstance(value, Tensor):
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _teacher_for(self, model: nn.Module, inputs: Any) -> nn.Module:
        """Return the teacher, on the device of ``inputs``."""
        teacher = self._teacher()
        if self._student is None or self._student() is not model:
            _refuse_shared(teacher, model)
            self._student = weakref.ref(model)
        device = next((tensor.device for tensor in tensors_of(inputs)), None)
        if device != self._device and device is not None:
            teacher.to(device)
            self._device = device
        return teacher

    def _teacher(self) -> nn.Module:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> nn.Module:
        if isinstance(self.teacher, nn.Module):
            made: Any = self.teacher
        else:
            # whatever making it draws, nothing else is drawn differently; and it may be made by training it
            with seeded(0, "teacher"), torch.enable_grad(), torch.autocast("cpu", enabled=False):
                with torch.autocast("cuda", enabled=False):
                    made = self.teacher()
        if not isinstance(made, nn.Module):
            raise SettingError(f"teacher made a {type(made).__name__}; it must make a torch.nn.Module")
        return made


def _refuse_shared(teacher: nn.Module, model: nn.Module) -> None:
    own = {id(p) for p in model.parameters()}
    shared = [name for name, p in teacher.named_parameters() if id(p) in own]
    if shared:
        raise SettingError(
            f"the teacher shares {shared[0]!r} with the model, so it would change as the student learns; give a copy "
            "of it: copy.deepcopy(model)"
        )


def _kind(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


def _shape(given: Any) -> str:
    return f"scores of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
