"""Two recipes in turn: real processes, false winners, known differences, and what a failing side costs."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import Mlp, recipe, records

import lehr
from lehr.base.errors import SettingError
from lehr.measurement import ArmError, Source, compare, measure
from lehr.measurement.arm import ArmState, RecipeArm, Window
from lehr.measurement.compare import Comparison, pooled
from lehr.measurement.intervals import median_interval
from lehr.measurement.worker import Worker, both

compare_module = importlib.import_module("lehr.measurement.compare")  # whose name the function has in the package

RECIPES = '''
import os, signal, time
import lehr
from helpers import recipe as small


class Later(lehr.Observer):
    """Takes a share of the step on top of it."""

    def __init__(self, share):
        self.share, self.last = share, None

    def step_end(self, place):
        now = time.perf_counter()
        if self.last is not None:
            end = now + self.share * (now - self.last)
            while time.perf_counter() < end:
                pass
        self.last = time.perf_counter()


class Break(lehr.Observer):
    def __init__(self, how, sleep=0.0):
        self.how, self.sleep = how, sleep

    def step_end(self, place):
        time.sleep(self.sleep)
        if place.step == 3:
            self.how()


def recipe():
    return small(steps=100_000)


def slow():
    return small(steps=100_000, methods=(Later(0.10),))


def sleeping():
    return small(steps=100_000, methods=(Break(lambda: None, 0.15),))


def raising():
    def how():
        raise ValueError("broken on purpose")
    return small(steps=100_000, methods=(Break(how),))


def killed():
    return small(steps=100_000, methods=(Break(lambda: os.kill(os.getpid(), signal.SIGKILL)),))
'''


@pytest.fixture
def place(tmp_path: Path) -> str:
    """A file of recipes that a process of its own can import."""
    helpers = Path(__file__).parents[1]
    text = f"import sys\nsys.path.insert(0, {str(helpers)!r})\n{RECIPES}"
    (tmp_path / "measured.py").write_text(text)
    return str(tmp_path / "measured.py")


@dataclass
class Scripted:
    """An arm whose times are given: for the arithmetic of a comparison."""

    times: Iterator[float]
    loss_of: Any = None
    total_steps: int = 10_000
    step: int = 0
    windows: list[int] = field(default_factory=list)

    def window(self, steps: int) -> Window:
        self.windows.append(steps)
        self.step += steps
        return Window(steps, steps * next(self.times))

    def state(self) -> ArmState:
        return ArmState(
            step=self.step,
            total_steps=self.total_steps,
            runs=1,
            start_seconds=1.0,
            peak_bytes=1,
            compilations=None,
            losses={10: 1.0, 20: 0.5},
        )

    def validate(self) -> float | None:
        return self.loss_of(self.step) if self.loss_of else None


def test_the_ratio_says_how_many_times_as_fast_b_is() -> None:
    a, b = Scripted(itertools.repeat(0.2)), Scripted(itertools.repeat(0.1))
    found = compare(a, b, budget=8.0)
    assert found.ratio.median == pytest.approx(2.0)
    assert found.verdict == "faster"
    assert (found.window_steps, found.pairs) == (1, 26)
    assert a.windows == b.windows, "equally many steps, the same batches"
    assert compare(b, a, budget=8.0).verdict == "slower"


def test_the_two_take_turns_within_a_window() -> None:
    a, b = Scripted(itertools.repeat(0.001)), Scripted(itertools.repeat(0.001))
    found = compare(a, b, budget=12.0)
    assert found.window_steps == 100
    assert set(a.windows[5:]) == set(b.windows[5:]) == {20}, "five turns, behind the steps of the warm-up"


def test_a_slower_start_is_told_apart_and_repaid() -> None:
    a = Scripted(itertools.repeat(0.2))
    b = Scripted(itertools.chain([30.2], itertools.repeat(0.1)))
    found = compare(a, b, budget=40.0)
    assert found.b.warm_up_seconds == pytest.approx(30.1)
    assert found.ratio.median == pytest.approx(2.0), "the start is not in the ratio"
    assert found.repaid_after == pytest.approx(301, abs=1)
    assert compare(b, a, budget=40.0).repaid_after is None


def test_a_warm_up_goes_on_while_steps_become_faster() -> None:
    falling = [0.1 * 2**i for i in range(10, 0, -1)]
    b = Scripted(itertools.chain(falling, itertools.repeat(0.1)))
    found = compare(Scripted(itertools.repeat(0.1)), b, budget=400.0)
    assert found.ratio.median == found.ratio.low == found.ratio.high == pytest.approx(1.0)
    assert found.b.warm_up_seconds == pytest.approx(sum(falling) - 0.1 * len(falling))


def test_losses_are_compared_at_equal_steps_and_at_equal_time() -> None:
    a = Scripted(itertools.repeat(0.2), loss_of=lambda step: 100.0 / step)
    b = Scripted(itertools.repeat(0.1), loss_of=lambda step: 110.0 / step)
    found = compare(a, b, budget=8.0)
    assert found.loss_delta == pytest.approx(0.1)
    assert found.a.steps_at_equal_time == found.steps
    assert found.b.steps_at_equal_time == 2 * found.steps
    assert found.b.loss_at_equal_time == pytest.approx(110.0 / (2 * found.steps))
    assert found.train_loss_delta == 0


def test_a_run_that_is_too_short_has_no_loss_at_equal_time() -> None:
    a = Scripted(itertools.repeat(0.2), loss_of=lambda step: 1.0, total_steps=40)
    b = Scripted(itertools.repeat(0.1), loss_of=lambda step: 1.0, total_steps=40)
    found = compare(a, b, budget=8.0)
    assert found.b.loss_at_equal_time is None
    assert "shorter than the measurement" in found.notes[0]


def test_a_budget_that_is_too_small_says_so() -> None:
    a, b = Scripted(itertools.repeat(0.2)), Scripted(itertools.repeat(0.2))
    with pytest.raises(SettingError, match=r"too small to prove anything.*8 pairs of steps take 3\.2 s.*--budget 7s"):
        compare(a, b, budget=1.0)


def test_the_budget_that_would_do_has_room_for_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    started = iter([0.0, 100.0])  # what the clock says before the warm-up and after it
    monkeypatch.setattr(compare_module, "time", SimpleNamespace(perf_counter=lambda: next(started)))
    a, b = Scripted(itertools.repeat(0.2)), Scripted(itertools.repeat(0.2))
    with pytest.raises(SettingError, match=r"a warm-up of 100\.0 s 0\.0 s are left.*--budget 107s"):
        compare(a, b, budget=90.0)


def test_two_recipes_in_processes_of_their_own(place: str) -> None:
    found = measure(Source(f"{place}:recipe"), Source(f"{place}:recipe", ("data.batch_size=16",)), budget=6.0)
    assert found.pairs >= 16 and found.arms == 2, "two pairs of processes"
    assert found.ratio == median_interval(found.ratios)
    assert found.a.peak_bytes > 50e6
    assert found.a.loss is not None
    assert found.b.loss is not None
    assert found.loss_delta != 0
    assert found.a.start_seconds > 0


def test_half_of_the_budget_is_left_for_another_pair_where_half_is_enough() -> None:
    warm = 5 * 0.3  # which took no time, as scripted times do
    a, b = Scripted(itertools.repeat(0.2)), Scripted(itertools.repeat(0.1))
    assert compare(a, b, budget=20.0, sparing=True).seconds == pytest.approx(10.0 + warm, abs=1.0)
    a, b = Scripted(itertools.repeat(0.2)), Scripted(itertools.repeat(0.1))
    assert compare(a, b, budget=4.5, sparing=True).seconds == pytest.approx(4.5 + warm, abs=1.0), "8 pairs take 2.4 s"


def test_the_second_pair_of_processes_is_begun_in_the_other_order(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow, begun = Source("fast"), Source("slow"), []

    @contextlib.contextmanager
    def scripted(first: Source, second: Source, names: Sequence[str]) -> Iterator[tuple[Scripted, Scripted]]:
        begun.append((first.recipe, second.recipe, tuple(names)))
        one, other = (Scripted(itertools.repeat(0.1 if source is fast else 0.2)) for source in (first, second))
        yield one, other

    monkeypatch.setattr(compare_module, "both", scripted)
    found = measure(slow, fast, budget=20.0, names=("S", "F"))
    assert begun == [("slow", "fast", ("S", "F")), ("fast", "slow", ("F", "S"))]
    assert found.ratio.low == found.ratio.high == pytest.approx(2.0), "A over B in both"
    assert found.arms == 2


def test_one_pair_has_to_be_further_ahead_than_two() -> None:
    def found() -> Comparison:
        return compare(Scripted(itertools.repeat(0.1045)), Scripted(itertools.repeat(0.1)), budget=8.0)

    assert found().verdict == "no evidence"
    both_of_them = pooled(found(), found())
    assert both_of_them.verdict == "faster"
    assert both_of_them.pairs == 2 * found().pairs


def test_what_is_repaid_follows_from_the_ratio_of_both_pairs() -> None:
    """The first pair by itself may have found no gain, or none worth a number."""
    even = compare(Scripted(itertools.repeat(0.1)), Scripted(itertools.chain([5.1], itertools.repeat(0.1))), budget=8.0)
    gained = compare(Scripted(itertools.repeat(0.2)), Scripted(itertools.repeat(0.1)), budget=60.0)
    found = pooled(even, gained)
    assert found.verdict == "faster"
    assert found.repaid_after == pytest.approx(100, abs=1), "5 s, at half a step of 0.1 s"


def test_a_budget_for_one_pair_of_processes_is_said_to_be_one(place: str) -> None:
    slow = Source(f"{place}:sleeping")
    found = measure(slow, slow, budget=6.0)
    assert found.arms == 1
    assert "one pair of processes only" in found.notes[-1]


def test_a_run_that_is_over_is_begun_anew(tmp_path: Path) -> None:

    arm = RecipeArm(recipe(steps=6), tmp_path)
    assert arm.window(13).steps == 13
    assert (arm.state().runs, arm.state().step) == (3, 3)
    assert arm.validate() is not None
    arm.close()
    assert not list((tmp_path / "run-1" / "checkpoints").iterdir()), "nothing is saved while it is measured"


def test_measuring_does_not_change_what_is_trained(tmp_path: Path) -> None:

    arm = RecipeArm(recipe(), tmp_path)
    arm.window(5)
    arm.validate()
    arm.window(9)
    arm.close()
    lehr.train(recipe(), run_dir=tmp_path / "plain")
    losses = [line["loss"] for line in records(tmp_path / "plain") if line["split"] == "train"]
    assert list(arm.state().losses.values()) == losses[:7]


@pytest.mark.parametrize(
    ("function", "said"),
    [("raising", "ValueError: broken on purpose"), ("killed", "its process was killed by signal 9")],
)
def test_a_side_that_fails_is_named_with_its_cause(place: str, function: str, said: str) -> None:
    with pytest.raises(ArmError, match=rf"^B.*{said}"):
        measure(Source(f"{place}:recipe"), Source(f"{place}:{function}"), budget=2.0)


def test_what_cannot_be_handed_over_is_refused(tmp_path: Path) -> None:

    with pytest.raises(SettingError, match="cannot be handed to another process"):
        Worker("A", Source(recipe(model=lambda: Mlp())), tmp_path)
    with pytest.raises(SettingError, match="has no field 'optim.rate'|has no field 'rate'"):
        Worker("A", Source(recipe(), ("optim.rate=1",)), tmp_path)


def test_a_worker_ends_with_the_process_that_asked_for_it(place: str, tmp_path: Path) -> None:
    worker = Worker("A", Source(f"{place}:recipe"), tmp_path)
    process = worker._process
    worker.close()
    assert process.returncode == 0
    again = Worker("A", Source(f"{place}:recipe"), tmp_path)
    os.kill(again._process.pid, signal.SIGKILL)
    with pytest.raises(ArmError, match="killed by signal 9"):
        again.window(1)
    again.close()


def verdicts(one: Source, other: Source, times: int, budget: float) -> list[str]:
    """What `measure` says, so many times, without a start of four processes for each."""
    with both(one, other) as (a, b), both(other, one) as (late_b, late_a):
        return [
            pooled(*(compare(*arms, budget=budget / 2, validate=False) for arms in pairs)).verdict
            for pairs in times * [((a, b), (late_a, late_b))]
        ]


@pytest.mark.slow
def test_the_same_recipe_against_itself_has_no_winner(place: str) -> None:
    source = Source(f"{place}:recipe")
    assert sum(said != "no evidence" for said in verdicts(source, source, 50, 2.0)) <= 2


@pytest.mark.slow
def test_a_known_difference_of_ten_percent_is_found(place: str) -> None:
    found = verdicts(Source(f"{place}:recipe"), Source(f"{place}:slow"), 20, 6.0)
    assert sum(said == "slower" for said in found) >= 18
