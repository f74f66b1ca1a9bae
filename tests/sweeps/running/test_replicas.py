"""How many networks are trained as one, from curves that are made up."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest

from lth_trainable.stacking.shape import stack_shape
from lth_trainable.stacking.times import Curve, Time
from sweeps.experiments.expand import expand
from sweeps.experiments.recipes import mnist_lenet
from sweeps.planning.dispatch import Shape
from sweeps.planning.plan import Facts, Plan, make_plan
from sweeps.running.replicas import MOST_MEASURED, Question, choose, question
from tests.support.plans import dense, imp, planned


def curve(step: Callable[[int], float], most: int = 32, ended: str = "", file: str = "") -> Curve:
    numbers = [2**n for n in range(most.bit_length()) if 2**n <= most]
    return Curve(times=tuple(Time(k=k, step_s=step(k), validation_s=0.0) for k in numbers), ended=ended, file=file)


def asked(
    plan: Plan, slots: int = 1, on_a_gpu: int = 1, done: Collection[str] = (), shape_of: Shape = lambda _: "alike"
) -> Question:
    found = question(plan, done, shape_of, slots, on_a_gpu, lambda _: 20)
    assert isinstance(found, Question)
    return found


@pytest.fixture(scope="module")
def lenet() -> Plan:
    trials = expand(mnist_lenet()).trials
    return make_plan(trials, {trial.data_key: Facts(digest="d", n_train=55_000) for trial in trials})


def test_times_between_measured_numbers_lie_on_a_line_and_beyond_them_nothing_is_gained() -> None:
    found = Curve(times=(Time(k=1, step_s=1, validation_s=2), Time(k=4, step_s=4, validation_s=8),
                         Time(k=8, step_s=5, validation_s=10)))  # fmt: skip
    assert [found.at(k).step_s for k in (1, 2, 4, 6, 8, 16)] == [1, 2, 4, 4.5, 5, 10]
    assert [found.at(k).validation_s for k in (1, 8, 16)] == [2, 10, 20] and found.most == 8


@pytest.mark.parametrize(
    ("seeds", "numbers"),
    [(2, [1, 2]), (3, [1, 2, 3]), (10, [1, 2, 4, 8, 10]), (16, [1, 2, 4, 8, 16])],
)
def test_powers_of_two_and_what_is_ready_at_once_are_measured(seeds: int, numbers: list[int]) -> None:
    assert asked(planned(dense(seeds))).numbers == numbers


def test_no_more_are_measured_than_a_gpu_gains_from() -> None:
    found = asked(planned(dense(300)))
    assert found.ready == 300 and found.numbers == [1, 2, 4, 8, 16, 32, 64, MOST_MEASURED]


@pytest.mark.parametrize(("slots", "on_a_gpu", "replicas"), [(1, 1, 30), (2, 1, 15), (2, 2, 15), (3, 1, 10)], ids=str)
def test_the_recipe_for_lenet_gets_what_is_ready_at_a_level(
    lenet: Plan, slots: int, on_a_gpu: int, replicas: int
) -> None:
    """With 0.25 s an epoch and 0.004 s more for each network."""
    found = asked(lenet, slots, on_a_gpu, shape_of=lambda trial: stack_shape(trial.spec))
    assert found.ready == 30 and found.steps == 20 and found.validations == 1
    assert choose(found, curve(lambda k: 0.25 + 0.004 * k, most=64)).replicas == replicas


def test_networks_that_gain_nothing_from_each_other_train_alone() -> None:
    chosen = choose(asked(planned(dense(10))), curve(lambda k: 0.002 * k, most=2, ended="2 are no faster than 1"))
    assert chosen.replicas == 1
    assert chosen.why == "because a step of 2 networks takes 4 ms, one of 1 2 ms"


def test_of_equal_times_the_smallest_number_is_chosen_and_none_beyond_what_was_measured() -> None:
    """Ten networks one after another in two steps of five, or of eight and two."""
    chosen = choose(asked(planned(dense(10))), curve(lambda k: 1.0, most=8, ended="no room", file="runs/c.json"))
    assert chosen.replicas == 5
    assert chosen.why == "because a step of 5 networks takes 1e+03 ms, one of 1 1e+03 ms (curve: runs/c.json)"


def test_the_number_is_chosen_for_what_is_left() -> None:
    plan = planned(dense(10))
    done = [trial.name for trial in plan.trials][:7]
    assert choose(asked(plan, done=done), curve(lambda k: 1.0)).replicas == 3


def test_validations_count() -> None:
    """A step gains from many networks, a validation does not."""
    plan = planned(dense(8, validate_every=1))
    found = asked(plan)
    assert found.validations == 20
    times = tuple(Time(k=k, step_s=0.01, validation_s=0.1 * k) for k in (1, 2, 4, 8))
    assert found.epoch(Curve(times=times), 4) == pytest.approx(20 * 0.01 + 20 * 0.4)
    assert choose(found, Curve(times=times)).replicas > 1
    assert choose(asked(planned(dense(8))), Curve(times=times)).replicas == 8


def test_stacks_that_share_a_gpu_are_not_faster_than_one_of_all_their_networks() -> None:
    plan = planned(dense(8))
    times = curve(lambda k: float(k), most=8)
    assert asked(plan, 2, 2).epoch(times, 2) == 20 * 4.0
    assert asked(plan, 2, 1).epoch(times, 2) == 20 * 2.0


def test_where_no_trials_can_train_together_that_is_said() -> None:
    chain = planned([*dense(1), *imp((1, 2), (0,), 1)])
    assert question(chain, (), lambda _: "alike", 1, 1, lambda _: 20) == (
        "because no two trials of one shape can be trained at the same time"
    )
    alone = "because none of its trials can be trained together with others"
    assert question(planned(dense(4)), (), lambda _: None, 1, 1, lambda _: 20) == alone
    every = planned(dense(4))
    assert question(every, [t.name for t in every.trials], lambda _: "alike", 1, 1, lambda _: 20) == alone


def test_the_most_frequent_shape_is_measured() -> None:
    plan = planned([*dense(2, batch_size=40), *dense(3, batch_size=60)])
    assert asked(plan, shape_of=lambda trial: trial.spec.batch_size).trial.spec.batch_size == 60
