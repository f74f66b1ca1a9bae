"""Has this process ended if its trial does not train for too long: starts the process that watches it."""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import json
import mmap
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lth_trainable.errors import bad_value
from lth_trainable.silence import pulse, watcher
from lth_trainable.silence.watcher import DOING, N_COUNTERS, STEPPED, TRAINING, WATCHED

OFF = 0.0
SHORTEST = 1.0


def check_limit(where: str, seconds: float | None) -> None:
    """Raise `UserError` unless this is a limit for silence: 0 (no limit), 1 or more seconds, or None."""
    if seconds is not None and seconds != OFF and not SHORTEST <= seconds < float("inf"):
        raise bad_value(where, seconds, "at least 1 second, or 0 for no limit")


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How a trial is watched.

    limit: seconds without a step after which its process is ended; None follows the pace of the trial (see
    `watcher.Silence`), 0 is no limit. tell: command that notes why, before the process is ended. failure: what this
    command reads as JSON from standard input; `reason` and `traceback` are added.
    """

    limit: float | None
    tell: Sequence[str]
    failure: Mapping[str, Any]


@contextlib.contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """End this process if there is no sign of life (`pulse.py`) within the block for too long.

    Raises `OSError` if the process that watches cannot be started. One trial at a time.
    """
    if watch.limit == OFF:
        yield
        return
    global _watcher
    if _watcher is None or _watcher.is_gone:
        _watcher = _Watcher()
    reported = _watcher.begin(watch)
    try:
        yield
    finally:
        _watcher.end(reported)


class _Watcher:
    """The process that watches this one. It serves all trials of this process, and ends with it."""

    def __init__(self) -> None:
        counters, self.stack = _shared_file(), _shared_file()
        os.truncate(counters, 8 * N_COUNTERS)
        arguments = [str(number) for number in (counters, self.stack, os.getpid())]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", watcher.__file__, *arguments], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, pass_fds=(counters, self.stack), bufsize=0,
            process_group=0,  # when a worker crashes, Ray kills its group at once
        )  # fmt: skip
        self.counters = memoryview(mmap.mmap(counters, 8 * N_COUNTERS)).cast("q")
        os.close(counters)
        self.of, self.numbers = os.getpid(), itertools.count(1)
        faulthandler.register(watcher.STACK_SIGNAL, file=self.stack, all_threads=True)

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, or belongs to the process that this one was forked from."""
        return self.of != os.getpid() or self.process.poll() is not None

    def begin(self, watch: Watch) -> bool:
        """Begin to watch a trial of the calling thread. Returns whether crashes were reported before."""
        number = next(self.numbers)
        order = {
            "number": number, "limit": watch.limit, "thread": f"0x{threading.get_ident():016x}",
            "tell": [sys.executable, *watch.tell], "path": os.pathsep.join(sys.path), "failure": dict(watch.failure),
        }  # fmt: skip
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        os.truncate(self.stack, 0)
        os.lseek(self.stack, 0, os.SEEK_SET)
        reported = faulthandler.is_enabled()
        faulthandler.enable(file=self.stack)
        self.counters[STEPPED], self.counters[DOING] = 0, TRAINING
        self.counters[WATCHED] = number
        pulse.use(self.counters)
        return reported

    def end(self, reported: bool) -> None:
        """Watch no more, and report crashes as before."""
        self.counters[WATCHED] = 0
        faulthandler.disable()
        if reported and sys.__stderr__ is not None:
            faulthandler.enable(file=sys.__stderr__)


_watcher: _Watcher | None = None


def _shared_file() -> int:
    """An empty file without a name, which a child process can inherit: in memory, where the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("lottery-sweep")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
