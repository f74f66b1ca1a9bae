from __future__ import annotations

from fractions import Fraction
from functools import partial

import pytest
from fastai.callback.schedule import sched_cos, sched_lin

from lth_trainable.errors import UserError
from lth_trainable.pruning.schedules import SCHEDULES, Schedule, sched_iterative, sched_one_shot

WITHIN_FIT = [name for name, rule in SCHEDULES.items() if rule.function]


def test_the_tutorial_prunes_at_5_10_15() -> None:
    events = Schedule(sched_iterative, start_pct=0.25).prunes(20, Fraction(1, 2))
    assert [(e.epoch, e.sparsity) for e in events] == [(5, Fraction(1, 6)), (10, Fraction(1, 3)), (15, Fraction(1, 2))]


@pytest.mark.parametrize("name", WITHIN_FIT)
@pytest.mark.parametrize("n_epochs", [7, 20, 33])
def test_schedules_reach_their_target_exactly_and_prune_at_most_once_an_epoch(name: str, n_epochs: int) -> None:
    target = Fraction(9, 10)
    rule = SCHEDULES[name]
    events = Schedule(rule.function).prunes(n_epochs, target)  # type: ignore[arg-type]
    epochs = [event.epoch for event in events]
    assert epochs == sorted(set(epochs)) and max(epochs) < n_epochs
    values = [event.sparsity for event in events]
    assert max(values) == target
    if rule.peaks:
        peak = values.index(target)
        assert values[: peak + 1] == sorted(values[: peak + 1])
        assert values[peak:] == sorted(values[peak:], reverse=True) and values[-1] == 0
    else:
        assert values == sorted(values) and values[-1] == target


@pytest.mark.parametrize("name", WITHIN_FIT)
def test_gradual_schedules_leave_epochs_to_train_after_the_last_prune(name: str) -> None:
    rule = SCHEDULES[name]
    events = Schedule(rule.function).prunes(20, Fraction(1, 2))  # type: ignore[arg-type]
    assert events[-1].epoch <= 15


@pytest.mark.parametrize("function", [sched_cos, sched_lin])
def test_fastais_own_functions_are_accepted(function: object) -> None:
    events = Schedule(function).prunes(20, Fraction(4, 5))  # type: ignore[arg-type]
    assert events[-1].sparsity == Fraction(4, 5) and len(events) > 10


@pytest.mark.parametrize("steps", range(1, 9))
@pytest.mark.parametrize("start", [0.0, 0.1, 0.2, 0.25, 0.5])
def test_steps_fall_on_their_boundaries(steps: int, start: float) -> None:
    """Where the boundary of a step is an epoch, the prune happens there and not an epoch off."""
    n_epochs = 40 * steps
    schedule = Schedule(partial(sched_iterative, n_steps=steps), start_pct=start)
    first = Fraction(str(start)) * n_epochs
    width = (n_epochs - first) / steps
    assert [event.epoch for event in schedule.prunes(n_epochs, Fraction(1, 2))] == [
        int(-((first + i * width) // -1)) for i in range(steps)
    ]


def test_end_pct_1_still_reaches_the_target() -> None:
    events = Schedule(SCHEDULES["linear"].function, end_pct=1.0).prunes(10, Fraction(1, 2))  # type: ignore[arg-type]
    assert events[-1].epoch == 9 and events[-1].sparsity == Fraction(1, 2)


def test_too_few_epochs_are_an_error() -> None:
    with pytest.raises(UserError, match="no room for 3 pruning steps in 2 epochs"):
        Schedule(sched_iterative).prunes(2, Fraction(1, 2))
    with pytest.raises(UserError, match="no room for 1 pruning step in"):
        Schedule(sched_one_shot).prunes(1, Fraction(1, 2))
