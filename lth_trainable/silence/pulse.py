"""Signs of life of the trial that this process trains. They cost a tenth of a microsecond and need no torch.

They are counters in memory. `watchdog.py` shares them with a process that ends this one when they stand still.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lth_trainable.silence.watcher import BEATS, DOING, EPOCH, LEVEL, N_COUNTERS, STEPPED, STORING, WAITING

_counters: memoryview[int] = memoryview(bytearray(8 * N_COUNTERS)).cast("q")


def use(counters: memoryview[int]) -> None:
    """Count in this memory from now on."""
    global _counters
    _counters = counters


def beat() -> None:
    """A sign of life: an image is decoded, a batch is evaluated, a file is stored."""
    _counters[BEATS] += 1


def beats() -> int:
    """How many signs of life there were."""
    return _counters[BEATS]


def step() -> None:
    """A sign of life of the learner: it has trained or validated a batch."""
    _counters[BEATS] += 1
    _counters[STEPPED] = 1


def at(level: int, epoch: int) -> None:
    """Note where the trial is, for the message about its silence."""
    _counters[LEVEL], _counters[EPOCH] = level, epoch


def storing() -> contextlib.AbstractContextManager[None]:
    """The trial stores something within this block."""
    return _doing(STORING)


def waiting() -> contextlib.AbstractContextManager[None]:
    """The trial waits for the driver within this block, which is not its silence."""
    return _doing(WAITING)


@contextlib.contextmanager
def _doing(what: int) -> Iterator[None]:
    before, _counters[DOING] = _counters[DOING], what
    beat()
    try:
        yield
    finally:
        _counters[DOING] = before
        beat()
