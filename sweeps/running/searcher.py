"""A Ray Tune searcher that hands out the trials of a plan as soon as the states that they start from are stored."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from ray.tune.search import Searcher

from lth_trainable.errors import StorageError
from lth_trainable.store.trouble import TROUBLE
from lth_trainable.tune.reports import AGAIN, LOST, MEMBERS, NO_ROOM, UNSTACKABLE, parts_of
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import PlannedTrial
from sweeps.running.cohorts import ALONE, Cohorts, Start
from sweeps.running.packing import LISTED_AT_ONCE, Packing
from sweeps.running.resources import Budget, Spent
from sweeps.runs.health import Health

RECORDED = ("done", "diverged")


class Source(Protocol):
    """Adds trials to a plan while it runs, as a search does."""

    def add_to(self, dispatcher: Dispatcher) -> bool:
        """Add trials to the dispatcher's plan. False if there are none to add now."""

    def is_over(self, dispatcher: Dispatcher) -> bool:
        """Whether no more trials will be added."""


class PlanSearcher(Searcher):
    """Suggests the trials of a plan to Ray Tune.

    A trial is held back while a running one is about to store a state that it can start from.

    config_of: builds what a worker gets for a trial, and for others that it trains with it (`Start`). record: writes
    the record of a trial whose epochs other trials have all trained, with the fingerprint of the worker that trained
    the last one; returns False if it cannot. source: of more trials, asked when all that are left are held back, and
    before each cohort; if it has none, a trial that is held back is started anyway, which is better than an idle
    worker. show: called for each
    trial that a worker has finished; for display only. asked: why trials are asked to stop, None if they are not; then
    no trial starts, and one that runs ends at its next stored state. health: of the storage; if it is in trouble, or a
    trial reports so, no other is started. covered_in_ray: how many trials whose epochs other trials have all trained
    are Ray trials too, which workers record. The others are recorded here as soon as their last state is stored.
    unlisted: how many finished trials Ray's results of this launch do not list. packing: of the trials on the GPUs of
    this machine. cohorts: says which trials train together. stop_all: asks the workers of all trials to end them; for
    cohorts, whose members do not store their states at the same time.
    stopped_by: the limit because of which a trial was ended early or not started. trials: by id of their Ray trial,
    those that it is named after. open: those that it trains, by name, while they have not ended.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        spent: Spent,
        budget: Budget,
        config_of: Callable[..., dict[str, Any]],
        record: Callable[[PlannedTrial, Mapping[str, Any]], bool],
        source: Source | None = None,
        show: Callable[[str, Mapping[str, Any]], None] = lambda *_: None,
        asked: Callable[[], str | None] = lambda: None,
        health: Health | None = None,
        *,
        covered_in_ray: int = 0,
        packing: Packing | None = None,
        cohorts: Cohorts | None = None,
        stop_all: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(metric="epochs_done", mode="max")
        self.dispatcher, self.spent, self.budget = dispatcher, spent, budget
        self.config_of, self.record, self.source, self.show, self.asked = config_of, record, source, show, asked
        self.fingerprint: Mapping[str, Any] | None = None  # of the workers, once one has reported it
        self.trials: dict[str, PlannedTrial] = {}
        self.open: dict[str, dict[str, PlannedTrial]] = {}
        self.of_cohorts: set[str] = set()  # ids of the Ray trials of cohorts
        self.cohorts, self.stop_all = cohorts or Cohorts(), stop_all
        self.to_list: deque[PlannedTrial] = deque()  # members of cohorts that are recorded, and are no Ray trials yet
        self.listed: set[str] = set()  # ids of the Ray trials of such
        self.stopped_by: str | None = None
        self.has_finished = False  # whether Tune has been told that there is nothing more to start
        self.covered_in_ray, self.unlisted, self.packing = covered_in_ray, 0, packing
        self.health = health or Health()
        self.reasons: dict[str, str] = {}  # of failed trials, as their workers report them

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        with self._trouble_noted():
            config = self._suggest(trial_id)
            if not isinstance(config, dict) and self.to_list and not (self.stopped_by or self.asked()):
                return self._suggest_recorded(trial_id)
            if config == Searcher.FINISHED:
                self.has_finished = True
                self._record_covered()
            return config
        return str(Searcher.FINISHED)

    def _suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.asked():
            return str(Searcher.FINISHED)
        if self.dispatcher.all_started and (self.source is None or self.source.is_over(self.dispatcher)):
            # what runs may finish, whatever the budget is
            return str(Searcher.FINISHED) if self.dispatcher.over else None
        self.stopped_by = self.stopped_by or self.budget.reached(self.spent.epochs)
        if self.stopped_by or self.health.trouble:
            return str(Searcher.FINISHED)
        if len(self.trials) >= self.dispatcher.slots:
            return None
        trial = self._next()
        if trial is None:
            return None
        start = self.cohorts.start(self.dispatcher, trial)
        self.trials[trial_id] = trial
        self.open[trial_id] = {each.name: each for each in (trial, *start.others)}
        if start.others:
            self.of_cohorts.add(trial_id)
        return self._config_of(trial, start)

    def _suggest_recorded(self, trial_id: str) -> dict[str, Any] | None:
        """A trial that was a member of a cohort, for Ray's results. It takes no slot: there is nothing to train."""
        if len(self.listed) >= LISTED_AT_ONCE:
            return None
        trial = self.to_list.popleft()
        self.listed.add(trial_id)
        return self._config_of(trial, self.cohorts.list_only(trial))

    def _config_of(self, trial: PlannedTrial, start: Start) -> dict[str, Any]:
        return self.config_of(trial) if start == ALONE else self.config_of(trial, start)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._measure(result)
        with self._trouble_noted():
            self._take(result)
        if result.get(UNSTACKABLE):
            self.cohorts.refuse(self.trials[trial_id])
        for name, part in parts_of("", result).items() if MEMBERS in result else ():
            if "status" in part and (member := self.open.get(trial_id, {}).pop(name, None)) is not None:
                self._ended(member, part, is_member=member is not self.trials[trial_id])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.listed.discard(trial_id)
        trial = self.trials.pop(trial_id, None)
        if trial is None:
            return
        if self.packing is not None:
            self.packing.leave(trial.name)
        result = result or {}
        if result.get(UNSTACKABLE):
            self.cohorts.refuse(trial)
        self._measure(result)
        with self._trouble_noted():
            self._take(result)
        members = self.open.pop(trial_id)
        parts = parts_of(trial.name, result)
        is_cohort = trial_id in self.of_cohorts
        # a new worker, in place of one that died, only knows the record of the first member, or that there is none
        has_broken = is_cohort and (error or (MEMBERS not in result and result.get("status") in (LOST, *RECORDED)))
        for member in members.values():
            part = parts.get(member.name, {})
            if has_broken and "status" not in part:
                part = {"status": LOST}
            self._ended(member, part, error and not is_cohort, is_member=member is not trial)
        if self.has_finished:  # Tune may ask for more before the last trials have ended, and not again
            with self._trouble_noted():
                self._record_covered()

    def _ended(
        self, trial: PlannedTrial, result: Mapping[str, Any], error: bool = False, *, is_member: bool = False
    ) -> None:
        """A trial has ended as its last report says. error: without one. is_member: of the cohort of another trial."""
        if result.get("status") in RECORDED:
            if result.get("covered"):
                self.spent.share(trial.name)
            else:
                self.spent.finish(trial.name, int(result.get("epochs_done", 0)))
            self.show(trial.name, result)
            self.dispatcher.finished(trial.name)
            if is_member and self.covered_in_ray > 0:
                self.covered_in_ray -= 1
                self.to_list.append(trial)
            return
        if result.get("status") in (AGAIN, LOST):
            self.spent.stop(trial.name)
            self.dispatcher.put_back(trial.name)
            if result["status"] == LOST:
                self.cohorts.lost(trial, result.get("reason", ""))
            return
        if result.get("status") == NO_ROOM and self.packing is not None:
            self.spent.stop(trial.name)
            self.dispatcher.put_back(trial.name)
            self.packing.lower(trial.name, int(result["sharing"]))
            self.dispatcher.slots = min(self.dispatcher.slots, self.packing.slots)
            return
        if result.get("status") == TROUBLE:
            there = "" if result["host"] == socket.gethostname() else f" (on node {result['host']})"
            self.health.note(f"{result['trouble']}{there}")
        if not error and result.get("status") != "failed":
            self.spent.stop(trial.name)  # by the budget or the storage: a later command continues it
            self.dispatcher.stopped.add(trial.name)
        else:
            self.spent.fail(trial.name)
            self.reasons |= {trial.name: str(result["reason"])} if "reason" in result else {}
        self.dispatcher.finished(trial.name, recorded=False)

    def should_stop(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether to end a trial at this report: it has to stop, and what it has trained is stored, if it ever is.

        Not if it has stored its last state: then only its record is missing, and it ends by itself.
        """
        trial, stored = self.trials.get(trial_id), result.get("stored") or ()
        if MEMBERS in result:
            return self._should_stop_cohort(trial_id, result)
        if trial is None or trial.end.key in stored or "status" in result:
            return False
        asked = self.asked() is not None
        if not stored:
            return asked and self.dispatcher.plan.policy == "none"
        self.spent.report(trial.name, result["epochs_done"], result.get("level", 0))
        limit = self.budget.reached(self.spent.epochs)
        self.stopped_by = self.stopped_by or limit
        return asked or limit is not None

    def _should_stop_cohort(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """The same for a cohort. It ends by itself, once each of its members has stored what it has trained."""
        if "status" in result:
            return False
        for name, part in parts_of("", result).items():
            if name in self.open.get(trial_id, {}):
                self.spent.report(name, part["epochs_done"], part.get("level", 0))
        limit = self.budget.reached(self.spent.epochs) if result.get("stored") else None
        if limit is not None and self.stopped_by is None:
            self.stopped_by = limit
            self.stop_all()
        return self.dispatcher.plan.policy == "none" and self.asked() is not None

    def may_wait(self, resources: Mapping[str, float]) -> int:
        """How many workers with these resources of Ray may wait for their next trial."""
        return self.dispatcher.slots if self.packing is None else self.packing.may_wait(resources)

    @contextlib.contextmanager
    def _trouble_noted(self) -> Iterator[None]:
        """Tune would not end in order if an exception came out of its searcher."""
        try:
            yield
        except StorageError as error:
            self.health.note(error)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: a sweep is resumed from the store, and each launch plans again."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def __getstate__(self) -> dict[str, Any]:
        """Pickle nothing: Tune pickles its parts to restore them later, which never happens here."""
        return {}

    def _measure(self, result: Mapping[str, Any]) -> None:
        """Start more trials, once the first have shown how many can share a GPU."""
        told = self.packing.take(result) if self.packing is not None else None
        if told is not None and self.packing is not None:
            self.dispatcher.slots = self.packing.slots
            print(told, file=sys.stderr)

    def _next(self) -> PlannedTrial | None:
        if self.source is not None and self.dispatcher.replicas > 1:
            self.source.add_to(self.dispatcher)  # all that may train with the next trial
        while True:
            trial = self.dispatcher.next()
            if trial is None and self.source is not None:
                if self.source.add_to(self.dispatcher):
                    continue
                trial = self.dispatcher.any()
            is_covered = trial is not None and trial.end.key in self.dispatcher.stored
            if trial is None or not is_covered:
                return trial
            if self.covered_in_ray > 0:
                self.covered_in_ray -= 1
                return trial
            if not self._is_recorded(trial):
                return trial

    def _record_covered(self) -> None:
        """Record what needs no training before a sweep ends early; a trial that runs is not concerned."""
        if self.asked() or self.health.trouble:
            return
        for trial in list(self.dispatcher.waiting.values()):
            if trial.name not in self.dispatcher.running and trial.end.key in self.dispatcher.stored:
                self._is_recorded(trial)

    def _take(self, result: Mapping[str, Any]) -> None:
        if result.get("stored"):
            self.fingerprint = json.loads(result["fingerprint"])
        for key in result.get("stored", ()):
            covered = self.dispatcher.reached(key)
            for trial in covered if self.covered_in_ray <= 0 else ():
                self._is_recorded(trial)

    def _is_recorded(self, trial: PlannedTrial) -> bool:
        """Record a trial whose last state is stored. False if a worker has to do it."""
        if self.fingerprint is None or not trial.is_end_of_node or not self.record(trial, self.fingerprint):
            return False
        self.spent.share(trial.name)
        self.dispatcher.finished(trial.name)
        return True
