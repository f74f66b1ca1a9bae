"""The parts of the time add up, and nothing is measured that nobody asked for."""

from __future__ import annotations

import threading
import time

import pytest

from lth_trainable.stopwatch import OTHER, PARTS, current, part, running


@part("pruning")
def pruned(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


def test_a_part_within_another_one_counts_alone_and_all_add_up_to_the_wall_time() -> None:
    with running() as stopwatch:
        assert stopwatch is not None
        with part("training"):
            time.sleep(0.02)
            assert pruned(0.03) == "done"
            with part("validation"), part("waiting"):
                time.sleep(0.01)
        wall, seconds = stopwatch.read()
    assert set(seconds) == set(PARTS)
    assert sum(seconds.values()) == pytest.approx(wall, abs=1e-9)
    assert seconds["pruning"] >= 0.03 and seconds["training"] >= 0.02 and seconds["waiting"] >= 0.01
    assert seconds["validation"] < 0.01 and seconds[OTHER] < wall - 0.06 + 1e-9


def test_it_can_be_read_within_a_part_and_goes_on() -> None:
    with running() as stopwatch:
        assert stopwatch is not None
        with part("storing"):
            first = stopwatch.read()
            time.sleep(0.01)
            again = stopwatch.read()
    assert again[1]["storing"] - first[1]["storing"] >= 0.01
    assert all(sum(seconds.values()) == pytest.approx(wall, abs=1e-9) for wall, seconds in (first, again))


def test_an_exception_ends_its_part() -> None:
    with running() as stopwatch:
        assert stopwatch is not None
        with pytest.raises(ZeroDivisionError), part("storing"):
            _ = 1 / 0
        before = stopwatch.read()[1]["storing"]
        time.sleep(0.01)
        assert stopwatch.read()[1]["storing"] == before


def test_without_being_asked_nothing_is_measured() -> None:
    with running(False) as stopwatch, part("training"):
        assert stopwatch is None and current() is None
    assert pruned(0) == "done"


def test_a_stopwatch_within_another_one_is_the_same_and_other_threads_have_none() -> None:
    found: list[object] = []
    with running() as outer:
        with running() as inner:
            assert inner is outer
        assert current() is outer  # the inner block did not end it
        thread = threading.Thread(target=lambda: found.append((current(), pruned(0))))
        thread.start()
        thread.join()
    assert found == [(None, "done")] and current() is None


def test_the_time_before_a_trial_is_since_the_last_one() -> None:
    with running():
        pass
    time.sleep(0.02)
    with running() as second:
        assert second is not None and second.idle is not None and second.idle >= 0.02


def test_the_device_is_waited_for_where_a_part_begins_or_ends() -> None:
    waits: list[int] = []
    with running() as stopwatch:
        assert stopwatch is not None
        stopwatch.settle = lambda: waits.append(1)
        with part("training"):
            assert len(waits) == 1
        assert len(waits) == 2


def test_an_exception_is_not_hidden_by_a_device_that_is_broken() -> None:
    def broken() -> None:
        raise RuntimeError("the device is broken")

    with running() as stopwatch:
        assert stopwatch is not None
        with pytest.raises(ZeroDivisionError), part("training"), part("storing"):
            stopwatch.settle = broken
            _ = 1 / 0
        assert stopwatch.settle is broken
