"""The Ray side of the plan: a Searcher that hands out trials as their prefixes come into being."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ray.tune.search import Searcher

from lth_trainable.store.store import FULL
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import PlannedTrial
from sweeps.running.resources import Budget, Spent


class Source(Protocol):
    """Where trials come from that no plan has from the start."""

    def add_to(self, dispatcher: Dispatcher) -> bool:
        """Put more trials into the dispatcher's plan; False where there is none to put now."""

    def is_over(self, dispatcher: Dispatcher) -> bool:
        """Whether no more will come."""


class PlanSearcher(Searcher):
    """Suggests the trials of a plan. Nothing is suggested while all that is left waits for states in the making.

    config_of: what a worker is given for a trial. record: writes the record of a trial whose every epoch others have
    trained, from the fingerprint of the worker that finished it; False where that cannot be. source: of more trials,
    when all that is left is held back; with one, a trial that is held back still is better than an idle worker.
    show: told of each trial that a worker has finished, for whoever watches; nothing follows from it.
    stopped_by: the limit for which a trial was ended early or not begun. is_full: whether a trial found no space for
    what it was to store: others would find none either.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        spent: Spent,
        budget: Budget,
        config_of: Callable[[PlannedTrial], dict[str, Any]],
        record: Callable[[PlannedTrial, Mapping[str, Any]], bool],
        source: Source | None = None,
        show: Callable[[str, Mapping[str, Any]], None] = lambda *_: None,
    ) -> None:
        super().__init__(metric="epochs_done", mode="max")
        self.dispatcher, self.spent, self.budget = dispatcher, spent, budget
        self.config_of, self.record, self.source, self.show = config_of, record, source, show
        self.mark: Mapping[str, Any] | None = None  # fingerprint of the workers, once one has said it
        self.trials: dict[str, PlannedTrial] = {}
        self.stopped_by: str | None = None
        self.is_full = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.dispatcher.all_begun and (self.source is None or self.source.is_over(self.dispatcher)):
            # what runs may come to its end, whatever the budget says
            return str(Searcher.FINISHED) if self.dispatcher.over else None
        self.stopped_by = self.stopped_by or self.budget.reached(self.spent.epochs)
        if self.stopped_by or self.is_full:
            return str(Searcher.FINISHED)
        if len(self.trials) >= self.dispatcher.slots:
            return None
        trial = self._next()
        if trial is None:
            return None
        self.trials[trial_id] = trial
        return self.config_of(trial)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._take(result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self.trials.pop(trial_id, None)
        if trial is None:
            return
        result = result or {}
        self._take(result)
        if result.get("status") in ("done", "diverged"):
            self.spent.finish(trial.name, int(result.get("epochs_done", 0)))
            self.show(trial.name, result)
            self.dispatcher.finished(trial.name)
            return
        self.is_full = self.is_full or result.get("status") == FULL
        if not error and result.get("status") != "failed":
            self.spent.stop(trial.name)  # by the budget, or a full disk: it goes on another time
            self.dispatcher.stopped.add(trial.name)
        else:
            self.spent.fail(trial.name)
        self.dispatcher.finished(trial.name, whole=False)

    def should_stop(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether to end a trial at this report: the budget is spent, and what it has trained is stored.

        Not where it ends by itself: only its record is missing then.
        """
        trial, stored = self.trials.get(trial_id), result.get("stored")
        if trial is None or not stored or trial.end.key in stored or "status" in result:
            return False
        self.spent.report(trial.name, result["epochs_done"], result.get("level", 0))
        limit = self.budget.reached(self.spent.epochs)
        self.stopped_by = self.stopped_by or limit
        return limit is not None

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is the memory of a sweep, and each launch plans anew."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing either where Tune pickles its parts, so that it could be restored: it never is."""
        return {}

    def _next(self) -> PlannedTrial | None:
        while True:
            trial = self.dispatcher.next()
            if trial is None and self.source is not None:
                if self.source.add_to(self.dispatcher):
                    continue
                trial = self.dispatcher.any()
            if trial is None or trial.end.key not in self.dispatcher.stored or not self._is_recorded(trial):
                return trial

    def _take(self, result: Mapping[str, Any]) -> None:
        if result.get("stored"):
            self.mark = json.loads(result["fingerprint"])
        for key in result.get("stored", ()):
            for trial in self.dispatcher.reached(key):
                self._is_recorded(trial)

    def _is_recorded(self, trial: PlannedTrial) -> bool:
        """Record a trial whose end is stored; False where a worker has to."""
        if self.mark is None or not trial.is_end_of_node or not self.record(trial, self.mark):
            return False
        self.spent.share(trial.name)
        self.dispatcher.finished(trial.name)
        return True
