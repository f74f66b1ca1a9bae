"""A process with one trial under watch, which does what its arguments say:

python -m tests.support.silent STORAGE WHAT LIMIT
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time

from lth_trainable.silence import pulse
from lth_trainable.silence.watchdog import Watch, watched
from lth_trainable.store.failures import Note

NEVER_BEGIN = ("never_begin", "slept")


def steps(seconds: float) -> None:
    """Steps of 20 ms."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.02)
        pulse.step()


def hang() -> None:
    time.sleep(600)


def hang_in_c() -> None:
    """In a C function that keeps Python's lock, so that no other thread of this process runs."""
    library, lock = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(lock)
    library.pthread_mutex_lock(lock)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def store() -> None:
    with pulse.storing():
        hang()


def wait() -> None:
    """For the driver, longer than a trial may be silent."""
    with pulse.waiting():
        time.sleep(4)


def crash() -> None:
    ctypes.string_at(0)


def leave() -> None:
    os._exit(5)


def fork_and_leave() -> None:
    """As a loader does that is not ended: a process of its own goes on, with all that it has inherited."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(20,))
    child.start()
    os._exit(5)


def go_on() -> None:
    steps(4)


def main(storage: str, what: str, limit: float) -> None:
    note = Note(storage=storage, path=f"run/trials/{what}", launch="this")
    with watched(Watch(limit=limit, tell=("-m", "lth_trainable.store.failures"), failure=note.as_json())):
        if what not in NEVER_BEGIN:
            pulse.at(2, 7)
            steps(0.3)
        globals().get(what, hang)()
    time.sleep(2)  # longer than the limit, but no trial any more


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
