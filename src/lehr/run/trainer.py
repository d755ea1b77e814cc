"""`Trainer` and `train`: a run from its folder to its result, with everything put back behind it."""

from __future__ import annotations

import contextlib
import json
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lehr.base import seeds
from lehr.base.errors import CheckpointError, LehrError, SettingError
from lehr.base.protocols import Batch, Tracker
from lehr.base.settings import override, plain
from lehr.checkpoint.store import Found
from lehr.dist.collectives import from_main
from lehr.dist.ranks import Ranks, join
from lehr.reporting.report import write_report
from lehr.run.assemble import Assembly, assemble, open_trackers, pick_device
from lehr.run.backends import backends
from lehr.run.finish import finish
from lehr.run.folder import RunFolder, claim_new, give_up
from lehr.run.origin import Origin, fingerprint, from_function, load, source_hashes
from lehr.run.recipe import Recipe
from lehr.run.result import RunResult
from lehr.run.signals import stop_on_signals
from lehr.track.guard import Guarded
from lehr.training.profiling import ProfiledSteps

__all__ = ["MakeTracker", "Trainer", "train"]

MakeTracker = Callable[[int], Tracker]
"""total steps -> a tracker beside those of the run folder, such as a progress display."""


@dataclass(frozen=True)
class Continued:
    """A run that is gone on with: from which checkpoint, and what was changed."""

    found: Found | None
    changes: tuple[str, ...]
    among: tuple[Path, ...]
    """The checkpoints that were there when it was chosen."""


class Trainer:
    """A run that is ready to start. `fit` runs it; or run it in a loop of your own::

        trainer = lehr.Trainer(recipe)
        for batch in trainer.batches():
            trainer.step(batch)
        print(trainer.finish().val_loss)

    Between `batches` being entered and left the global random generators, signal handlers and the number of threads
    are the run's; then they are what they were.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        run_dir: str | Path | None = None,
        origin: Origin = Origin(kind="session"),
        trackers: Sequence[MakeTracker] = (),
        yardsticks: bool = False,
        profile: bool = False,
    ) -> None:
        self.ranks = join(pick_device(recipe.device, Ranks()).type)
        name = origin.place.rpartition(".")[2] if origin.kind == "module" else Path(origin.place or "run").stem
        claimed = claim_new(name.replace("_", "-")) if run_dir is None and self.ranks.main else None
        self.folder = RunFolder(Path(from_main(str(claimed or run_dir), self.ranks)))
        self.recipe, self.origin = recipe, origin
        self._trackers, self._yardsticks = trackers, yardsticks
        self._continued: Continued | None = None
        with contextlib.ExitStack() as undo:
            if claimed is not None:  # it is left as nothing where this fails, and by a Trainer that never runs
                undo.callback(weakref.finalize(self, give_up, self.folder.path))
            with backends(recipe):
                device = pick_device(recipe.device, self.ranks).type
                observers = [ProfiledSteps(self.folder.profile, device=device)] if profile and self.ranks.main else []
                self.assembly: Assembly = assemble(recipe, ranks=self.ranks, folder=self.folder, observers=observers)
            undo.pop_all()
        self.loop = self.assembly.loop
        self.model = self.assembly.model

    def continue_from(self, found: Found | None, changes: Sequence[str], *, among: Sequence[Path]) -> None:
        """Go on in a folder that holds a run: from a checkpoint, or from the beginning when there was none yet.

        ``among`` are the checkpoints that it was chosen from; should there be others when the folder is locked, another
        process has gone on with the run meanwhile, and this is refused.
        """
        self._continued = Continued(found, tuple(changes), tuple(among))

    def batches(self) -> Iterator[Batch]:
        """Yield the batches to call `step` with; what is due happens inside `step`."""
        with self._session():
            yield from self.loop.batches()

    def step(self, batch: Batch) -> None:
        """Make one update from ``batch``, and record, evaluate and save where that is due."""
        self.loop.step(batch)

    def stop(self, reason: str) -> None:
        """Ask for a stop at the end of this step: the run is then saved and ends as if by itself."""
        self.loop.listeners.ask_to_stop(reason)

    def fit(self) -> RunResult:
        """Run to the end; returns the result."""
        with self._session():
            self.loop.fit()
            return self.finish()

    def finish(self) -> RunResult:
        """Validate on everything, write result.json and the report, and return the result."""
        with backends(self.recipe), seeds.isolated_global_generators():
            return finish(self.assembly, self.folder, self.ranks, yardsticks=self._yardsticks)

    @contextlib.contextmanager
    def _session(self) -> Iterator[None]:
        if self.loop.clock.ticked is not None:
            raise SettingError(
                f"this Trainer has run already, in {self.folder}; go on with the run by lehr.resume, or make "
                "another Trainer"
            )
        with contextlib.ExitStack() as stack:
            stack.enter_context(backends(self.recipe))
            stack.enter_context(seeds.isolated_global_generators())
            if self._continued is None:
                self.assembly.saver.rehearse()
            if self.ranks.main:
                if self._continued is None:
                    self.folder.create()
                stack.enter_context(self.folder.locked())
                if self._continued is not None:
                    self._refuse_if_overtaken(self._continued)
                else:
                    self._describe()
                    if self.assembly.weights_line is not None:
                        print(f"weights: {self.assembly.weights_line}", file=sys.stderr)
                stack.push(self._report_failure)
            trackers = open_trackers(self.assembly, self.folder, self.ranks, resumed_at=self._resumed_at)
            if self.ranks.main:
                trackers += [Guarded(make(self.loop.total_steps)) for make in self._trackers]
            for tracker in trackers:
                stack.callback(tracker.close)
            stack.callback(self.assembly.loop.loader.close)
            self.loop.trackers = trackers
            if self._continued is not None:
                self._restore(self._continued.found)
                if self.ranks.main:  # not before: a refusal leaves the description as it was
                    self._describe()
            if self.ranks.main:
                self.assembly.saver.clean()
            stack.enter_context(stop_on_signals(self.stop))
            yield

    def _report_failure(self, kind: type[BaseException] | None, _error: Any, _trace: Any) -> None:
        """Write the report of a run that failed in a step; what went wrong with that is no news beside the failure."""
        if kind is not None and self.folder.failure.exists():
            with contextlib.suppress(OSError, LehrError):
                write_report([self.folder.path], self.folder.report)

    @property
    def _resumed_at(self) -> int:
        return self._continued.found.step if self._continued and self._continued.found else 0

    def _refuse_if_overtaken(self, continued: Continued) -> None:
        store = self.assembly.saver.store
        if store is not None and tuple(store.paths()) != continued.among:
            raise SettingError(
                f"another process has gone on with {self.folder} since this one chose its checkpoint; resume it again"
            )

    def _restore(self, found: Found | None) -> None:
        saver = self.assembly.saver
        if found is None:  # stopped before its first checkpoint: from the beginning, with an empty record
            if "records" in saver.parts:
                saver.parts["records"].load_state_dict({"bytes": 0})
            return
        try:
            saver.restore(found)
        except CheckpointError as error:  # it does not fit the recipe, and the run is as it was
            raise SettingError(str(error)) from error
        self.loop.saved_at = found.step

    def _weights_before(self) -> str | None:
        """Return what the run was started from, where an earlier session loaded it."""
        return self.folder.read_recipe().get("weights") if self._continued is not None else None

    def _describe(self) -> None:
        """Write recipe.json and environment.json."""
        recipe = {
            "source": {
                "kind": self.origin.kind,
                "place": self.origin.place,
                "function": self.origin.function,
            },
            "overrides": list(self.origin.overrides),
            "fields": plain(self.recipe),
            "facts": dict(self.assembly.splits.facts),
            "hashes": source_hashes(self.recipe, self.origin),
            "objective": fingerprint(self.recipe),
            "total_steps": self.assembly.run.steps,
            "steps_per_epoch": self.assembly.run.steps_per_epoch,
            "tokens_per_step": self.assembly.run.tokens_per_step,
            "weights": self.assembly.weights_line or self._weights_before(),
        }
        earlier: list[Any] = []
        if self.folder.environment.is_file():
            earlier = json.loads(self.folder.environment.read_bytes()).pop("sessions", [])
        session = self.assembly.environment | {
            "resumed_at": self._resumed_at,
            "changes": list(self._continued.changes) if self._continued else [],
        }
        self.folder.write_json(self.folder.environment, self.assembly.environment | {"sessions": [*earlier, session]})
        self.folder.write_json(self.folder.recipe, recipe)


def train(
    recipe: Recipe | Callable[[], Recipe] | str,
    *,
    run_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    trackers: Sequence[MakeTracker] = (),
    yardsticks: bool = False,
    profile: bool = False,
) -> RunResult:
    """Train ``recipe`` in a new run folder; returns the result.

    ``recipe`` is a `Recipe`, a function that returns one, or ``"file.py:function"``. With the latter two, another
    process can make it again, as ``lehr resume`` does. ``profile`` writes a trace of some steps to the run folder.
    """
    if isinstance(recipe, str):
        made, origin = load(recipe, overrides)
    elif isinstance(recipe, Recipe):
        made, origin = override(recipe, overrides), Origin(kind="session", overrides=tuple(overrides))
    else:
        made, origin = from_function(recipe, overrides)
    if run_dir is not None and RunFolder(Path(run_dir)).recipe.exists():
        RunFolder(Path(run_dir)).create()  # refuses, before any work is done
    return Trainer(
        made, run_dir=run_dir, origin=origin, trackers=trackers, yardsticks=yardsticks, profile=profile
    ).fit()
