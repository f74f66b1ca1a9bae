"""The real searcher on a simulated clock, with workers that train cohorts, whose members may fail and which may die."""

from __future__ import annotations

import heapq
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.tune.search import Searcher

from lth_trainable.tune.reports import AGAIN, LOST, MEMBERS
from sweeps.planning.dispatch import Dispatcher, Shape
from sweeps.planning.plan import Plan, PlannedTrial
from sweeps.running.cohorts import ALONE, Cohorts, Start
from sweeps.running.resources import Budget, Spent
from sweeps.running.searcher import PlanSearcher
from tests.support.clock import course


@dataclass(kw_only=True)
class RayTrial:
    """A Ray trial. todo: members that have not ended; done: parts of the last report of those that have."""

    number: str
    members: tuple[PlannedTrial, ...]
    todo: set[str] = field(default_factory=set)
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_dead: bool = False

    @property
    def is_cohort(self) -> bool:
        return len(self.members) > 1


@dataclass(kw_only=True)
class CohortSimulation:
    """A sweep in cohorts on a simulated clock. A cohort lasts as long as its longest member, an epoch takes 1.

    fails: the part of its training after which a trial fails, by its attempt (from 0); None: it does not. dies: the
    time after which a worker with these trials dies. trained: how often each epoch was; cohorts: names of their
    members, in order; listed: names of trials that were Ray trials for their record only; shown: of those shown.
    """

    plan: Plan
    slots: int
    replicas: int
    shape_of: Shape
    covered_in_ray: int = 0
    fails: Callable[[PlannedTrial, int], float | None] = lambda *_: None
    dies: Callable[[Sequence[PlannedTrial]], float | None] = lambda _: None
    budget: Budget = field(default_factory=Budget)
    trained: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    cohorts: list[tuple[str, ...]] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    stops: int = 0
    now: float = 0.0

    def run(self) -> CohortSimulation:
        self.spent = Spent()
        self.dispatcher = Dispatcher(self.plan, (), (), self.slots, replicas=self.replicas)
        self.searcher = PlanSearcher(
            self.dispatcher, self.spent, self.budget, self._config, self._record, None,
            lambda name, _: self.shown.append(name), covered_in_ray=self.covered_in_ray,
            cohorts=Cohorts(self.replicas, self.shape_of), stop_all=self._stop_all,
        )  # fmt: skip
        self.events: list[tuple[float, int, RayTrial, Any]] = []
        self.numbers, self.busy = itertools.count(), 0
        while self._fill():
            assert self.events, "stuck: nothing runs, and nothing is handed out"
            self.now, _, ray_trial, event = heapq.heappop(self.events)
            if not ray_trial.is_dead:
                event()
        return self

    def _config(self, trial: PlannedTrial, start: Start = ALONE) -> dict[str, Any]:
        return {"members": (trial, *start.others), "recorded": start.recorded}

    def _record(self, trial: PlannedTrial, mark: Mapping[str, Any]) -> bool:
        return True

    def _stop_all(self) -> None:
        self.stops += 1

    def _fill(self) -> bool:
        """Start what can start. False if the sweep is over."""
        while True:
            number = str(next(self.numbers))
            config = self.searcher.suggest(number)
            if not isinstance(config, dict):
                return config != Searcher.FINISHED or bool(self.events)
            ray_trial = RayTrial(number=number, members=config["members"])
            if config["recorded"]:
                self._at(self.now, ray_trial, lambda listed=ray_trial: self._list(listed))
            else:
                self._start(ray_trial)

    def _list(self, ray_trial: RayTrial) -> None:
        self.listed.append(ray_trial.members[0].name)
        self.searcher.on_trial_complete(ray_trial.number, {"status": "done", "epochs_done": 0, "done": True})

    def _start(self, ray_trial: RayTrial) -> None:
        self.busy += 1
        assert self.busy <= self.slots and len(ray_trial.members) <= self.replicas
        names = tuple(trial.name for trial in ray_trial.members)
        assert len(set(names)) == len(names)
        self.cohorts.append(names)
        ray_trial.todo = set(names)
        death = self.dies(ray_trial.members)
        for trial in ray_trial.members:
            self._train(ray_trial, trial, death)
        if death is not None:
            self._at(self.now + death, ray_trial, lambda: self._die(ray_trial))

    def _train(self, ray_trial: RayTrial, trial: PlannedTrial, death: float | None) -> None:
        todo = course(self.plan, trial, self.dispatcher.stored)
        attempt = self.attempts[trial.name]
        part = self.fails(trial, attempt)
        n = len(todo.epochs) if part is None else int(part * len(todo.epochs))
        self.trained.update(todo.epochs[: n if death is None else min(n, int(death))])
        for epochs, key in todo.stores:
            if epochs <= n:
                self._at(self.now + epochs, ray_trial, lambda key=key, e=epochs: self._stored(ray_trial, trial, key, e))
        status = "done" if part is None else "failed" if attempt or not ray_trial.is_cohort else AGAIN
        self._at(self.now + n, ray_trial, lambda: self._end(ray_trial, trial, {"status": status, "epochs_done": n}))

    def _at(self, time: float, ray_trial: RayTrial, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (time, next(self.numbers), ray_trial, event))

    def _stored(self, ray_trial: RayTrial, trial: PlannedTrial, key: str, epochs: int) -> None:
        self._tell(ray_trial, {trial.name: {"epochs_done": epochs}}, stored=[key])

    def _end(self, ray_trial: RayTrial, trial: PlannedTrial, part: dict[str, Any]) -> None:
        self.attempts[trial.name] += part["status"] == AGAIN
        ray_trial.todo.discard(trial.name)
        ray_trial.done[trial.name] = part
        if ray_trial.todo:
            self._tell(ray_trial, {trial.name: part})
            return
        result = self._result(ray_trial, ray_trial.done)
        self.busy -= 1
        first = ray_trial.done[ray_trial.members[0].name]
        self.searcher.on_trial_complete(ray_trial.number, {**result, **first, "done": True})

    def _die(self, ray_trial: RayTrial) -> None:
        """Ray starts the trial again, which says that it is lost; one that trains alone fails after some of them."""
        ray_trial.is_dead = True
        self.busy -= 1
        if ray_trial.is_cohort:
            self.searcher.on_trial_complete(ray_trial.number, {"status": LOST, "epochs_done": 0, "done": True})
        else:
            self.searcher.on_trial_complete(ray_trial.number, None, error=True)

    def _tell(self, ray_trial: RayTrial, parts: dict[str, Any], stored: Sequence[str] = ()) -> None:
        result = self._result(ray_trial, parts, stored)
        assert not self.searcher.should_stop(ray_trial.number, result)
        self.searcher.on_trial_result(ray_trial.number, result)

    def _result(self, ray_trial: RayTrial, parts: dict[str, Any], stored: Sequence[str] = ()) -> dict[str, Any]:
        told = {"stored": list(stored), "fingerprint": "{}"}
        if ray_trial.is_cohort:
            return {**told, MEMBERS: json.dumps(parts), "epochs_done": 0}
        return {**told, **next(iter(parts.values()))}
