"""Ends a process whose trial has not trained a step for too long.

It runs as a process of its own, because nothing within a process can end it when it is stopped (SIGSTOP) or hangs in a
call that does not let other threads run. It reads the counters that the trial increments (`pulse.py`), and imports
nothing of this project, so that it starts in hundredths of a second and needs little memory:

    python -I -S watcher.py COUNTERS STACK PID

COUNTERS, STACK: numbers of two inherited files, the counters and what Python's faulthandler writes. PID: of the process
to watch, which is the parent. Each line on standard input is an `Order` as JSON.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # of `typing`, whose import would double the start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

BEATS, STEPPED, LEVEL, EPOCH, DOING, WATCHED, N_COUNTERS = range(7)  # places of the counters, and their number
TRAINING, STORING, WAITING = range(3)  # values of DOING
LEAST_SECONDS = 300.0  # default limit
PAUSES = 50  # by default, so many times the longest pause between two steps is allowed too
BEFORE_FIRST_STEP = 5  # times the limit: data are unpacked, libraries choose their kernels
LOOK_SECONDS = 1.0  # between two looks
STACK_SECONDS = 2.0  # for Python to write where it hangs
TELL_SECONDS = 30.0  # to note the failure in the storage
STACK_SIGNAL = signal.SIGUSR2
SECTION = " (most recent call first):"


class Silence:
    """Measures how long a trial has been silent. limit: seconds; None for one that follows its pace.

    seconds: of silence so far. longest: the longest pause between two steps so far.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.limit, self.seconds, self.longest, self.has_stepped = limit, 0.0, 0.0, False
        self.beats: int | None = None

    def look(self, beats: int, stepped: int, waits: bool, passed: float) -> None:
        """Note the counters `passed` seconds after the last look. waits: silence is in order, as for the driver."""
        if beats == self.beats and not waits:
            self.seconds += passed
            return
        if self.has_stepped:
            self.longest = max(self.longest, self.seconds)
        self.beats, self.has_stepped, self.seconds = beats, bool(stepped), 0.0

    @property
    def allowed(self) -> float:
        """Seconds of silence that are allowed now."""
        least = LEAST_SECONDS if self.limit is None else self.limit
        if not self.has_stepped:
            return BEFORE_FIRST_STEP * least
        return least if self.limit is not None else max(least, PAUSES * self.longest)

    @property
    def is_over(self) -> bool:
        return self.seconds >= self.allowed


def watch(counters: memoryview[int], stack: int, pid: int) -> None:
    """Follow the orders on standard input until the process `pid` ends, by itself or ended here."""
    order: dict[str, Any] | None = None
    silence, last, rest = Silence(), time.monotonic(), b""
    while os.getppid() == pid:
        pause = LOOK_SECONDS if silence.limit is None else min(LOOK_SECONDS, silence.limit / 4)
        if select.select([0], [], [], pause)[0]:
            chunk = os.read(0, 1 << 16)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            order = json.loads(lines[-1]) if lines else order
        now = time.monotonic()
        # a longer gap means that this process was stopped as well, or the machine slept
        passed, last = min(now - last, 2 * pause), now
        if order is None or counters[WATCHED] != order["number"]:
            continue
        if order.get("silence") is None:
            order["silence"] = silence = Silence(order["limit"])
        silence.look(counters[BEATS], counters[STEPPED], counters[DOING] == WAITING, passed)
        if silence.is_over and end(order, counters, stack, pid):
            return
    if order is not None and counters[WATCHED] == order["number"]:
        tell_of_crash(order, counters, stack)


def end(order: dict[str, Any], counters: memoryview[int], stack: int, pid: int) -> bool:
    """Stop the process, note why, and kill it. False if it showed a sign of life just before it was stopped."""
    silence, was_stopped = order["silence"], state_of(pid) in "Tt"
    hung = "" if was_stopped else stack_of(pid, stack, order["thread"])
    os.kill(pid, signal.SIGSTOP)  # a step that ends while the failure is noted would otherwise go on
    wait_until(lambda: state_of(pid) in "Tt", STACK_SECONDS)
    if (counters[BEATS], counters[WATCHED]) != (silence.beats, order["number"]):
        if not was_stopped:
            os.kill(pid, signal.SIGCONT)
        return False
    what = "; its process was stopped" if was_stopped else ""
    tell(order, f"no step for {silence.seconds:.0f} s {place(counters)}{what}", hung)
    if os.getppid() == pid:
        os.kill(pid, signal.SIGKILL)
    return True


def place(counters: memoryview[int]) -> str:
    """Where in its training a trial is, in words."""
    if not counters[STEPPED]:
        return "before the first one"
    where = f"at level {counters[LEVEL]}, epoch {counters[EPOCH]}"
    return where + (", while a state was stored" if counters[DOING] == STORING else "")


def tell_of_crash(order: dict[str, Any], counters: memoryview[int], stack: int) -> None:
    """If the process has crashed (a segmentation fault, an abort), note that and where."""
    text = read(stack)
    if text.startswith("Fatal Python error: "):
        error = text.splitlines()[0].partition(": ")[2]
        tell(order, f"its process crashed {place(counters)}: {error}", section(text, order["thread"]))


def tell(order: dict[str, Any], reason: str, hung: str) -> None:
    """Run the order's command with the failure on its standard input. A storage that hangs must not hang this."""
    import subprocess

    failure = dict(order["failure"], reason=reason, traceback=hung)
    environment = dict(os.environ, PYTHONPATH=order["path"])
    try:
        subprocess.run(
            order["tell"], input=json.dumps(failure).encode(), env=environment, timeout=TELL_SECONDS, check=False,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:  # it ends the process all the same
        print(f"{reason}; cannot be noted: {error}", file=sys.stderr)


def stack_of(pid: int, stack: int, thread: str) -> str:
    """Where a Python thread of the process is now; empty if it cannot say."""
    os.ftruncate(stack, 0)
    os.lseek(stack, 0, os.SEEK_SET)  # the process shares this position
    os.kill(pid, STACK_SIGNAL)
    wait_until(lambda: bool(read(stack)), STACK_SECONDS)
    time.sleep(0.1)  # it writes thread after thread
    return section(read(stack), thread)


def section(text: str, thread: str) -> str:
    """The calls of one thread, the last one at the end as in Python's tracebacks."""
    for part in text.split("\n\n"):
        head, _, calls = part.partition(SECTION)
        if thread in head:
            lines = calls.strip("\n").splitlines()
            return "\n".join(["Stack (most recent call last):", *lines[::-1]]) + "\n"
    return ""


def read(file: int) -> str:
    return os.pread(file, 1 << 20, 0).decode(errors="replace")


def state_of(pid: int) -> str:
    """The letter of the process's state (T: stopped), as in `ps`; "?" on systems without /proc."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(") ")[2][:1] or "?"
    except OSError:
        return "?"


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def main() -> None:
    counters, stack, pid = (int(argument) for argument in sys.argv[1:4])
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)  # they are for the command; this process ends with its parent
    try:
        watch(memoryview(mmap.mmap(counters, 8 * N_COUNTERS)).cast("q"), stack, pid)
    except ProcessLookupError:  # it has just ended by itself
        return


if __name__ == "__main__":
    main()
