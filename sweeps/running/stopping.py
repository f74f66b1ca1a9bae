"""End a launch in time, whatever its trials do: at a signal, when `--max-hours` are over, or at a storage in trouble.

First the trials are asked to stop: each stores the epoch that it is training, and ends. After GRACE_SECONDS the workers
of those that do not are ended, and after END_SECONDS more the launch ends without Ray Tune. Tune runs in a thread of
its own, so that nothing here waits for it. In a storage in trouble nothing can be stored, so there trials get no time.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from lth_trainable.signals import EXIT_CODES, words
from sweeps.running.resources import Budget
from sweeps.runs.health import Health

GRACE_SECONDS = 25.0  # for a trial to end its epoch; Slurm and spot instances give 30 s before they kill
END_SECONDS = 20.0  # for Tune to end, once no trial runs any more; on a cluster it waits up to 15 s for a hung worker
LOOK_SECONDS = 0.1
STORAGE = "the storage"


class StopRequest:
    """Whether the trials of a launch are to stop.

    reason: the name of a signal, the flag of a limit, or `STORAGE`; None: go on.
    """

    def __init__(
        self, budget: Budget, clock: Callable[[], float] = time.monotonic, health: Health | None = None
    ) -> None:
        self.budget, self.health, self.clock = budget, health or Health(), clock
        self.reason: str | None = None
        self._grace_ends, self._is_sick = 0.0, False

    def __call__(self) -> str | None:
        """The reason, if there is one by now: the time of the budget may be over."""
        if self.health.trouble is not None and not self._is_sick:
            self._is_sick, self._grace_ends, self.reason = True, self.clock(), self.reason or STORAGE
        if self.reason is None and self.budget.seconds_left() == 0:
            self.ask("--max-hours")
        return self.reason

    def ask(self, reason: str) -> None:
        """Ask the trials to stop. Asked again, no trial gets time any more."""
        if self.reason is None:
            self._grace_ends = self.clock() + GRACE_SECONDS
            self.reason = reason
        else:
            self._grace_ends = self.clock()

    @property
    def signal(self) -> str | None:
        """The signal that is the reason, if it is one."""
        return self.reason if self.reason in EXIT_CODES else None

    @property
    def is_over(self) -> bool:
        """Whether the time is over in which trials may end by themselves."""
        return self.reason is not None and self.clock() >= self._grace_ends

    @property
    def is_late(self) -> bool:
        """Whether Tune should have ended, too."""
        return self.reason is not None and self.clock() >= self._grace_ends + END_SECONDS


def see_to_the_end(
    is_running: Callable[[], bool], request: StopRequest, tell: Callable[[], bool], end_workers: Callable[[], None]
) -> bool:
    """Wait until Tune has ended, and see to it that it does in time. False if it does not.

    is_running: waits a moment, then says whether Tune is running. tell: lets the workers know that they are to stop;
    false if it could not. end_workers: ends those that have not stopped.
    """
    is_told = False
    while is_running():
        if request() is None:
            continue
        if not is_told and request.reason != STORAGE:
            _say(request)
            _until_told(tell, is_running)
            is_told = True
        if request.is_over:
            end_workers()
        if request.is_late:
            return False
    return True


def _until_told(tell: Callable[[], bool], is_running: Callable[[], bool]) -> None:
    """Tell the workers, again and again if Ray does not answer, in a thread, since that takes seconds."""

    def keep_telling() -> None:
        while not tell() and is_running():
            pass

    threading.Thread(target=keep_telling, daemon=True, name="stop request").start()


def _say(request: StopRequest) -> None:
    why = words(request.signal) if request.signal else f"{request.reason} is reached"
    again = "; Ctrl-C ends it at once" if request.signal else ""
    print(f"{why}: the trials store what they have trained and stop, in {GRACE_SECONDS:.0f} s{again}", file=sys.stderr)
