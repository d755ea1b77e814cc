"""Which levers make a recipe faster: each is tried beside what was kept before it, and then all of them together."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lehr.base.errors import LehrError, SettingError
from lehr.levers.lever import PHASES, Changes, Lever, NotHere, Settings, Setup
from lehr.levers.table import LEVERS
from lehr.measurement.compare import WINDOW_SECONDS, Comparison, compare, measure
from lehr.measurement.intervals import CONFIDENCE, Interval, least_pairs
from lehr.measurement.phases import Phases
from lehr.measurement.worker import Source, Worker
from lehr.run.recipe import Recipe

__all__ = ["SpeedReport", "Tried", "speed"]

BUDGET = 300.0
"""Seconds for everything, if nothing else is asked for."""
SCREENING = 0.7
"""Share of the budget for the levers one by one; the rest is for all of them together, measured anew."""
PROFILE_SECONDS = 3.0
COMPILING = 5.0
"""A lever that compiles gets so many times the time of another one."""
AGREES = 0.02
"""Losses on the same steps that are worse by no more than this share agree."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What became of a lever, or of one of its settings."""

    name: str
    settings: Settings = ()
    """What it set; nothing where it cannot apply."""
    kept: bool = False
    reason: str
    changes: Changes = "nothing"
    """What it may change in what is computed."""
    ratio: Interval | None = None
    """How many times as fast steps are with it, beside what was kept before it."""
    loss_delta: float | None = None
    """By which share the training losses on the same steps are higher with it."""
    warm_up_seconds: float | None = None
    """What its first steps take beyond the others: compilation, mostly."""
    repaid_after: int | None = None

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        ratio: dict[str, float | None] = {"ratio": None, "low": None, "high": None}
        if self.ratio is not None:
            ratio = {"ratio": self.ratio.median, "low": self.ratio.low, "high": self.ratio.high}
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("ratio", "settings")}
        return rest | ratio | {"settings": list(self.settings)}


@dataclass(frozen=True, kw_only=True)
class SpeedReport:
    """What `speed` found: where the time goes, each lever, and what those that were kept come to together."""

    phases: Phases
    levers: tuple[Tried, ...]
    total: Comparison | None
    """The patch against the recipe as it is, measured anew; None where nothing was kept."""
    patch: Settings
    """What to set: nothing where the total proved no gain, or the loss did not agree."""
    reason: str
    """Why the patch is what it is."""
    seconds: float
    untested: Mapping[str, str] = field(default_factory=dict)
    """Levers that nobody has run on their devices yet, and where."""

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        total = self.total.plain() if self.total is not None else {"ratio": None, "low": None, "high": None}
        return {
            "baseline": dataclasses.asdict(self.phases),
            "levers": [tried.plain() for tried in self.levers],
            "total": total | {"loss_delta": total.get("loss_delta")},
            "patch": list(self.patch),
            "reason": self.reason,
            "untested": dict(self.untested),
            "seconds": self.seconds,
        }


def speed(
    recipe: str | Recipe,
    *,
    overrides: Sequence[str] = (),
    budget: float = BUDGET,
    levers: Iterable[str] = tuple(LEVERS),
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> SpeedReport:
    """Find what makes the recipe's steps faster on this machine, in about ``budget`` seconds.

    The step is taken apart first. Then levers are tried, those first that may shorten what takes most: windows of steps
    with the lever and without it in turn, each side in a process of its own. One is kept if it is faster for sure, by
    intervals whose confidence is that of 99 % for all of them together, and if its training losses on the same steps
    are not worse by more than `AGREES`. What was kept is the other side for those that follow. At last the recipe and
    the patch are measured against one another anew, and only that counts as the total.

    Raises SettingError where the budget proves nothing.
    """
    search = _Search(Source(recipe, tuple(overrides)), [LEVERS[name].make() for name in levers], budget, say)
    with tempfile.TemporaryDirectory(prefix="lehr-speed-") as folder:
        return search.run(Path(folder))


@dataclass
class _Search:
    """The levers, tried one after the other."""

    source: Source
    levers: list[Lever]
    budget: float
    say: Callable[[str], None]
    current: Worker = field(init=False)
    """The recipe with what was kept."""
    patch: list[str] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)

    def run(self, folder: Path) -> SpeedReport:
        """Take the step apart, try the levers, and measure what was kept."""
        self.started = time.perf_counter()
        self.current = Worker("the recipe", self.source, folder / "0")
        start_seconds = self.seconds
        try:
            setup, phases = self.current.setup(), self.current.phases(PROFILE_SECONDS)
            self.say(_shares(phases))
            trials = self.trials(setup, phases)
            confidence = 1 - (1 - CONFIDENCE) / max(1, len(trials))
            # to begin a process, and as many windows on both sides as an interval needs, with some room
            least = start_seconds + 3 * least_pairs(confidence) * max(WINDOW_SECONDS, phases.total)
            for place, (lever, settings) in enumerate(trials):
                weights = [_weight(other) for other, _ in trials[place:]]
                left = SCREENING * self.budget - self.seconds
                share = max(left * weights[0] / sum(weights), least)
                obstacle = self.obstacle(lever, settings, setup)
                if left < least or obstacle:
                    reason = f"not tried: {obstacle or 'the budget was used up'}"
                    tried = Tried(name=lever.name, settings=settings, reason=reason)
                else:
                    tried = self.attempt(lever, settings, folder / str(place + 1), share, confidence, setup.steps)
                self.tried.append(tried)
                setup = self.current.setup() if tried.kept else setup
                self.say(f"{'kept' if tried.kept else 'dropped':>7}  {' '.join(settings)}: {tried.reason}")
        finally:
            self.current.close()
        if trials and not any(tried.ratio for tried in self.tried):
            causes = "\n".join(f"  {' '.join(t.settings)}: {t.reason}" for t in self.tried if t.settings)
            raise SettingError(
                f"nothing could be measured within {self.budget:.0f} s; give more with --budget\n{causes}"
            )
        return self.report(phases)

    @property
    def seconds(self) -> float:
        """What was used of the budget."""
        return time.perf_counter() - self.started

    def trials(self, setup: Setup, phases: Phases) -> list[tuple[Lever, Settings]]:
        """Return what to try, the most promising first; note the levers that do not apply, and why."""
        found = []
        for lever in self.levers:
            try:
                found += [(lever, settings) for settings in lever.options(setup)]
            except NotHere as error:
                self.tried.append(Tried(name=lever.name, reason=str(error)))
        # the table's order where it is equal; what compiles is tried late, since each of it costs the time of several
        return sorted(found, key=lambda trial: -promise(trial[0], phases) / _weight(trial[0]))

    def obstacle(self, lever: Lever, settings: Settings, setup: Setup) -> str | None:
        """Return why a setting is of no use any more with what was kept before it."""
        try:
            return None if settings in lever.options(setup) else f"{' '.join(self.patch)} takes its place"
        except NotHere as error:
            return str(error)

    def attempt(
        self, lever: Lever, settings: Settings, folder: Path, seconds: float, confidence: float, steps: int
    ) -> Tried:
        """Measure one setting beside what was kept; whatever goes wrong with it costs only this."""
        source = dataclasses.replace(self.source, overrides=(*self.source.overrides, *merged(self.patch, settings)))
        made = Tried(name=lever.name, settings=settings, reason="", changes=lever.changes)
        started, candidate = time.perf_counter(), None
        try:
            self.current.restart()  # both begin with their first step: what a step takes may change over a run
            # what it is given is planned to be used up, so it is ended only well beyond that
            candidate = Worker(" ".join(settings), source, folder, seconds=2 * seconds)
            left = seconds - (time.perf_counter() - started)
            found = compare(self.current, candidate, budget=left, confidence=confidence, validate=False)
            made = _judged(made, found, lever, steps)
            if made.kept:
                candidate.take_your_time()
                candidate, self.current = self.current, candidate
                self.patch = merged(self.patch, settings)
        except LehrError as error:
            if not self.current.alive:
                raise
            made = dataclasses.replace(made, reason=_first_line(error))
        finally:
            if candidate is not None:
                candidate.close()
        return made

    def report(self, phases: Phases) -> SpeedReport:
        """Measure the patch anew, and say what it comes to."""
        total, patch, reason = None, tuple(self.patch), "no lever was proved to be faster"
        if patch:
            self.say(f"measuring all of it anew: {' '.join(patch)}")
            other = dataclasses.replace(self.source, overrides=(*self.source.overrides, *patch))
            total = measure(
                self.source, other, budget=max(self.budget - self.seconds, 1.0), names=("the recipe", "the patch")
            )
            patch, reason = _final(total, patch)
        used = {tried.name for tried in self.tried if tried.settings}
        untested = {lever.name: lever.untested for lever in self.levers if lever.untested and lever.name not in used}
        return SpeedReport(
            phases=phases,
            levers=tuple(self.tried),
            total=total,
            patch=patch,
            reason=reason,
            seconds=self.seconds,
            untested=untested,
        )


def merged(patch: Sequence[str], settings: Settings) -> list[str]:
    """Return a patch with more settings, which take the place of earlier ones of the same fields.

    >>> merged(["threads=1", "step=eager", "compile=true"], ("compile=false", "step=whole"))
    ['threads=1', 'compile=false', 'step=whole']
    """
    fields = {setting.partition("=")[0] for setting in settings}
    return [*(setting for setting in patch if setting.partition("=")[0] not in fields), *settings]


def promise(lever: Lever, phases: Phases) -> float:
    """Return the share of a step that a lever may shorten."""
    return sum(phases.share(phase) for phase in lever.shortens)


def _weight(lever: Lever) -> float:
    """Return how many times the time of a plain trial one of this lever takes."""
    return COMPILING if lever.compiles else 1.0


def _judged(made: Tried, found: Comparison, lever: Lever, steps: int) -> Tried:
    """Say whether a lever is kept, for a run of so many steps."""
    loss = found.train_loss_delta
    worse = loss is not None and loss > AGREES and lever.changes != "order"  # with other batches they cannot agree
    late = bool(steps and found.repaid_after and found.repaid_after > steps)
    kept = found.verdict == "faster" and not worse and not late
    shown = f"{found.ratio.median:.3f} ({found.ratio.low:.3f} to {found.ratio.high:.3f})"
    reason = f"{found.verdict}: {shown}"
    if worse:
        reason = f"another loss: {loss:+.1%} on the same steps ({reason})"
    elif found.verdict == "faster" and late:
        reason = f"repaid after {found.repaid_after:,} steps only, and the run has {steps:,} ({reason})"
    elif kept and found.repaid_after:
        reason += f", repaid after {found.repaid_after:,} steps"
    return dataclasses.replace(
        made,
        kept=kept,
        reason=reason,
        ratio=found.ratio,
        loss_delta=loss,
        warm_up_seconds=found.b.warm_up_seconds,
        repaid_after=found.repaid_after,
    )


def _final(total: Comparison, patch: Settings) -> tuple[Settings, str]:
    """Return the patch if it is faster for sure at a loss that agrees, and why or why not."""
    loss = total.loss_delta if total.loss_delta is not None else total.train_loss_delta
    if total.verdict != "faster":
        return (), "measured anew, all of it together gives no evidence of a gain"
    if loss is not None and loss > AGREES:
        return (), f"measured anew, the loss is higher by {loss:.1%} after {total.steps} steps"
    unknown = "; no loss could be compared: validation data would allow it" if loss is None else ""
    return patch, f"{total.ratio.median:.2f} times as fast, measured anew{unknown}"


def _shares(phases: Phases) -> str:
    shares = ", ".join(f"{name} {phases.share(name):.0%}" for name in (*PHASES[:-1], "rest"))
    return f"a step takes {1000 * phases.total:.2f} ms: {shares}; between operations {phases.share('python'):.0%}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
