"""A trial that finds no memory beside others on its GPU is tried again beside half as many. No GPU and no Ray here."""

from __future__ import annotations

from typing import Any

from lth_trainable.errors import NoRoom
from lth_trainable.tune.attempt import AttemptAlone, TrialFailed
from lth_trainable.tune.progress import Reports
from lth_trainable.tune.reports import NO_ROOM
from sweeps.planning.dispatch import Dispatcher
from sweeps.running.packing import Packing
from sweeps.running.resources import Budget, Spent
from sweeps.running.searcher import PlanSearcher
from tests.support.plans import dense, planned


def searcher_of(n_trials: int, packing: Packing) -> PlanSearcher:
    dispatcher = Dispatcher(planned(dense(seeds=n_trials)), (), (), packing.slots)
    return PlanSearcher(
        dispatcher, Spent(), Budget(), lambda trial: {"place": packing.place(trial.name), "trial": trial.name},
        lambda *_: False, packing=packing,
    )  # fmt: skip


def start(searcher: PlanSearcher, *ids: str) -> list[Any]:
    return [searcher.suggest(name) for name in ids]


def end(searcher: PlanSearcher, trial_id: str, status: str, sharing: int = 1) -> None:
    searcher.on_trial_complete(trial_id, {"status": status, "sharing": sharing, "epochs_done": 3})


def test_the_number_is_halved_and_the_trial_handed_out_again() -> None:
    searcher = searcher_of(8, Packing(gpus=1, on_each=4, environment={}))
    first = start(searcher, "a", "b", "c", "d")
    assert [config["place"].sharing for config in first] == [4] * 4 and searcher.suggest("e") is None
    end(searcher, "b", NO_ROOM, 4)
    assert searcher.suggest("e") is None, "three are still running, and now two are to share the GPU"
    end(searcher, "a", "done")
    end(searcher, "c", "done")
    (again,) = start(searcher, "e")
    assert again["trial"] == first[1]["trial"], "it is the next"
    assert (again["place"].sharing, again["place"].attempt) == (2, 1)
    assert searcher.suggest("f") is None
    assert not searcher.spent.failed


def test_trials_that_find_no_memory_at_the_same_time_halve_it_once() -> None:
    packing = Packing(gpus=1, on_each=8, environment={})
    searcher = searcher_of(8, packing)
    start(searcher, *"abcdefgh")
    for name in "abc":
        end(searcher, name, NO_ROOM, 8)
    assert packing.on_each == 4 and len(packing.notes) == 1 and "4 instead of 8 trials" in packing.notes[0]
    for name in "defgh":
        end(searcher, name, "done")
    assert [config["place"].sharing for config in start(searcher, *"ijk")] == [4, 4, 4]
    end(searcher, "i", NO_ROOM, 4)
    assert packing.on_each == 2 and len(packing.notes) == 2


def test_every_trial_is_done_in_the_end_and_none_is_forgotten() -> None:
    packing = Packing(gpus=2, on_each=8, environment={})
    searcher, number, done = searcher_of(30, packing), 0, set[str]()
    while len(done) < 30:
        while isinstance(searcher.suggest(f"t{number}"), dict):
            number += 1
        trial_id, trial = next(iter(searcher.trials.items()))
        sharing, on = packing._places[trial.name].sharing, [place.gpu for place in packing._places.values()]
        assert max(map(on.count, on)) <= 8
        end(searcher, trial_id, "done" if sharing <= 2 else NO_ROOM, sharing)
        done |= {trial.name} if sharing <= 2 else set()
    assert packing.on_each == 2 and searcher.suggest("last") == PlanSearcher.FINISHED


def test_an_attempt_beside_others_leaves_no_failure_and_one_alone_does() -> None:
    def attempt(place: dict[str, Any] | None) -> Any:
        made = object.__new__(AttemptAlone)
        made.task, made.progress = {"place": place}, Reports("end", False)
        made.note, made.trial = Note(), "t"  # type: ignore[assignment]
        return made.fail(NoRoom("no memory"))

    class Note:
        before = None

        def leave(self, reason: str, *_: Any, **__: Any) -> str:
            return reason

    beside = attempt({"sharing": 4})
    assert beside.report["status"] == NO_ROOM and beside.report["sharing"] == 4
    for alone in (None, {"sharing": 1}):
        assert isinstance(attempt(alone), TrialFailed)
