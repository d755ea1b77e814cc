"""What happens when an update was withheld, and how a failure is explained."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from pathlib import Path
from typing import Any, Literal

from torch import nn

from lehr.base.errors import CheckpointError, LehrError, LehrWarning, NonFiniteError, RunError, StopRun
from lehr.base.protocols import Batch, Loader, Record
from lehr.dist.collectives import first_given
from lehr.losses.objective import Objective
from lehr.training.blame import find_nonfinite
from lehr.training.clock import Clock
from lehr.training.preflight import explain
from lehr.training.steps.eager import EagerStep, Outcome
from lehr.training.steps.latch import Latch
from lehr.training.window import Window

__all__ = ["Trouble"]


@dataclasses.dataclass(kw_only=True)
class Trouble:
    """The policy for withheld updates, and the search for their cause."""

    nonfinite: Literal["stop", "skip"]
    max_in_a_row: int
    model: nn.Module
    """The model itself, not its wrapper: the search calls it with hooks."""
    objective: Objective
    loader: Loader
    update: EagerStep
    evidence: Path | None
    """Where ``failure.json`` is written."""
    _latch: Latch | None = None
    _found: Record = dataclasses.field(default_factory=dict)

    def withheld(self, outcome: Outcome, batch: Batch, clock: Clock) -> Record:
        """Count a withheld update and return a record of it; raise, with nothing counted, when the run is to end."""
        if outcome.withheld == "nonfinite" and self.nonfinite == "stop":
            raise NonFiniteError(self._nonfinite(outcome, batch, clock.step))
        if clock.withheld_in_a_row == self.max_in_a_row:
            raise RunError(
                f"{clock.withheld_in_a_row + 1} updates in a row were withheld ({outcome.withheld}) at step "
                f"{clock.step}; at most {self.max_in_a_row} are allowed (max_skipped). Look at the data and the "
                "learning rate"
            )
        clock.withheld_in_a_row += 1
        if outcome.withheld == "empty":
            clock.empty += 1
            if clock.empty == 1:
                warnings.warn(
                    f"step {clock.step}: the batch has nothing that counts (every target is ignored); its update is "
                    "skipped, and so are later ones of this kind",
                    LehrWarning,
                    stacklevel=2,
                )
        else:
            clock.skipped += 1
        return {"step": clock.step, "split": "train", "loss": outcome.total, "withheld": outcome.withheld}

    def _nonfinite(self, outcome: Outcome, batch: Batch, step: int) -> str:
        value = "loss" if not math.isfinite(outcome.total) else "gradient norm"
        number = outcome.total if value == "loss" else outcome.norm
        with self.update.buffers.kept():
            blame = find_nonfinite(
                self.model,
                self.objective,
                batch,
                ids=self.loader.ids,
                accumulate=self.update.accumulate,
                noise=self.update.noise,
                step=step,
                device=self.update.device,
                autocast=self.update.autocast,
            )
        blame = first_given(blame if blame.kind != "unknown" else None, self.update.ranks) or blame
        self._found = {"value": value, "number": repr(number)} | dataclasses.asdict(blame)
        if blame.kind == "parameter":
            return (
                f"the {value} is {number} at step {step}: {blame.sentence()}, from the start or since an earlier "
                "update. Lower the learning rate or mend the model, and start again"
            )
        return (
            f"the {value} is {number} at step {step}: {blame.sentence()}. The weights are as they were before this "
            "step. Lower the learning rate, clip the gradients or mend the data; --set nonfinite=skip leaves such "
            "steps out"
        )

    def rewound(self, clock: Clock, window: Window, positions: list[Any]) -> bool:
        """Look at the latch; if it has closed, go back to the step that closed it and read every step from there.

        ``positions`` are the loader's, before each of the pending steps.
        """
        latch = self.update.latch
        if latch is None:
            if self._latch is not None:  # the step in question has been looked at: go on without reading
                self.update.latch, self._latch = self._latch, None
            return False
        at = latch.read()
        if at is None:
            return False
        steps = clock.step - at
        window.take_back(steps, clock)
        self.loader.load_state_dict(positions[len(positions) - steps])
        self._latch = latch
        self.update.read_every_step()
        return True

    def explained(self, error: Exception, batch: Batch) -> Exception:
        """Return the error to raise for ``error``: one that names the samples where the data was at fault."""
        if isinstance(error, LehrError):
            return error
        if isinstance(error, StopRun):
            return RunError("a method raised StopRun in the middle of a step; raise it in step_end, or in an Observer")
        with self.update.buffers.kept():
            return explain(self.model, self.objective, batch, self.loader.ids) or error

    def note(self, error: Exception, step: int) -> None:
        """Write what is known about a failure to the run folder."""
        if self.evidence is not None:
            known = {"step": step, "error": type(error).__name__, "message": str(error)} | self._found
            try:
                self.evidence.write_text(json.dumps(known, indent=1, default=str) + "\n")
            except OSError as unwritten:
                error.add_note(f"{self.evidence} could not be written: {unwritten.strerror or unwritten}")

    def left_healthy(self, error: Exception) -> bool:
        """Whether the state before the failed step is worth a checkpoint: weights that are not finite are not."""
        return self._found.get("kind") != "parameter" and not isinstance(error, CheckpointError)
