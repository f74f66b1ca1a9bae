"""The real searcher on a simulated clock, with workers that train as `run_trial` does, epoch by epoch, and may fail.

For the tests, and for `benchmarks/scale.py`.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.tune.search import Searcher

from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import Plan, PlannedTrial
from sweeps.running.resources import Budget, Spent
from sweeps.running.searcher import PlanSearcher
from tests.support.plans import keys_on_path

Pace = Callable[[PlannedTrial], float]


@dataclass(kw_only=True)
class Course:
    """What a worker does with a trial from its start. epochs: keys it trains; again: how many of them come first, for
    the rewind point; stores: keys that it stores, by number of epochs trained."""

    epochs: list[str]
    again: int
    stores: list[tuple[int, str]]


def course(plan: Plan, trial: PlannedTrial, stored: Collection[str]) -> Course:
    """The deepest stored state is gone on from; a rewind point that is behind it and not stored is made again."""
    keys, kept = keys_on_path(trial), set(plan.keep(trial))
    point = trial.mid_epoch_point
    rewind = trial.rewind.key if trial.rewind is not None else point.key if point is not None else None
    kept |= {rewind} if trial.rewind is not None and rewind is not None else set()
    begin = max((i + 1 for i, key in enumerate(keys) if key in stored), default=0)
    whole, begun = 0, 0  # epochs of the dense network before the rewind point
    if trial.rewind is not None:
        whole = begun = trial.rewind.above + trial.rewind.epochs
    elif point is not None:
        whole, begun = point.epochs_done, point.epochs_started
    again: list[str] = []
    stores: list[tuple[int, str]] = []
    if begin > whole and rewind is not None and rewind not in stored:
        start = max((i + 1 for i, key in enumerate(keys[:whole]) if key in stored), default=0)
        again = keys[start:begun]
        stores += [(n, key) for n, key in enumerate(again, 1) if key in kept and point is None]
        stores += [(len(again), rewind)] if point is not None else []
    if plan.policy != "none":
        stores += [(len(again) + n, key) for n, key in enumerate(keys[begin:], 1) if key in kept]
        for node in trial.end.path():
            for step, key in plan.mid_epoch_points.get(node.key, {}).items():
                epoch = step // (1200 // trial.spec.batch_size)
                if begin <= epoch:
                    stores.append((len(again) + epoch - begin, key))
    return Course(epochs=again + keys[begin:], again=len(again), stores=sorted(stores))


@dataclass(kw_only=True)
class Simulation:
    """A sweep on a simulated clock.

    trained: how often each epoch was trained; began, ended: trials with the time, in order; asleep: where a slot was
    idle though a trial could have been started.
    """

    plan: Plan
    slots: int
    done: Collection[str] = ()
    stored: set[str] = field(default_factory=set)
    watch: bool = True  # for idleness, which takes time
    pace: Pace = lambda _: 1.0
    fails: Callable[[PlannedTrial], float | None] = lambda _: None  # part of its training after which a trial fails
    trained: Counter[str] = field(default_factory=Counter)
    began: list[tuple[float, PlannedTrial]] = field(default_factory=list)
    ended: list[tuple[float, PlannedTrial]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    guessed: int = 0
    asleep: list[tuple[float, str]] = field(default_factory=list)
    now: float = 0.0

    def run(self) -> Simulation:
        self.stored = set(self.stored)
        self.dispatcher = Dispatcher(self.plan, self.done, self.stored, self.slots)
        self._any = self.dispatcher.any
        self.dispatcher.any = self._guess  # type: ignore[method-assign]
        self.searcher = PlanSearcher(self.dispatcher, Spent(), Budget(), lambda trial: {"trial": trial}, self._record)
        self.busy: dict[str, set[str]] = {}  # running trials: epochs that they have not stored yet
        self.ids: dict[str, str] = {}
        self.events: list[tuple[float, int, PlannedTrial, str | None]] = []
        self.numbers = itertools.count()
        while not self.dispatcher.over:
            self._fill()
            assert self.busy, "stuck: nothing runs, and nothing is handed out"
            self.now, _, trial, key = heapq.heappop(self.events)
            if key is None:
                self._end(trial)
            else:
                self._stored(trial, key)
        assert not self.busy and self.searcher.suggest("after all") == Searcher.FINISHED
        return self

    @property
    def epochs(self) -> int:
        return sum(self.trained.values())

    def _guess(self) -> PlannedTrial | None:
        trial = self._any()
        self.guessed += trial is not None
        return trial

    def _fill(self) -> None:
        while len(self.busy) < self.slots:
            number = str(next(self.numbers))
            config = self.searcher.suggest(number)
            if not isinstance(config, dict):
                self._look_for_idleness()
                return
            trial = config["trial"]
            assert trial.name not in self.busy
            self.ids[trial.name] = number
            self._start(trial)

    def _start(self, trial: PlannedTrial) -> None:
        self.began.append((self.now, trial))
        todo = course(self.plan, trial, self.stored)
        part = self.fails(trial)
        n = len(todo.epochs) if part is None else int(part * len(todo.epochs))
        self.trained.update(todo.epochs[:n])
        self.busy[trial.name] = set(todo.epochs)
        pace = self.pace(trial)
        for epochs, key in todo.stores:
            if epochs <= n:
                self._at(self.now + epochs * pace, trial, key)
        if part is not None:
            self.failed.append(trial.name)
        self._at(self.now + n * pace, trial, None)

    def _at(self, time: float, trial: PlannedTrial, key: str | None) -> None:
        heapq.heappush(self.events, (time, next(self.numbers), trial, key))

    def _stored(self, trial: PlannedTrial, key: str) -> None:
        self.stored.add(key)
        keys = keys_on_path(trial)
        if key in keys:
            self.busy[trial.name] -= set(keys[: keys.index(key) + 1])
        self.searcher.on_trial_result(self.ids[trial.name], {"stored": [key], "fingerprint": "{}"})

    def _record(self, trial: PlannedTrial, mark: Mapping[str, Any]) -> bool:
        self.ended.append((self.now, trial))
        return True

    def _end(self, trial: PlannedTrial) -> None:
        del self.busy[trial.name]
        failed = trial.name in self.failed
        result = {"status": "failed" if failed else "done", "epochs_done": 0}
        self.searcher.on_trial_complete(self.ids[trial.name], result, error=failed)
        self.ended.append((self.now, trial))

    def _look_for_idleness(self) -> None:
        in_the_making: set[str] = set().union(*self.busy.values())
        for name, trial in self.dispatcher.waiting.items() if self.watch else ():
            if name not in self.busy and not in_the_making & set(course(self.plan, trial, self.stored).epochs):
                self.asleep.append((self.now, name))


def simulate(plan: Plan, slots: int, **more: Any) -> Simulation:
    return Simulation(plan=plan, slots=slots, **more).run()
