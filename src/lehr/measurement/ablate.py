"""Whether each technique of a recipe helps: the recipe with and without it, over several seeds."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lehr.base.errors import LehrError, SettingError
from lehr.base.settings import Settings, override
from lehr.base.tables import did_you_mean
from lehr.losses.cross_entropy import cross_entropy
from lehr.losses.label_smoothing import label_smoothing
from lehr.measurement.intervals import Interval, mean_interval
from lehr.run.origin import load
from lehr.run.recipe import Recipe
from lehr.run.result import RunResult
from lehr.run.trainer import train
from lehr.training.methods.table import METHODS

__all__ = ["Ablated", "AblationReport", "Technique", "ablate", "offered", "techniques"]

SEEDS = 5
CONFIDENCE = 0.95
"""That the intervals of all rows hold together."""

Equal = Literal["steps", "time"]
Effect = Literal["helps", "hurts", "no evidence", "failed"]


@dataclass(frozen=True)
class Technique:
    """Something that a recipe does, or could do, and the same recipe with that changed."""

    name: str
    on: bool
    """Whether the recipe has it; then the change takes it out."""
    changed: Recipe
    prefix: str = ""
    """Of the values that are measured with it, where it keeps weights of its own."""


@dataclass(frozen=True, kw_only=True)
class Ablated:
    """What a technique is good for: the validation loss without it over that with it."""

    name: str
    on: bool
    verdict: Effect
    delta: Interval | None = None
    """Loss without the technique minus loss with it, seed by seed: above 0, it helps."""
    seconds_ratio: float | None = None
    """Seconds of training with the technique over those without it."""
    reason: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        delta: dict[str, float | None] = {"delta": None, "low": None, "high": None}
        if self.delta is not None:
            delta = {"delta": self.delta.median, "low": self.delta.low, "high": self.delta.high}
        rest = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "delta"}
        return rest | delta


@dataclass(frozen=True, kw_only=True)
class AblationReport:
    """What `ablate` found."""

    losses: tuple[float, ...]
    """Validation losses of the recipe as it is, by seed."""
    seconds: tuple[float, ...]
    rows: tuple[Ablated, ...]
    equal: Equal
    confidence: float
    offers: tuple[str, ...]
    """Techniques that the recipe does not have, and that could be tried."""

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        baseline = {"losses": list(self.losses), "seconds": list(self.seconds), "loss": statistics.mean(self.losses)}
        own = {"equal": self.equal, "confidence": self.confidence, "offers": list(self.offers)}
        return {"baseline": baseline, "rows": [row.plain() for row in self.rows]} | own

    def markdown(self, recipe: str) -> str:
        """Return the rows as a table for a card."""
        lines = [
            "| technique | loss without - with | interval | time with / without | verdict |",
            "|---|---|---|---|---|",
        ]
        for row in self.rows:
            delta = row.delta
            shown = f"{delta.median:+.4f} | {delta.low:+.4f} to {delta.high:+.4f}" if delta else "– | –"
            ratio = f"{row.seconds_ratio:.2f}" if row.seconds_ratio is not None else "–"
            lines.append(f"| {row.name} | {shown} | {ratio} | {row.verdict} |")
        told = f"{recipe}, {len(self.losses)} seeds, equal {self.equal}, {self.confidence:.0%} for all rows together"
        return "\n".join([*lines, "", f"{told}; loss {statistics.mean(self.losses):.4f} as it is."])


def ablate(
    recipe: str | Recipe,
    *,
    overrides: Sequence[str] = (),
    seeds: int = SEEDS,
    equal: Equal = "steps",
    names: Iterable[str] = (),
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> AblationReport:
    """Train the recipe with and without each of its techniques, with equal seeds, and say which of them help.

    ``names`` chooses techniques, those too that the recipe does not have (`offered`); all of the recipe's own if not
    given. With ``equal="time"`` a variant gets as many steps as fit into the recipe's seconds. Intervals are Student's,
    at a confidence that holds for all rows together. A variant that fails costs only its row.
    """
    if seeds < 2:
        raise SettingError(f"seeds={seeds} gives no interval; use at least 2, and better {SEEDS}")
    made = _comparable(load(recipe, overrides)[0] if isinstance(recipe, str) else override(recipe, overrides))
    if made.data.open().val is None:
        raise SettingError(
            "an ablation compares validation losses, and the recipe has no validation data; give Data(val=)"
        )
    chosen = _chosen(made, list(names))
    with tempfile.TemporaryDirectory(prefix="lehr-ablate-") as folder:
        search = _Ablation(made, range(made.seed, made.seed + seeds), equal, say, Path(folder))
        search.baseline()
        level = 1 - (1 - CONFIDENCE) / max(1, len(chosen))
        rows = tuple(search.row(technique, level) for technique in chosen)
    return AblationReport(
        losses=tuple(_loss_of(made, result) for result in search.results),
        seconds=tuple(result.train_seconds for result in search.results),
        rows=rows,
        equal=equal,
        confidence=CONFIDENCE,
        offers=tuple(t.name for t in offered(made)),
    )


def techniques(recipe: Recipe) -> list[Technique]:
    """Return what the recipe does that could be left out, each with the recipe without it."""
    found = []
    for place, method in enumerate(recipe.methods):
        rest = recipe.methods[:place] + recipe.methods[place + 1 :]
        prefix = getattr(method, "prefix", "")
        found.append(Technique(_name_of(method), True, _with(recipe, methods=rest), prefix))
    if type(recipe.schedule).__name__ != "Constant":
        found.append(Technique("schedule", True, _with(recipe, schedule="constant")))
    if recipe.clip is not None:
        found.append(Technique("clip", True, _with(recipe, clip=None)))
    for part, name in (("optim", "weight_decay"), ("model", "dropout")):
        settings = getattr(recipe, part)
        if isinstance(settings, Settings) and getattr(settings, name, None):
            found.append(Technique(name, True, override(recipe, [f"{part}.{name}=0"])))
    plain = _without_smoothing(recipe)
    if plain is not None:
        objective = recipe.objective.model_copy(update={"loss": plain})
        found.append(Technique("label_smoothing", True, recipe.model_copy(update={"objective": objective})))
    return found


def _without_smoothing(recipe: Recipe) -> Any:
    """Return the recipe's loss without label smoothing; None where it has none."""
    loss: Any = getattr(recipe.objective, "loss", None)
    if getattr(loss, "func", loss) is not label_smoothing:
        return None
    ignore = getattr(loss, "keywords", {}).get("ignore")
    return cross_entropy if ignore is None else functools.partial(cross_entropy, ignore=ignore)


def _comparable(recipe: Recipe) -> Recipe:
    """Return the recipe with one yardstick for all variants: a loss that is smoothed is validated without that."""
    plain = _without_smoothing(recipe)
    if plain is None or recipe.objective.val_loss is not None:
        return recipe
    return recipe.model_copy(update={"objective": recipe.objective.model_copy(update={"val_loss": plain})})


def offered(recipe: Recipe) -> list[Technique]:
    """Return the methods that the recipe does not have and that can be added as they are by default."""
    has = {_name_of(method) for method in recipe.methods}
    found = []
    for name in METHODS:
        if name not in has:
            with_it = _added(recipe, name)
            prefix = getattr(with_it.methods[-1], "prefix", "") if with_it is not None else ""
            found += [Technique(name, False, with_it, prefix)] if with_it is not None else []
    return found


def _added(recipe: Recipe, name: str) -> Recipe | None:
    try:
        method = METHODS[name].make()
        more = _with(recipe, methods=(*recipe.methods, method))
        prefix = getattr(method, "prefix", "")
        monitor = more.evaluate.monitor
        return override(more, [f"evaluate.monitor={prefix}_{monitor}"]) if prefix else more
    except (LehrError, TypeError):  # it needs settings of its own, or does not go with what is there
        return None


def _with(recipe: Recipe, **changes: Any) -> Recipe:
    """Return the recipe with changes; a monitored value that goes with what was taken out becomes the plain one."""
    given = {name: getattr(recipe, name) for name in type(recipe).model_fields} | changes
    if "methods" in changes:
        prefixes = {getattr(method, "prefix", "") for method in recipe.methods} - {
            getattr(method, "prefix", "") for method in changes["methods"]
        }
        for prefix in filter(None, prefixes):
            plain = recipe.evaluate.monitor.removeprefix(f"{prefix}_")
            given["evaluate"] = recipe.evaluate.model_copy(update={"monitor": plain})
    return Recipe(**given)


def _name_of(method: Any) -> str:
    known = {row.make: name for name, row in METHODS.items()}
    return known.get(type(method), type(method).__name__)


def _chosen(recipe: Recipe, names: list[str]) -> list[Technique]:
    own = techniques(recipe)
    if not names:
        if not own:
            raise SettingError("the recipe has no technique that could be left out; name one to try with --try")
        return own
    known = {technique.name: technique for technique in (*offered(recipe), *own)}
    for name in names:
        if name not in known:
            raise SettingError(f"unknown technique {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")
    return [known[name] for name in names]


@dataclass
class _Ablation:
    """Runs of a recipe and of its variants, seed by seed."""

    recipe: Recipe
    seeds: range
    equal: Equal
    say: Callable[[str], None]
    folder: Path
    results: list[RunResult] = field(default_factory=list)
    """Of the recipe as it is."""

    def baseline(self) -> None:
        """Train the recipe as it is."""
        self.results = list(self._runs("as it is", self.recipe))

    def row(self, technique: Technique, confidence: float) -> Ablated:
        """Train a variant, and say what its technique is good for."""
        try:
            return self._row(technique, confidence)
        except Exception as error:  # of many kinds, from a user's own code too
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            return Ablated(name=technique.name, on=technique.on, verdict="failed", reason=reason)

    def _row(self, technique: Technique, confidence: float) -> Ablated:
        variant = self._as_long(technique) if self.equal == "time" else technique.changed
        runs = list(self._runs(technique.name, variant))
        sides = [(base, run) if technique.on else (run, base) for base, run in zip(self.results, runs, strict=True)]
        recipe, without_it = (self.recipe, variant) if technique.on else (variant, self.recipe)
        deltas = [_loss_of(without_it, off) - _loss_of(recipe, on, technique.prefix) for on, off in sides]
        ratio = statistics.median(_per_step(on) / _per_step(off) for on, off in sides)
        delta = mean_interval(deltas, confidence)
        verdict: Effect = "helps" if delta.low > 0 else "hurts" if delta.high < 0 else "no evidence"
        return Ablated(
            name=technique.name,
            on=technique.on,
            verdict=verdict,
            delta=delta,
            seconds_ratio=ratio,
        )

    def _as_long(self, technique: Technique) -> Recipe:
        """Return the variant with as many steps as fit into the recipe's seconds, by a run that is not counted."""
        per_step = _per_step(self._run(technique.changed, self.seeds[0], "pilot"))
        steps = max(1, round(statistics.median(result.train_seconds for result in self.results) / per_step))
        return technique.changed.model_copy(update={"steps": steps, "epochs": None})

    def _runs(self, what: str, recipe: Recipe) -> Iterator[RunResult]:
        for seed in self.seeds:
            result = self._run(recipe, seed, what)
            loss = _loss_of(recipe, result)
            self.say(f"{what}, seed {seed}: loss {loss:.4f} after {result.step} steps, {result.train_seconds:.1f} s")
            yield result

    def _run(self, recipe: Recipe, seed: int, what: str) -> RunResult:
        place = self.folder / f"{what.replace(' ', '-')}-{seed}-{len(list(self.folder.iterdir()))}"
        result = train(recipe.model_copy(update={"seed": seed}), run_dir=place)
        if result.stopped == "preempted":  # somebody wants all of it to end, not this run
            raise KeyboardInterrupt
        return result


def _per_step(result: RunResult) -> float:
    return result.train_seconds / result.step


def _loss_of(recipe: Recipe, result: RunResult, prefix: str = "") -> float:
    """Return the validation loss of the weights of this prefix, or of those that the monitored value is of."""
    known = [getattr(method, "prefix", "") for method in recipe.methods]
    monitored = [name for name in known if name and recipe.evaluate.monitor.startswith(f"{name}_")]
    chosen = prefix or (monitored[0] if monitored else "")
    loss = result.metrics.get(f"{chosen}_loss") if chosen else result.val_loss
    if loss is None:
        raise SettingError(f"a run stopped ({result.stopped}) without a validation loss")
    return loss
