"""`resume`: the recipe made again, what has changed named, the newest intact checkpoint restored."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lehr.base.errors import LehrWarning, SettingError
from lehr.base.settings import override, plain
from lehr.checkpoint.store import CheckpointStore
from lehr.run.environment import differences
from lehr.run.folder import RunFolder
from lehr.run.origin import Origin, fingerprint, load, source_hashes
from lehr.run.pace import resolve_schedule, run_length
from lehr.run.recipe import Recipe
from lehr.run.result import RunResult
from lehr.run.trainer import MakeTracker, Trainer

__all__ = ["changed_data", "changed_fields", "made_again", "resume"]


def resume(
    run: str | Path,
    *,
    recipe: Recipe | None = None,
    overrides: Sequence[str] = (),
    allow_changes: bool = False,
    trackers: Sequence[MakeTracker] = (),
    yardsticks: bool = False,
) -> RunResult:
    """Go on with a run where its newest intact checkpoint ends; returns the result.

    The recipe is made again from where it came from; one of an interactive session is given as ``recipe``. What has
    changed since is named and refused, unless ``allow_changes``; ``overrides`` are changes that were asked for.
    """
    folder = RunFolder(Path(run))
    saved = folder.read_recipe()
    made, origin = made_again(folder, saved, recipe)
    unasked = changed_fields(saved["fields"], plain(made))
    unasked += changed_files(saved["hashes"], source_hashes(made, origin))
    changed = override(made, overrides)
    asked = changed_fields(plain(made), plain(changed))
    if unasked and not allow_changes:
        _refuse(folder, unasked)
    store = CheckpointStore(folder.checkpoints)
    there = store.paths()
    found = store.newest()
    if found and changed.weights != made.weights:
        raise SettingError("weights has no effect on a run that has a checkpoint; start a new run from them")
    for line in found.passed_over if found else ():
        warnings.warn(f"passed over a damaged checkpoint: {line}", LehrWarning, stacklevel=2)
    origin = Origin(
        kind=origin.kind,
        place=origin.place,
        function=origin.function,
        overrides=(*origin.overrides, *overrides),
    )
    trainer = Trainer(changed, run_dir=run, origin=origin, trackers=trackers, yardsticks=yardsticks)
    data = changed_data(saved["facts"], trainer.assembly.splits.facts)
    if data and not (allow_changes or any(line.startswith("data.") for line in asked)):
        _refuse(folder, data)
    teacher = changed_teacher(saved.get("objective"), fingerprint(changed))
    if teacher and not (allow_changes or any(line.startswith("objective") for line in asked)):
        _refuse(folder, teacher)
    if found and found.step > trainer.loop.total_steps:
        raise SettingError(
            f"{folder} is at step {found.step} already, past the {trainer.loop.total_steps} steps asked for; give "
            f"steps={found.step} or more"
        )
    if found and all(saved["fields"][name] == plain(getattr(changed, name)) for name in ("optim", "schedule")):
        _warn_of_a_jump(changed, saved["total_steps"], trainer, found.step)
    machine = differences(found.manifest["note"], trainer.assembly.environment) if found else []
    for line in machine:
        warnings.warn(f"the last bits may differ from the first part of the run: {line}", LehrWarning, stacklevel=2)
    trainer.continue_from(found, [*unasked, *asked, *data, *teacher, *machine], among=there)
    return trainer.fit()


def made_again(folder: RunFolder, saved: Mapping[str, Any], given: Recipe | None) -> tuple[Recipe, Origin]:
    """Return the recipe of a run, from where it came from or as ``given``."""
    source, overrides = saved["source"], tuple(saved["overrides"])
    origin = Origin(kind=source["kind"], place=source["place"], function=source["function"], overrides=overrides)
    if given is not None:
        return given, origin
    if origin.kind == "session":
        raise SettingError(
            f"the recipe of {folder} was made in an interactive session or a local function, so it cannot be made "
            f"again from here; resume it there with lehr.resume({str(folder)!r}, recipe=...)"
        )
    return load(origin.text(), overrides)


def changed_fields(then: Any, now: Any, path: str = "") -> list[str]:
    """Return a line for each plain value that is not what it was.

    >>> changed_fields({"optim": {"lr": 0.1}}, {"optim": {"lr": 0.2}})
    ['optim.lr: 0.1 then, 0.2 now']
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        lines = []
        for name in [*then, *(n for n in now if n not in then)]:
            inner = f"{path}.{name}" if path and not path.endswith(" ") else f"{path}{name}"
            lines += changed_fields(then.get(name, "nothing"), now.get(name, "nothing"), inner)
        return lines
    return [] if then == now else [f"{path}: {then} then, {now} now"]


def changed_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each fact about the data that was recorded and is not what it was.

    >>> changed_data({"train_samples": 9}, {"train_samples": 8, "train_sha256": "7e7f"})
    ['data: train_samples: 9 then, 8 now']
    """
    return changed_fields(then, {name: plain(fact) for name, fact in now.items() if name in then}, "data: ")


def changed_teacher(then: str | None, now: str | None) -> list[str]:
    """Return a line when the objective learns from other weights than those that were recorded.

    >>> changed_teacher("7e7f", "7e7f"), changed_teacher(None, "7e7f")
    ([], [])
    """
    return ["objective: the teacher has other weights than then"] if then and now and then != now else []


def _warn_of_a_jump(recipe: Recipe, then: int, trainer: Trainer, step: int) -> None:
    """Say what the rate was and will be, where another length of the run has changed the schedule behind it."""
    loop = trainer.loop
    run = run_length(then, loop.loader, trainer.assembly.splits.facts)
    before, after = resolve_schedule(recipe, run), loop.update.schedule
    if before(step - 1) != after(step - 1):
        base = loop.update.rates[0][1]
        warnings.warn(
            f"the run was to have {then} steps and now has {loop.total_steps}, and its schedule follows: the rate was "
            f"{base * before(step - 1):.3g} in step {step} and goes on with {base * after(step):.3g}",
            LehrWarning,
            stacklevel=3,
        )


def changed_files(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a line for each source file whose content is not what it was."""
    lines = [f"{file} has been edited" for file, digest in then.items() if file in now and now[file] != digest]
    return lines + [f"{file} is no longer used" for file in then if file not in now]


def _refuse(folder: RunFolder, lines: Sequence[str]) -> None:
    raise SettingError(
        f"{folder} was trained with other code, settings or data:\n  "
        + "\n  ".join(lines)
        + "\nPut them back, or accept them with --allow-changes (from Python: allow_changes=True)"
    )
