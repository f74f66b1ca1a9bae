"""How silence is measured: on counters and seconds that a test makes up."""

from __future__ import annotations

import math

import pytest

from lth_trainable.errors import UserError
from lth_trainable.silence.watchdog import check_limit
from lth_trainable.silence.watcher import SECTION, Silence, section


def looked(silence: Silence, *looks: tuple[int, float], stepped: bool = True, waits: bool = False) -> Silence:
    """After looks of (beats, seconds since the look before)."""
    for beats, passed in looks:
        silence.look(beats, stepped, waits, passed)
    return silence


def test_silence_is_the_time_since_the_last_beat() -> None:
    silence = looked(Silence(10), (1, 1), (1, 4), (1, 4))
    assert silence.seconds == 8 and not silence.is_over
    assert looked(silence, (1, 4)).is_over
    assert looked(silence, (2, 1)).seconds == 0 and not silence.is_over


def test_before_its_first_step_a_trial_may_be_silent_longer() -> None:
    silence = looked(Silence(10), (1, 1), (1, 49), stepped=False)
    assert not silence.is_over
    assert looked(silence, (1, 1), stepped=False).is_over


def test_a_trial_that_waits_for_the_driver_is_not_silent() -> None:
    silence = looked(Silence(10), (1, 1), (1, 100), (1, 100), waits=True)
    assert silence.seconds == 0
    assert looked(silence, (1, 9)).seconds == 9


@pytest.mark.parametrize(("pause", "allowed"), [(0.0, 300.0), (6.0, 300.0), (20.0, 1000.0)])
def test_the_default_limit_follows_the_longest_pause_between_steps(pause: float, allowed: float) -> None:
    silence = looked(Silence(), (1, 1), (1, pause), (2, 1), (2, 1), (3, 1))
    assert silence.allowed == allowed


def test_the_time_until_the_first_step_is_no_pause_between_steps() -> None:
    silence = looked(Silence(), (1, 1), (1, 200), stepped=False)
    assert silence.allowed == 1500
    assert looked(silence, (2, 1)).allowed == 300


STACK = f"""Thread 0x0000000000000001{SECTION}
  File "queue.py", line 180 in get

Thread 0x0000000000000002{SECTION}
  File "mine.py", line 4 in forward
  File "trainable.py", line 60 in train
"""


def test_the_stack_of_a_thread_has_its_last_call_at_the_end() -> None:
    lines = section(STACK, "0x0000000000000002").splitlines()
    assert lines == [
        "Stack (most recent call last):", '  File "trainable.py", line 60 in train',
        '  File "mine.py", line 4 in forward',
    ]  # fmt: skip
    assert section(STACK, "0x0000000000000003") == ""


@pytest.mark.parametrize("good", [None, 0.0, 1.0, 1e6])
def test_limits(good: float | None) -> None:
    check_limit("trial-silence", good)


@pytest.mark.parametrize("bad", [-1.0, 0.5, math.nan, math.inf, -math.inf])
def test_what_is_no_limit_is_refused(bad: float) -> None:
    with pytest.raises(UserError, match=r"trial-silence: found .*; expected at least 1 second, or 0 for no limit"):
        check_limit("trial-silence", bad)
