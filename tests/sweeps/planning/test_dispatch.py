"""The rules of the dispatcher, one by one and on a simulated clock."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.planning.dispatch import URGENT, Dispatcher
from sweeps.planning.plan import Plan
from sweeps.planning.work import work_left
from tests.support.clock import Pace, simulate
from tests.support.plans import (
    GRIDS,
    dense,
    find,
    imp,
    keys_on_path,
    lr_rewinding,
    one_shot,
    planned,
    rung,
    states_of,
)

# -- any plan, any store -----------------------------------------------------------------------------------------------

SLOTS = (1, 2, 3, 8, 64)


@dataclass(frozen=True, kw_only=True)
class Case:
    plan: Plan
    done: set[str]
    stored: set[str]
    slots: int
    rng: random.Random


def a_plan(rng: random.Random, ks: list[Any]) -> Plan:
    levels, ks = rng.sample(range(1, 9), rng.randint(1, 4)), rng.sample(ks, rng.randint(1, 3))
    shared: dict[str, Any] = {"seeds": rng.randint(1, 3), "epochs": 12}
    specs = imp(levels, ks, **shared)
    whole = [k for k in ks if k != "30it"] or [0]
    for more in (
        lambda: dense(**shared), lambda: one_shot(levels, ks, **shared), lambda: lr_rewinding(levels, **shared),
        lambda: imp(levels, whole, **shared, reset_end=True), lambda: imp(levels, ks, **shared, lr=0.1),
        lambda: [TrialSpec(schedule="agp", epochs=12, seed=s) for s in range(shared["seeds"])],
    ):  # fmt: skip
        specs += more() if rng.random() < 0.4 else []
    rng.shuffle(specs)
    return planned(specs, rng.choice(["needed", "levels"]))


def cases(number: int, part: str, holes: str = "no", ks: tuple[Any, ...] = (0, 1, 5, 10, "30it")) -> Iterator[Case]:
    """A random case. holes: "no" if all states before a stored one are stored too, "marks" if only rewind points within
    an epoch are missing, "any" if any states may be missing."""
    for index in range(number):
        rng = random.Random(f"{part} {index}")
        plan = a_plan(rng, list(ks))
        chance = rng.choice([0.0, 0.3, 0.6, 0.9])
        there = {node.key for node in plan.nodes if rng.random() < chance}
        if holes != "any":
            there = {node.key for node in plan.nodes if all(above.key in there for above in node.path())}
        passed = {key for node in there for key in plan.mid_epoch_points.get(node, {}).values()}
        stored = there | (passed if holes == "no" else set())
        done = {t.name for t in plan.trials if t.end.key in stored and (t.is_end_of_node or rng.random() < 0.5)}
        if holes == "no":
            stored |= {key for node in plan.nodes if rng.random() < 0.2 for key in killed_in(node, there, rng)}
        yield Case(plan=plan, done=done, stored=stored, slots=rng.choice(SLOTS), rng=rng)


def killed_in(node: Any, there: set[str], rng: random.Random) -> list[str]:
    """A state left within a node by a killed trial, before any rewind point that others wait for."""
    if node.key in there or (node.parent is not None and node.parent.key not in there):
        return []
    segment, start, end = node.parts[0]
    at_most = min(end - 1, 2) if node.level == 0 else end - 1  # the iteration is in the third epoch
    return [segment.key_at(rng.randint(start + 1, at_most))] if at_most > start else []


def random_pace(rng: random.Random) -> Pace:
    return lambda trial: rng.uniform(0.5, 1.5)


@pytest.mark.parametrize("part", range(8))
def test_of_prefixes_every_epoch_that_is_left_is_trained_once(part: int) -> None:
    for case in cases(40, f"prefixes {part}"):
        work = work_left(case.plan, case.done, case.stored)
        run = simulate(
            case.plan, case.slots, done=case.done, stored=case.stored, pace=random_pace(case.rng)
        )  # fmt: skip
        assert run.guessed == 0 and run.asleep == []
        assert run.epochs == work.epochs
        assert set(run.trained.values()) <= {1}
        assert {trial.name for _, trial in run.ended} == {t.name for t in case.plan.trials} - case.done
        assert len(run.ended) == len(case.plan.trials) - len(case.done)


@pytest.mark.parametrize("part", range(4))
def test_with_holes_every_trial_ends_without_a_guess(part: int) -> None:
    for case in cases(40, f"holes {part}", "any"):
        run = simulate(case.plan, case.slots, done=case.done, stored=case.stored, pace=random_pace(case.rng))
        assert run.guessed == 0
        assert {trial.name for _, trial in run.ended} == {t.name for t in case.plan.trials} - case.done


@pytest.mark.parametrize("part", range(4))
def test_rewind_points_within_an_epoch_are_made_again_as_counted(part: int) -> None:
    """One trial at a time: two that start together both train up to the point, as neither is held back for it."""
    counted = 0
    for case in cases(20, f"marks {part}", "marks", ("30it", "25it", 0)):
        work = work_left(case.plan, case.done, case.stored)
        run = simulate(case.plan, 1, done=case.done, stored=case.stored)
        assert run.guessed == 0 and run.asleep == []
        assert run.epochs == work.epochs
        counted += work.epochs > len(run.trained) or any(n > 1 for n in run.trained.values())
    assert counted or part, "some trials train up to a rewind point again"


@pytest.mark.parametrize("part", range(4))
def test_what_a_failed_trial_did_not_store_goes_to_another(part: int) -> None:
    for case in cases(40, f"failures {part}", ks=(0, 1, 5, 10)):
        unlucky = {t.name: case.rng.random() for t in case.plan.trials if case.rng.random() < 0.3}
        run = simulate(
            case.plan, case.slots, done=case.done, stored=case.stored, pace=random_pace(case.rng),
            fails=lambda trial, unlucky=unlucky: unlucky.get(trial.name),
        )  # fmt: skip
        assert run.guessed == 0 and run.asleep == []
        assert {trial.name for _, trial in run.ended} == {t.name for t in case.plan.trials} - case.done
        lost = sum(n - 1 for n in run.trained.values())
        assert lost <= sum(len(keys_on_path(find(case.plan, name=name))) for name in run.failed)


# -- one rule at a time ------------------------------------------------------------------------------------------------


def two_ladders(**more: Any) -> Plan:
    """A dense network of 20 epochs and two ladders of two levels on it."""
    return planned(imp((1, 2), (0, 5), seeds=1, epochs=20, **more))


def test_a_held_trial_starts_when_the_state_is_reported_not_when_its_producer_ends() -> None:
    plan = two_ladders()
    dispatcher = Dispatcher(plan, (), (), 2)
    producer = dispatcher.next()
    assert producer is not None and dispatcher.next() is None, "the other ladder begins with the same network"
    point, trunk = producer.end.path()[:2]
    assert (point.epochs, trunk.epochs) == (5, 15)
    dispatcher.reached(point.key)
    assert dispatcher.next() is None
    dispatcher.reached(trunk.key)
    other = dispatcher.next()
    assert other is not None and other.spec.rewind_epoch != producer.spec.rewind_epoch
    assert set(dispatcher.running) == {producer.name, other.name}


def test_a_state_that_was_not_reported_is_there_when_its_producer_is_done() -> None:
    plan = two_ladders()
    dispatcher = Dispatcher(plan, (), (), 2)
    producer = dispatcher.next()
    assert producer is not None and dispatcher.next() is None
    dispatcher.finished(producer.name)
    other = dispatcher.next()
    assert other is not None and other.end.path()[:2] == producer.end.path()[:2]


def test_the_next_that_needs_it_takes_over_what_a_failed_trial_was_making() -> None:
    plan = two_ladders()
    dispatcher = Dispatcher(plan, (), (), 2)
    producer = dispatcher.next()
    assert producer is not None and dispatcher.next() is None
    dispatcher.reached(producer.end.path()[0].key)
    dispatcher.finished(producer.name, recorded=False)
    heir = dispatcher.next()
    assert heir is not None and heir is not producer
    assert dispatcher.running[heir.name][0] is producer.end.path()[1], "the dense network from its fifth epoch on"
    assert dispatcher.next() is None
    assert producer.name not in dispatcher.waiting, "it is not tried again"


def test_a_rewind_point_that_is_gone_is_made_again_by_one_trial_alone() -> None:
    plan = planned([*imp((1,), (5,), 1, epochs=20), *one_shot((2,), (5,), 1, epochs=20), *dense(1, epochs=20)])
    baseline = find(plan, control="dense")
    dispatcher = Dispatcher(plan, {baseline.name}, {baseline.end.key}, 2)
    first = dispatcher.next()
    assert first is not None and [n.epochs for n in dispatcher.running[first.name]] == [5, 15]
    assert dispatcher.next() is None, "it waits for the first five epochs too"
    dispatcher.reached(dispatcher.running[first.name][0].key)
    assert dispatcher.next() is not None


def test_a_trial_held_for_a_rewind_point_starts_when_the_maker_of_the_point_has_failed() -> None:
    plan = planned([*imp((1,), (5,), 1, epochs=20), *one_shot((2,), (5,), 1, epochs=20), *dense(1, epochs=20)])
    baseline = find(plan, control="dense")
    dispatcher = Dispatcher(plan, {baseline.name}, {baseline.end.key}, 2)
    first = dispatcher.next()
    assert first is not None and dispatcher.next() is None
    dispatcher.finished(first.name, recorded=False)
    second = dispatcher.next()
    assert second is not None and second is not first
    assert [node.epochs for node in dispatcher.running[second.name]] == [5, 15]


def test_covered_trials_are_given_back() -> None:
    plan = planned([*dense(6, epochs=20), *imp((1, 2), (0,), 6, epochs=20)])
    baseline, upper, deep = (find(plan, seed=0, **f) for f in (
        {"control": "dense"}, {"target_sparsity_pct": rung(1)}, {"target_sparsity_pct": rung(2)}
    ))  # fmt: skip
    dispatcher = Dispatcher(plan, (), (), 1)
    assert dispatcher.next() is deep, "of six seeds, each is short enough to be trained in one go"
    assert dispatcher.reached(baseline.end.key) == [baseline]
    dispatcher.finished(baseline.name)
    assert dispatcher.reached(baseline.end.key) == [], "it is recorded"
    assert dispatcher.reached("of no node") == []
    assert dispatcher.reached(upper.end.key) == [upper]
    assert dispatcher.reached(deep.end.key) == [], "it runs, and records itself"
    assert {name for name in dispatcher.waiting if "seed0" in name} == {upper.name, deep.name}
    dispatcher.finished(deep.name)
    assert dispatcher.next() is upper, "no other trial recorded it, so a worker does"
    assert dispatcher.running == {upper.name: []}


def test_supermasks_in_a_covered_node_are_run_on_their_own() -> None:
    plan = planned([*imp((2,), (1,), 1, epochs=20), *imp((2,), (1,), 1, epochs=20, reset_end=True)])
    run = simulate(plan, 2)
    assert run.epochs == 20 + 2 * 19
    assert [(time, trial.spec.reset_end) for time, trial in run.began] == [(0, False), (58, True)]
    ticket, supermask = plan.trials
    later = Dispatcher(plan, {ticket.name}, states_of(plan), 1)
    assert later.next() is supermask and later.running == {supermask.name: []}


def test_without_states_nobody_waits() -> None:
    plan = planned([*dense(2, epochs=20), *imp((1, 2), (0, 5), 2, epochs=20)], "none")
    run = simulate(plan, 64)
    assert len(run.began) == len(plan.trials) and {time for time, _ in run.began} == {0}
    assert run.epochs == plan.epochs_requested and run.now == 60


def test_a_plan_that_is_done_is_over() -> None:
    plan = two_ladders()
    assert Dispatcher(plan, {trial.name for trial in plan.trials}, (), 2).over
    dispatcher = Dispatcher(plan, {trial.name for trial in plan.trials[1:]}, (), 2)
    assert (dispatcher.over, dispatcher.all_started) == (False, False)
    assert dispatcher.next() is plan.trials[0]
    assert (dispatcher.over, dispatcher.all_started) == (False, True)
    dispatcher.finished(plan.trials[0].name)
    assert (dispatcher.over, dispatcher.all_started) == (True, True)
    assert dispatcher.next() is None


def test_a_chain_of_a_thousand_nodes_is_handed_out_whole() -> None:
    """A schedule that prunes within the fit at most epochs, with every level's state stored."""
    plan = planned([TrialSpec(schedule="agp", target_sparsity_pct=90, epochs=2000)], "levels")
    assert len(plan.nodes) > 1000
    assert Dispatcher(plan, (), (), 1).next() is plan.trials[0]


def test_states_that_are_not_where_the_plan_has_them_end_in_a_guess_not_in_a_standstill() -> None:
    plan = two_ladders()
    dispatcher = Dispatcher(plan, (), (), 1)
    dispatcher._ready.clear()
    first = dispatcher.next()
    assert first is plan.trials[0] and dispatcher.next() is None


# -- which one first ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("seeds", [range(5), (3, 0, 4)], ids=["0 to 4", "3, 0, 4"])
def test_with_one_slot_a_seed_is_whole_before_the_next_begins(grid: str, seeds: Any) -> None:
    """Seeds end in the order of the sweep, if no chain takes `URGENT` of the remaining time before the last seed."""
    specs = [spec for seed in seeds for spec in GRIDS[grid] if spec.seed == seed]
    run = simulate(planned(specs), 1)
    assert [seed for seed, _ in itertools.groupby(trial.spec.seed for _, trial in run.ended)] == list(seeds)
    assert [seed for seed, _ in itertools.groupby(trial.spec.seed for _, trial in run.began)] == list(seeds)


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_what_starts_is_of_the_first_seed_that_is_ready_or_urgent(slots: int) -> None:
    """A node has the rank of the first seed below it; here there is only one."""
    plan = planned(GRIDS["imp, one-shot and lr rewinding"])
    dispatcher, best = Dispatcher(plan, (), (), slots), Dispatcher._best
    urgent = 0

    def checked(self: Dispatcher) -> Any:
        nonlocal urgent
        node = best(self)
        ready = [n for n in plan.nodes if self._can_begin(n) and self._startable_below(n)]
        assert (node is None) == (not ready)
        if node is not None:
            longest = max(self._longest[id(n)] for n in ready)
            if longest > URGENT * self.epochs_left / slots:
                assert self._longest[id(node)] == longest
                urgent += 1
            else:
                assert self._rank[id(node)] == min(self._rank[id(n)] for n in ready)
        return node

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dispatcher, "_best", checked)
        run = simulate(plan, slots)
    assert dispatcher.slots == slots and run.epochs == 94_800
    assert urgent > 0, "at the latest, the last chain of all"


def test_a_chain_that_would_end_last_starts_first() -> None:
    short = [TrialSpec(schedule="omp", target_sparsity_pct=50, epochs=10, seed=seed) for seed in range(3)]
    plan = planned([*short, *imp((8,), (0,), 4, epochs=10)[-1:]])
    run = simulate(plan, 2)
    assert [trial.spec.seed for _, trial in run.began] == [3, 0, 1, 2], "90 epochs of the 150 on two slots"
    assert run.now == 90, "as long as the chain"
    many = [TrialSpec(schedule="omp", target_sparsity_pct=50, epochs=10, seed=seed) for seed in range(20)]
    plan = planned([*many, *imp((8,), (0,), 21, epochs=10)[-1:]])
    run = simulate(plan, 2)
    order = [trial.spec.seed for _, trial in run.began]
    assert order[0] == 0 and order.index(20) < 20, "of 490, 90 are not urgent yet, and later they are"
    assert run.now <= 1.1 * (20 * 20 + 90) / 2


@pytest.mark.parametrize("slots", [1, 8, 64])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_grids_end_within_a_tenth_of_the_shortest_possible_time(grid: str, slots: int) -> None:
    plan = planned(GRIDS[grid])
    work = work_left(plan, (), ())
    run = simulate(plan, slots, watch=slots == 8)
    bound = max(work.critical_path, work.epochs / slots)
    assert run.epochs == work.epochs and run.guessed == 0 and run.asleep == []
    if (grid, slots) == ("one-shot", 64):
        # No ticket begins before its dense network's 160 epochs. Then there are 25 pieces each of 150, 155, 159 and 160
        # epochs for 64 slots, so at least 36 slots take two; only 25 of those can have one of 150, the others take two
        # of 155 or more. So nothing ends before 160 + 310, and 475 is within a round of that.
        assert bound == 320 and 470 <= run.now <= 475
    else:
        assert bound <= run.now <= 1.1 * bound
    assert slots > 1 or run.now == bound, "one slot is never idle"
