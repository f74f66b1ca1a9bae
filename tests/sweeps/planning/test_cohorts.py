"""Trials that are handed out to be trained as one: which, in what order, and when. On a simulated clock."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import pytest

from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import Plan, PlannedTrial
from sweeps.planning.work import work_left
from tests.support.clock import course
from tests.support.plans import dense, find, imp, planned, rung


def batch(trial: PlannedTrial) -> Hashable:
    return trial.spec.batch_size


def alone(trial: PlannedTrial) -> Hashable:
    return None


def names(trials: list[PlannedTrial]) -> list[str]:
    return [trial.name for trial in trials]


class Cohorts:
    """A sweep in cohorts on a simulated clock. A cohort lasts as long as its longest member; what a member stores is
    reported when it is stored. trained: how often each epoch was; sizes: of the cohorts, in order; now: when it ended.
    """

    def __init__(self, plan: Plan, slots: int, replicas: int) -> None:
        self.dispatcher = Dispatcher(plan, (), (), slots, replicas=replicas)
        self.plan, self.slots, self.replicas = plan, slots, replicas
        self.trained: Counter[str] = Counter()
        self.sizes: list[int] = []
        self.now, self.numbers, self.busy = 0.0, itertools.count(), 0
        self.events: list[tuple[float, int, str, Any]] = []
        while not self.dispatcher.over:
            self._fill()
            assert self.events, "stuck: nothing runs, and nothing is handed out"
            self.now, _, what, about = heapq.heappop(self.events)
            self._happens(what, about)

    def _fill(self) -> None:
        while self.busy < self.slots and (first := self.dispatcher.next()) is not None:
            cohort = [first, *self.dispatcher.more_like(first, self.replicas - 1, batch)]
            self.sizes.append(len(cohort))
            self.busy += 1
            self._at(max(map(self._train, cohort)), "worker", None)

    def _train(self, trial: PlannedTrial) -> float:
        todo = course(self.plan, trial, self.dispatcher.stored)
        self.trained.update(todo.epochs)
        for epochs, key in todo.stores:
            self._at(self.now + epochs, "state", key)
        end = self.now + len(todo.epochs)
        self._at(end, "trial", trial.name)
        return end

    def _at(self, time: float, what: str, about: Any) -> None:
        heapq.heappush(self.events, (time, next(self.numbers), what, about))

    def _happens(self, what: str, about: Any) -> None:
        if what == "state":
            for trial in self.dispatcher.reached(about):
                self.dispatcher.finished(trial.name)
        elif what == "trial":
            self.dispatcher.finished(about)
        else:
            self.busy -= 1


@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize("replicas", [2, 4, 64])
def test_every_epoch_is_trained_once_and_a_slot_is_as_fast_as_many(slots: int, replicas: int) -> None:
    specs = [*dense(5, epochs=12), *imp((1, 2, 4), (0, 1, 5), 5, epochs=12), *imp((2,), (5,), 5, epochs=12, lr=0.1)]
    plan = planned(specs)
    run, work = Cohorts(plan, slots, replicas), work_left(plan, (), ())
    assert set(run.trained.values()) == {1} and run.trained.total() == work.epochs
    assert max(run.sizes) <= replicas
    bound = max(work.critical_path, work.epochs / (slots * replicas))
    assert bound <= run.now <= 2 * bound


def test_the_seeds_of_a_level_are_one_cohort_and_the_next_is_made_at_its_end() -> None:
    """With controls, which branch off at every level: 10 tickets, and 20 controls from the second level on."""
    controls = [
        replaced
        for spec in imp((1, 2, 3), (0,), 10, epochs=12)
        for replaced in (spec, *(replace(spec, control=name) for name in ("reinit", "random_mask")))
    ]
    run = Cohorts(planned([*dense(10, epochs=12), *controls]), 1, 32)
    assert run.sizes == [10, 30, 30, 30]
    assert run.now == 4 * 12


def test_only_trials_of_its_shape_that_are_ready_and_do_not_wait_join_a_trial() -> None:
    plan = planned([*dense(3, epochs=20), *dense(2, epochs=20, batch_size=40), *imp((1,), (5,), 3, epochs=20)])
    dispatcher = Dispatcher(plan, (), (), 1, replicas=8)
    first = dispatcher.next()
    assert first is not None and first.spec.is_dense and first.spec.batch_size == 60
    more = dispatcher.more_like(first, 7, batch)
    assert [t.spec.seed for t in more] == [1, 2] and {t.spec.batch_size for t in more} == {60}
    assert set(dispatcher.running) == {first.name, *names(more)}
    other = dispatcher.next()
    assert other is not None and other.spec.batch_size == 40
    assert dispatcher.more_like(other, 7, alone) == []
    assert len(dispatcher.more_like(other, 7, batch)) == 1
    assert dispatcher.next() is None, "the tickets wait for their dense networks"
    point, end = first.end.path()
    dispatcher.reached(point.key)
    assert dispatcher.next() is None
    dispatcher.reached(end.key)
    ticket = dispatcher.next()
    assert ticket is not None and (ticket.spec.seed, ticket.spec.is_dense) == (0, False)


def test_no_more_join_than_there_is_room_for_and_those_of_the_first_seeds_come_first() -> None:
    plan = planned([*imp((1,), (0,), 6, epochs=20), *dense(6, epochs=20)])
    dispatcher = Dispatcher(plan, (), (), 1, replicas=4)
    first = dispatcher.next()
    assert first is not None
    assert dispatcher.more_like(first, 0, batch) == []
    assert [t.spec.seed for t in dispatcher.more_like(first, 3, batch)] == [1, 2, 3]


def test_a_chain_that_would_end_last_joins_first() -> None:
    plan = planned([*dense(8, epochs=10), *imp((8,), (0,), 9, epochs=10)[-1:]])
    dispatcher = Dispatcher(plan, (), (), 1, replicas=2)
    first = dispatcher.next()
    assert first is not None and first.spec.seed == 8
    dispatcher = Dispatcher(plan, (), (), 1, replicas=2)
    dense_first = find(plan, seed=0)
    (longest,) = dispatcher.more_like(dense_first, 1, batch)
    assert longest.spec.seed == 8


def test_with_replicas_a_trial_ends_at_the_first_end_of_a_trial() -> None:
    plan = planned([*dense(6, epochs=20), *imp((1, 2), (0,), 6, epochs=20)])
    long = Dispatcher(plan, (), (), 1).next()
    assert long is not None and long.spec.target_sparsity_pct == rung(2)
    dispatcher, begun = Dispatcher(plan, (), (), 1, replicas=2), []
    for _ in range(3):
        trial = dispatcher.next()
        assert trial is not None
        dispatcher.finished(trial.name)
        begun.append((trial.spec.is_dense, trial.spec.target_sparsity_pct))
    assert begun == [(True, None), (False, rung(1)), (False, rung(2))]


def test_a_member_that_is_put_back_with_its_last_state_stored_needs_only_its_record() -> None:
    plan = planned(dense(2, epochs=20))
    dispatcher = Dispatcher(plan, (), (), 1, replicas=2)
    first = dispatcher.next()
    assert first is not None
    (second,) = dispatcher.more_like(first, 1, batch)
    dispatcher.reached(second.end.key)
    dispatcher.put_back(second.name)
    assert dispatcher.next() is second and dispatcher.running[second.name] == []
    dispatcher.put_back(first.name)
    assert dispatcher.next() is first and dispatcher.running[first.name] == first.end.path()
