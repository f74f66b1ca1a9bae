"""A sweep in cohorts on a simulated clock, without Ray's searcher: as the searcher would have it."""

from __future__ import annotations

import pytest

from sweeps.planning.work import work_left
from sweeps.running.simulation import simulate
from tests.support.cohort_clock import CohortSimulation
from tests.support.plans import dense, imp, planned


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("replicas", [1, 3, 16])
def test_it_takes_as_long_as_with_the_real_searcher(slots: int, replicas: int) -> None:
    plan = planned([*dense(5, epochs=12), *imp((1, 2, 4), (0, 1), 5, epochs=12), *imp((2,), (0,), 5, epochs=9)])
    found = simulate(plan, (), (), slots, replicas, lambda trial: trial.spec.epochs)
    real = CohortSimulation(plan=plan, slots=slots, replicas=replicas, shape_of=lambda t: t.spec.epochs).run()
    assert (found.epochs, found.cohorts, found.largest) == (real.now, len(real.cohorts), max(map(len, real.cohorts)))
    assert found.trained == work_left(plan, (), ()).epochs


def test_idle_slots_take_as_long_as_used_ones() -> None:
    plan = planned(dense(6, epochs=10))
    found = simulate(plan, (), (), 1, 4, lambda _: "alike")
    assert (found.epochs, found.cohorts, found.largest) == (20, 2, 4)
    assert found.full(4) == pytest.approx(60 / 80)


def test_what_is_stored_is_not_trained_again() -> None:
    plan = planned([*dense(2, epochs=10), *imp((1,), (0,), 2, epochs=10)])
    node = next(trial.end for trial in plan.trials if trial.spec.is_dense and trial.spec.seed == 0)
    segment, _, _ = node.parts[-1]
    found = simulate(plan, (), {segment.key_at(4)}, 1, 2, lambda _: "alike")
    assert found.trained == 10 - 4 + 10 + 2 * 10
    done = [trial.name for trial in plan.trials]
    nothing = simulate(plan, done, {trial.end.key for trial in plan.trials}, 1, 2, lambda _: "alike")
    assert (nothing.epochs, nothing.full(2)) == (0, 1.0)
