"""Watch the storage while a sweep runs: whether it is still there, takes what is written, and answers at all."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from lth_trainable import signals
from lth_trainable.errors import FAILED, StorageError, UserError
from lth_trainable.safe_text import one_line
from lth_trainable.store.store import PLAN, Store
from lth_trainable.store.trouble import GO_ON, LOST

BEAT_SECONDS = 5.0
SLOW_SECONDS = 10.0  # without an answer, after which a message says so
SILENCE_SECONDS = 150.0  # without an answer, after which the sweep ends; longer than an outage that the store waits for
END_SECONDS = 30.0  # for the sweep to end in order, once there is trouble; then its process is ended
LOOK_SECONDS = 0.5  # between two looks at the time of the last answer, and at a plan that seems to be gone


class Health:
    """What is wrong with the storage of a running sweep, if anything. Whoever notices it first notes it here.

    trouble: the message; None while all is well. Nothing else may be in here: Tune pickles what refers to it.
    """

    def __init__(self) -> None:
        self.trouble: str | None = None

    def note(self, trouble: object) -> None:
        """Note a trouble, unless there is one already: what follows from the first says less."""
        if self.trouble is None:
            self.trouble = str(trouble)

    def check(self) -> None:
        """Raise `StorageError` if there is trouble."""
        if self.trouble is not None:
            raise StorageError(self.trouble)


class Heartbeat:
    """Calls `beat`, which writes to the storage, every few seconds, and notes in `health` if the storage is in trouble.

    A storage that hangs would hang this thread too, so a second one looks at the time of the last answer. It also ends
    the process if the sweep cannot end by itself, because its main thread waits for the storage.
    """

    def __init__(self, store: Store, run: str, beat: Callable[[], None]) -> None:
        self.store, self.run, self.beat, self.health = store, run, beat, Health()
        self._answers = 0
        self._has_plan = False
        self._over, self._ended = threading.Event(), threading.Event()
        self._beating = threading.Thread(target=self._beats, daemon=True, name="heartbeat")
        self._watching = threading.Thread(target=self._watch, daemon=True, name="watch of the heartbeat")

    def start(self) -> None:
        self._beating.start()
        self._watching.start()

    def stop_beating(self) -> None:
        """No beat begins any more, and none is under way unless the storage hangs. The watch goes on until `stop`."""
        self._over.set()
        self._beating.join(SLOW_SECONDS if self.health.trouble is None else 0)

    def stop(self) -> None:
        self._ended.set()
        self._watching.join()

    # -- in the threads ----------------------------------------------------------------------------------------------

    def _beats(self) -> None:
        while not self._over.wait(BEAT_SECONDS) and self.health.trouble is None:
            try:
                self._look_for_the_plan()
                try:
                    self.beat()
                except FileNotFoundError:  # the run's folder was removed while it wrote there
                    self._look_for_the_plan()
            except (StorageError, UserError, OSError) as error:
                self.health.note(error)
            self._answers += 1

    def _look_for_the_plan(self) -> None:
        """Raise `StorageError` if the run's plan was there and is not any more."""
        path = f"{self.run}/{PLAN}"
        for _ in range(2):
            if self.store.exists(path):
                self._has_plan = True
                return
            if not self._has_plan or self._over.wait(LOOK_SECONDS):
                return
        raise StorageError(
            f"storage {self.store.uri}: found no {path} any more; expected what a sweep has written to stay while it "
            f"runs; if the file system was unmounted, {LOST}; {GO_ON}"
        )

    def _watch(self) -> None:
        said, silent, ending, answers, last = False, 0.0, 0.0, 0, time.monotonic()
        while not self._ended.wait(LOOK_SECONDS):
            now = time.monotonic()
            passed, last = min(now - last, 2 * LOOK_SECONDS), now  # this process may have been stopped for a while
            silent = silent + passed if answers == self._answers else -BEAT_SECONDS
            answers = self._answers
            if silent > SLOW_SECONDS and not said:
                said = True
                print(f"note: storage {self.store.uri} has not answered for {silent:.0f} s; waiting for it",
                      file=sys.stderr, flush=True)  # fmt: skip
            if silent > SILENCE_SECONDS:
                self.health.note(
                    f"storage {self.store.uri}: found no answer for {silent:.0f} s; expected one at once; {LOST}, "
                    f"{GO_ON}"
                )
            ending += passed if self.health.trouble is not None else 0
            if ending > END_SECONDS and self.health.trouble is not None:
                signals.end(f"error: {one_line(self.health.trouble)}", FAILED)
