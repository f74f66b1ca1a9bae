"""A trial that is asked to stop: the epoch that it has just trained is stored and reported, whatever it keeps else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store
from lth_trainable.training.run import Keep, run_trial
from tests.support.kills import SPECS, Killed, temporary, uninterrupted

KINDS = ["dense", "imp", "imp to an iteration", "fine_tuning", "iterative", "dsd", "reinit of a ticket at an iteration"]


def after(epochs: int) -> Callable[[], bool]:
    """Is asked once an epoch, and true from the epoch of this number on."""
    looks: list[None] = []

    def should_stop() -> bool:
        looks.append(None)
        return len(looks) >= epochs

    return should_stop


def ends(_: str) -> None:
    raise Killed("as Ray Tune does at this report")


@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("name", KINDS)
def test_a_trial_that_is_asked_to_stop_loses_no_epoch(name: str, epochs: int, store: Store) -> None:
    spec, whole = TrialSpec(**SPECS[name]), uninterrupted(name, store.root)
    with pytest.raises(Killed):
        run_trial(spec, store, "r", on_state=ends, should_stop=after(epochs))
    record = run_trial(spec, store, "r")
    assert record["sha256"] == whole["sha256"]
    assert record["epochs_trained"] == whole["epochs_trained"] - epochs
    assert temporary(store) == []


def test_asked_when_only_its_end_is_missing_it_ends(store: Store) -> None:
    spec, whole = TrialSpec(**SPECS["dense"]), uninterrupted("dense", store.root)
    record = run_trial(spec, store, "r", on_state=ends, should_stop=after(5))
    assert record["sha256"] == whole["sha256"] and record["epochs_trained"] == 5


def test_a_trial_that_could_not_go_on_from_a_state_is_not_asked(store: Store) -> None:
    def should_stop() -> bool:
        raise AssertionError("it has nothing to store")

    keep = Keep(states={}, resumable=False)
    record = run_trial(TrialSpec(**SPECS["dense"]), store, "r", keep=keep, should_stop=should_stop)
    assert record["epochs_trained"] == 5
