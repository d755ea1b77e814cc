"""The training loop. Read this first; `steps/eager.py` is the update in its middle.

    RUN_START
    while step < total and no stop was asked for:
        batch = next(loader)                              # BATCH_READY   methods may change the batch
        for microbatch in split(batch):
            total, count = objective(model, microbatch)   # LOSS_READY    methods may add to the loss
            backward(total)
        normalize by the count over all microbatches and ranks; unscale; check finite; clip once
                                                          # GRADS_READY   methods may change gradients
        set rates from schedule(step)                     # RATE_READY    methods may change the factor
        update                                            # the clock moves only when the update was applied
        step += 1                                         # STEP_END      observers; methods may change the model
        record if due                                     # LOGGED
        evaluate if due                                   # EVAL_START EVAL_END
        save if due                                       # SAVE_DONE
    RUN_END                                               # RUN_FAILED with evidence on any exception

An update is withheld when the loss or a gradient is not finite, or when nothing was counted: then the weights, the
optimizer, the buffers and the clock are what they were, and only the data has moved on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from lehr.base.errors import StopRun
from lehr.base.protocols import Batch, Loader, Place, Record, Tracker
from lehr.training.clock import Clock
from lehr.training.events import Event, Listeners
from lehr.training.every import Every
from lehr.training.failing import fail, guarded, save_last_whole
from lehr.training.scores import Scores
from lehr.training.steps.eager import EagerStep, Outcome
from lehr.training.trouble import Trouble
from lehr.training.window import Window

__all__ = ["Loop"]


@dataclass(kw_only=True)
class Loop:
    """Runs updates until the last step or a stop. It knows nothing of files, devices or settings: those who do, give
    it what to call.
    """

    update: EagerStep
    loader: Loader
    listeners: Listeners
    trackers: Sequence[Tracker]
    trouble: Trouble
    total_steps: int
    every: Every
    describe: Callable[[Clock, Window, int], Record]
    """Makes the record of a window."""
    evaluate: Callable[[], dict[str, float]] | None
    save: Callable[[int, float | None], str]
    """Writes a checkpoint of this step, with the monitored value if there is one; returns where."""
    save_best: bool
    agree: Callable[[str | None, bool], str | None]
    """Makes one decision of what each rank wants: the reason to stop, and whether this is a moment to ask."""
    clock: Clock
    window: Window
    scores: Scores
    stopped: str | None = None
    saved_at: int | None = None
    in_hand: bool = False
    """Whether a batch has been taken from the loader whose update has neither been applied nor withheld."""
    positions: list[Any] = field(default_factory=list)
    """Where the loader was before each batch that is pending; without a latch, before the last one."""

    def fit(self) -> str:
        """Run to the end; returns why it stopped. A loop of the user's own is these two lines."""
        for batch in self.batches():
            self.step(batch)
        return self.stopped or "finished"

    def batches(self) -> Iterator[Batch]:
        """Yield the batches to call `step` with, from RUN_START to RUN_END."""
        self.clock.tick()
        self.listeners.set_up(self.update.model, self.place())
        self.listeners.emit(Event.RUN_START, self.place())
        guarded(self, self.catch_up)
        while self.clock.step < self.total_steps and self.stopped is None:
            yield self.next_batch()
        self.stopped = self.stopped or "finished"
        guarded(self, lambda: save_last_whole(self))
        self.clock.tick()
        self.listeners.emit(Event.RUN_END, self.place(), self.stopped)

    def catch_up(self) -> None:
        """Make the evaluation that an interruption has cut short."""
        _, evaluation, _ = self.every.due(self.clock.step, last=self.clock.step == self.total_steps)
        if evaluation and self.evaluate and self.clock.step and self.scores.evaluated_at != self.clock.step:
            if self.evaluate_now(self.evaluate) and self.save_best:
                self.save_now()
            self.stopped = self.agree(self.listeners.stop_asked, True)

    def next_batch(self) -> Batch:
        """Return the next batch, and note where it began."""
        started = perf_counter()
        if self.update.latch is None:  # no earlier step will be gone back to
            self.positions.clear()
        self.positions.append(self.loader.state_dict())
        self.in_hand = True
        batch = guarded(self, lambda: next(self.loader))
        self.clock.train_seconds += perf_counter() - started
        return batch

    def step(self, batch: Batch) -> None:
        """Make one update, and whatever is due after it."""
        started = perf_counter()
        place = self.place() if self.listeners.need_place else None
        try:
            if self.listeners.batch_ready:
                batch = self.update.changed(batch, self.clock.step, place)
            outcome = self.update(batch, self.clock.step, place)
            if outcome.withheld is not None:
                record = self.trouble.withheld(outcome, batch, self.clock)
                self.in_hand = False
                self.track(record)
            else:
                self.applied(outcome)
            self.clock.train_seconds += perf_counter() - started
            recorded = outcome.withheld is None and self.do_what_is_due()
            self.stopped = self.agree(self.listeners.stop_asked, recorded)
        except Exception as error:
            fail(self, error, batch)

    def applied(self, outcome: Outcome) -> None:
        """Move the clock past an applied update and tell those who listen."""
        self.window.add(outcome)
        self.clock.advance(outcome.microbatches)
        self.in_hand = False
        if self.listeners.need_place:
            self.listeners.change_model(self.update.model, self.place())
        self.update.writing = False
        if self.listeners.need_place:
            self.listeners.emit(Event.STEP_END, self.place())

    def do_what_is_due(self) -> bool:
        """Record, evaluate and save after steps where that is due; returns whether a record was made."""
        record, evaluation, save = self.every.due(self.clock.step, last=self.clock.step == self.total_steps)
        evaluate = self.evaluate if evaluation else None
        if not (record or evaluate or save or self.window.full) or not self.settle():
            return False
        if record:
            self.scores.train_loss = self.window.mean()
            self.track(self.describe(self.clock, self.window, self.loader.epoch))
            self.window.reset()
        if evaluate:
            save |= self.evaluate_now(evaluate) and self.save_best
        if save:
            self.save_now()
        return record

    def settle(self) -> bool:
        """Read what is pending; False where a bad step was found in it, and the run was set back to that step."""
        started = perf_counter()
        rewound = self.trouble.rewound(self.clock, self.window, self.positions)
        self.positions.clear()
        self.window.settle(self.clock)
        self.clock.train_seconds += perf_counter() - started
        return not rewound

    def evaluate_now(self, evaluate: Callable[[], dict[str, float]]) -> bool:
        """Evaluate, and return whether the monitored value is the best so far. A preempted one leaves no trace."""
        self.listeners.emit(Event.EVAL_START, self.place())
        try:
            values = evaluate()
        except StopRun:
            return False
        better = self.scores.take(values, step=self.clock.step)
        self.track({"step": self.clock.step, "split": "val", **values})
        self.listeners.emit(Event.EVAL_END, self.place(), values)
        return better

    def save_now(self) -> None:
        """Write a checkpoint of this moment."""
        self.clock.tick()
        path = self.save(self.clock.step, self.scores.value_at(self.clock.step))
        self.saved_at = self.clock.step
        self.listeners.emit(Event.SAVE_DONE, self.place(), path)

    def track(self, record: Record) -> None:
        """Hand a record to the trackers and the observers."""
        for tracker in self.trackers:
            tracker.log(record)
        self.listeners.emit(Event.LOGGED, self.place(), record)

    def place(self) -> Place:
        """Return where the run is."""
        return Place(self.clock.step, self.loader.epoch, self.total_steps)
