"""A limit for how long something of the user's may take in a command that waits for it."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from lth_trainable.errors import FAILED
from lth_trainable.own_code.places import is_own_file
from lth_trainable.safe_text import one_line
from lth_trainable.silence import pulse

LOOKS = 5.0  # most seconds between two looks
BLOCKED = 30.0  # seconds after which code that keeps Python's threads from running is ended too


@contextlib.contextmanager
def limited(seconds: float, what: str) -> Iterator[None]:
    """End this process if the block gives no sign of life (`pulse.py`) for so long; one line says where it is.

    seconds: 0 is no limit. what: begins the line. The exit code is `FAILED`.
    """
    if not seconds:
        yield
        return
    over = threading.Event()
    watched = threading.get_ident()
    out = sys.stdout

    def watch() -> None:
        beats, still = pulse.beats(), 0.0
        look = min(LOOKS, seconds / 4)
        while not over.wait(look):
            faulthandler.dump_traceback_later(seconds + BLOCKED, exit=True)
            beats, still = pulse.beats(), still + look if pulse.beats() == beats else 0.0
            if still >= seconds:
                line = f"{what}: BROKEN: no answer for {seconds:g} s; it is still {where_is(watched)}"
                print(one_line(line), file=out, flush=True)
                os._exit(FAILED)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        faulthandler.cancel_dump_traceback_later()


def where_is(thread: int) -> str:
    """The innermost line of the user's own code that a thread is in; else the innermost line of all."""
    frame = sys._current_frames().get(thread)
    stack = traceback.extract_stack(frame) if frame is not None else []
    if not stack:
        return "at an unknown place"
    at = next((line for line in reversed(stack) if is_own_file(line.filename)), stack[-1])
    return f"at {Path(at.filename).name}:{at.lineno}, in {at.name}: {at.line}"
