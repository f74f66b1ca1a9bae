"""Trials that are handed out to be trained as one: which, in what order, and when. On a simulated clock."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import pytest

from lth_trainable.tune.reports import LOST
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import Plan, PlannedTrial
from sweeps.planning.work import work_left
from sweeps.running.cohorts import ALONE, Cohorts
from sweeps.running.resources import Budget, Spent
from sweeps.running.searcher import PlanSearcher
from tests.support.cohort_clock import CohortSimulation
from tests.support.plans import dense, find, imp, planned, rung


def batch(trial: PlannedTrial) -> Hashable:
    return trial.spec.batch_size


def alone(trial: PlannedTrial) -> Hashable:
    return None


def names(trials: list[PlannedTrial]) -> list[str]:
    return [trial.name for trial in trials]


def simulate(plan: Plan, slots: int, replicas: int, **more: Any) -> CohortSimulation:
    return CohortSimulation(
        plan=plan, slots=slots, replicas=replicas, shape_of=more.pop("shape_of", batch), **more
    ).run()


def sizes(run: CohortSimulation) -> list[int]:
    return [len(names) for names in run.cohorts]


@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize("replicas", [2, 4, 64])
def test_every_epoch_is_trained_once_and_a_slot_is_as_fast_as_many(slots: int, replicas: int) -> None:
    specs = [*dense(5, epochs=12), *imp((1, 2, 4), (0, 1, 5), 5, epochs=12), *imp((2,), (5,), 5, epochs=12, lr=0.1)]
    plan = planned(specs)
    run, work = simulate(plan, slots, replicas), work_left(plan, (), ())
    assert set(run.trained.values()) == {1} and run.trained.total() == work.epochs
    assert run.dispatcher.over and run.spent.epochs == work.epochs and not run.spent.running
    assert sorted(run.shown) == sorted(set(run.shown)), "each trial is shown once"
    bound = max(work.critical_path, work.epochs / (slots * replicas))
    assert bound <= run.now <= 2 * bound


def test_the_seeds_of_a_level_are_one_cohort_and_the_next_is_made_at_its_end() -> None:
    """With controls, which branch off at every level: 10 tickets, and 20 controls from the second level on."""
    controls = [
        replaced
        for spec in imp((1, 2, 3), (0,), 10, epochs=12)
        for replaced in (spec, *(replace(spec, control=name) for name in ("reinit", "random_mask")))
    ]
    run = simulate(planned([*dense(10, epochs=12), *controls]), 1, 32)
    assert sizes(run) == [10, 30, 30, 30]
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


# -- members that fail, and workers that die ---------------------------------------------------------------------------


def a_study() -> Plan:
    return planned([*dense(4, epochs=12), *imp((1, 2), (0, 1), 4, epochs=12)])


def test_a_member_that_fails_once_is_trained_in_another_cohort_and_twice_has_failed() -> None:
    plan = a_study()
    names = [trial.name for trial in plan.trials]
    once, twice = names[1], names[-1]
    run = simulate(
        plan, 1, 8,
        fails=lambda trial, attempt: 0.5 if trial.name == twice or (trial.name == once and not attempt) else None,
    )  # fmt: skip
    assert run.spent.failed == {twice} and run.dispatcher.over
    assert set(run.spent.finished) == set(names) - {twice}
    assert sum(once in cohort for cohort in run.cohorts) == sum(twice in cohort for cohort in run.cohorts) == 2


@pytest.mark.parametrize("culprit", [0, 5, 15])
def test_of_a_cohort_whose_worker_dies_each_time_only_the_culprit_has_failed_in_the_end(culprit: int) -> None:
    plan = planned(dense(16, epochs=4))
    bad = plan.trials[culprit].name
    run = simulate(plan, 2, 16, dies=lambda members: 2.0 if bad in names(list(members)) else None)
    assert run.spent.failed == {bad} and len(run.spent.finished) == 15
    assert [len(cohort) for cohort in run.cohorts if bad in cohort] == [16, 16, 4, 1]
    assert len(run.searcher.cohorts.notes) == 1


def test_a_worker_that_dies_once_costs_one_cohort() -> None:
    plan, deaths = planned(dense(16, epochs=4)), iter([2.0])
    run = simulate(plan, 1, 16, dies=lambda members: next(deaths, None))
    assert sizes(run) == [16, 16] and not run.spent.failed and run.dispatcher.over


@pytest.mark.parametrize("left", [1, 2])
@pytest.mark.parametrize("last", ["recorded", "lost", "error", "stopped"])
def test_the_last_members_of_a_worker_that_dies_are_handed_out_again(left: int, last: str) -> None:
    """After the first member is recorded. The worker that Ray starts in its place knows that record only."""
    plan = planned(dense(3, epochs=4))
    dispatcher, spent = Dispatcher(plan, (), (), 1, replicas=3), Spent()
    searcher = PlanSearcher(
        dispatcher, spent, Budget(), lambda trial, start=ALONE: {"n": 1 + len(start.others)}, lambda *_: True,
        cohorts=Cohorts(3, batch),
    )  # fmt: skip
    assert searcher.suggest("a") == {"n": 3}
    done = {"status": "done", "epochs_done": 4}
    ended = [trial.name for trial in plan.trials][: 3 - left]
    searcher.on_trial_result("a", {"members": json.dumps(dict.fromkeys(ended, done))})
    result = {"recorded": done, "lost": {"status": LOST}, "error": None, "stopped": {"status": "stopped"}}[last]
    searcher.on_trial_complete("a", result, error=last == "error")
    assert not spent.failed
    if last == "stopped":
        assert len(dispatcher.stopped) == left and dispatcher.over
    else:
        assert searcher.suggest("b") == {"n": left} and not dispatcher.stopped


def test_members_are_listed_by_ray_trials_of_their_own_as_long_as_covered_trials_are() -> None:
    plan = planned(dense(16, epochs=4))
    for limit, expected in ((100, 15), (4, 4), (0, 0)):
        run = simulate(plan, 1, 16, covered_in_ray=limit)
        assert len(run.listed) == len(set(run.listed)) == expected
        assert plan.trials[0].name not in run.listed, "it is a Ray trial already"
        assert run.searcher.covered_in_ray == limit - expected and not run.spent.running


def test_a_budget_of_epochs_asks_the_members_to_stop_once_and_starts_no_more() -> None:
    run = simulate(a_study(), 1, 4, budget=Budget(epochs=20))
    assert run.stops == 1 and run.searcher.stopped_by == "--max-epochs"
    assert len(run.cohorts) == 1 and not run.dispatcher.over


def test_one_replica_makes_no_cohorts() -> None:
    plan = a_study()
    run = simulate(plan, 2, 1)
    assert set(sizes(run)) == {1} and run.dispatcher.over
    assert run.searcher.cohorts.start(run.dispatcher, plan.trials[0]) == ALONE


def test_networks_that_cannot_be_stacked_train_alone_once_that_is_known() -> None:
    plan = planned([*dense(4, epochs=4), *dense(4, epochs=4, batch_size=40)])
    dispatcher = Dispatcher(plan, (), (), 8, replicas=2)
    searcher = PlanSearcher(
        dispatcher, Spent(), Budget(), lambda trial, start=ALONE: {"n": 1 + len(start.others), "of": batch(trial)},
        lambda *_: True, cohorts=Cohorts(2, batch),
    )  # fmt: skip
    assert searcher.suggest("a") == {"n": 2, "of": 60}
    searcher.on_trial_result("a", {"members": "{}", "unstackable": True})
    started = [searcher.suggest(number) for number in "bcde"]
    assert started.count({"n": 1, "of": 60}) == 2 and started.count({"n": 2, "of": 40}) == 2
