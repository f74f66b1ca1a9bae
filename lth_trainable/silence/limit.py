"""What a command does while something of the user's takes long: it says where that is, or ends with it."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from lth_trainable.errors import FAILED
from lth_trainable.own_code.places import is_own_file
from lth_trainable.safe_text import one_line
from lth_trainable.silence import pulse

SLOW = 60.0  # seconds after which a command that waits says so
LOOKS = 5.0  # most seconds between two looks
STANDARD_ERROR = 2  # the descriptor; `sys.stderr` of a notebook or a test may have none
BLOCKED = 30.0  # seconds after which code that keeps Python's threads from running is ended too


@contextlib.contextmanager
def limited(seconds: float, what: str) -> Iterator[None]:
    """End this process if the block gives no sign of life (`pulse.py`) for so long; one line says where it is.

    seconds: 0 is no limit. what: begins the line. The exit code is `FAILED`.
    """
    out = sys.stdout

    def end(where: str) -> None:
        print(one_line(f"{what}: BROKEN: no answer for {seconds:g} s; it is still {where}"), file=out, flush=True)
        os._exit(FAILED)

    if not seconds:
        yield
        return

    def put_off() -> None:
        faulthandler.dump_traceback_later(seconds + BLOCKED, exit=True, file=STANDARD_ERROR)

    try:
        with _looked_at(seconds, end, put_off):
            yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def announced(seconds: float, what: str) -> Iterator[None]:
    """Say on standard error where the block is, if it gives no sign of life for so long. what: starts the line."""
    err = sys.stderr

    def tell(where: str) -> None:
        line = f"{what}: no answer for {seconds:g} s; it is still {where}; Ctrl-C ends the command"
        print(one_line(line), file=err, flush=True)

    with _looked_at(seconds, tell):
        yield


@contextlib.contextmanager
def _looked_at(seconds: float, act: Callable[[str], None], look: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Call `act` once, from another thread, when the block has given no sign of life for so long.

    act: takes the place where the block is. look: called before the block and every few seconds.
    """
    over, watched = threading.Event(), threading.get_ident()

    def watch() -> None:
        beats, still, pause = pulse.beats(), 0.0, min(LOOKS, seconds / 4)
        while not over.wait(pause):
            look()
            beats, still = pulse.beats(), still + pause if pulse.beats() == beats else 0.0
            if still >= seconds:
                act(where_is(watched))
                return

    look()  # here, since code that never lets other threads run may come first
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def where_is(thread: int) -> str:
    """The innermost line of the user's own code that a thread is in; else the innermost line of all."""
    frame = sys._current_frames().get(thread)
    stack = traceback.extract_stack(frame) if frame is not None else []
    if not stack:
        return "at an unknown place"
    at = next((line for line in reversed(stack) if is_own_file(line.filename)), stack[-1])
    return f"at {Path(at.filename).name}:{at.lineno}, in {at.name}: {at.line}"
