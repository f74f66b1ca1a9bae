"""A launch that is asked to end, by a signal or because its time is over: who is told when. Without Ray."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lth_trainable.store.store import Store
from sweeps.planning.dispatch import Dispatcher
from sweeps.running import worker
from sweeps.running.launch import launch
from sweeps.running.resources import Budget, Resources, Spent
from sweeps.running.searcher import PlanSearcher
from sweeps.running.stopping import END_SECONDS, GRACE_SECONDS, StopRequest, see_to_the_end
from sweeps.runs.ledger import Ledger
from tests.support.plans import dense, planned


class Clock:
    """Seconds, which pass only when Tune is waited for."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Tune:
    """Runs until a given second, or until its workers have been ended, and counts what it is told."""

    def __init__(self, clock: Clock, ends: float = float("inf"), heeds: bool = True) -> None:
        self.clock, self.ends, self.heeds = clock, ends, heeds
        self.ended: list[float] = []
        self.events: dict[float, Callable[[], None]] = {}

    def is_running(self) -> bool:
        self.clock.now += 0.5
        for second in [s for s in self.events if s <= self.clock.now]:
            self.events.pop(second)()
        return self.clock.now < self.ends and not (self.ended and self.heeds)

    def end_workers(self) -> None:
        self.ended.append(self.clock.now)


def told(answers: Iterator[bool]) -> Callable[[], bool]:
    def tell() -> bool:
        time.sleep(0.01)
        return next(answers)

    return tell


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("sweeps.running.resources.time.monotonic", clock)
    return clock


def see(tune: Tune, request: StopRequest, answers: Iterator[bool] | None = None) -> bool:
    tell = told(itertools.repeat(True) if answers is None else answers)
    return see_to_the_end(tune.is_running, request, tell, tune.end_workers)


def test_nobody_is_told_anything_while_nothing_happens(clock: Clock) -> None:
    tune = Tune(clock, ends=1100.0)
    assert see(tune, StopRequest(Budget(), clock), answers=iter(())) and not tune.ended


def test_the_time_of_the_budget_ends_a_launch_without_any_report(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    tune, request = Tune(clock), StopRequest(Budget(hours=1.0, started=1000.0), clock)
    assert see(tune, request) and request.reason == "--max-hours" and request.signal is None
    assert tune.ended == [pytest.approx(1000 + 3600 + GRACE_SECONDS, abs=1.0)]
    err = capsys.readouterr().err
    assert err == "--max-hours is reached: the trials store what they have trained and stop, in 25 s\n"


def test_trials_that_stop_by_themselves_are_not_ended(clock: Clock) -> None:
    tune, request = Tune(clock, ends=1020.0), StopRequest(Budget(), clock)
    tune.events[1010.0] = lambda: request.ask("SIGTERM")
    assert see(tune, request) and not tune.ended and request.signal == "SIGTERM"


def test_if_tune_does_not_end_either_it_is_left(clock: Clock) -> None:
    tune, request = Tune(clock, heeds=False), StopRequest(Budget(), clock)
    tune.events[1010.0] = lambda: request.ask("SIGINT")
    assert not see(tune, request)
    assert clock.now == pytest.approx(1010 + GRACE_SECONDS + END_SECONDS, abs=1.0)


def test_asked_twice_no_trial_gets_time_any_more(clock: Clock) -> None:
    tune, request = Tune(clock), StopRequest(Budget(), clock)
    tune.events[1010.0] = lambda: request.ask("SIGINT")
    tune.events[1012.0] = lambda: request.ask("SIGINT")
    assert see(tune, request) and tune.ended == [1012.0]


def test_the_first_reason_stays(clock: Clock) -> None:
    request = StopRequest(Budget(hours=1.0, started=1000.0), clock)
    request.ask("SIGUSR1")
    clock.now += 3600
    assert request() == "SIGUSR1"


def test_a_control_store_that_does_not_answer_is_asked_again(clock: Clock) -> None:
    answers = iter([False, False, True])
    tune, request = Tune(clock), StopRequest(Budget(), clock)
    request.ask("SIGTERM")
    running = tune.is_running
    tune.is_running = lambda: time.sleep(0.01) or running()  # type: ignore[method-assign, func-returns-value]
    assert see(tune, request, answers)
    assert next(answers, None) is None


def searcher(request: Callable[[], str | None], policy: str = "needed") -> PlanSearcher:
    plan = planned(dense(2, epochs=20), policy)
    dispatcher = Dispatcher(plan, (), (), 1)
    return PlanSearcher(
        dispatcher, Spent(), Budget(), lambda trial: {"name": trial.name}, lambda *_: True, asked=request
    )


def result(*stored: str, **more: Any) -> dict[str, Any]:
    return {"epochs_done": 3, "level": 0, "stored": list(stored), "fingerprint": "{}", **more}


def test_asked_to_stop_a_trial_ends_where_it_has_stored_and_no_other_starts() -> None:
    asked: list[str] = []
    of = searcher(lambda: asked[0] if asked else None)
    assert isinstance(of.suggest("a"), dict)
    assert not of.should_stop("a", result("key"))
    asked.append("SIGTERM")
    assert not of.should_stop("a", result()), "its epoch is not stored yet"
    assert not of.should_stop("a", result(status="done"))
    assert not of.should_stop("a", result(of.trials["a"].end.key)), "it ends by itself"
    assert of.should_stop("a", result("key"))
    assert of.suggest("b") == "FINISHED"


def test_where_nothing_can_be_continued_a_trial_stops_at_once() -> None:
    of = searcher(lambda: None, policy="none")
    of.suggest("a")
    assert not of.should_stop("a", result())
    of.asked = lambda: "SIGTERM"
    assert of.should_stop("a", result())


def test_a_worker_looks_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    now = Clock()
    monkeypatch.setattr(worker.time, "monotonic", now)
    monkeypatch.setattr(worker, "is_flag_set", lambda launch: looks.append(launch) or len(looks) == 2)
    sign = worker.StopSign("the launch")
    seen = []
    for _ in range(5):
        seen.append(sign())
        now.now += 0.4
    assert seen == [False, False, False, True, True] and looks == ["the launch"] * 2


def test_if_planning_has_taken_all_the_time_ray_does_not_start(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.running.launch.ray_here", lambda: pytest.fail("Ray starts"))
    plan = planned(dense(1, epochs=2))
    ledger = Ledger(store=store, run="r", plan=plan, facts={})
    budget = Budget(hours=0.1, started=time.monotonic() - 361)
    outcome = launch(ledger, Dispatcher(plan, (), (), 1), Resources(), {}, Spent(), budget)
    assert (outcome.stopped_by, outcome.interrupted, outcome.epochs) == ("--max-hours", False, 0)
