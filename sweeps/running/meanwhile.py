"""Imports that a command needs later, in a thread, while it waits: for Ray to start, or for the first trials."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator

FOR_TUNE = ("pandas",)  # Ray Tune imports it
FOR_THE_END = ("scipy.stats", "analysis.report.html")  # with matplotlib: together a second or two

JOIN_SECONDS = 10.0


@contextlib.contextmanager
def importing(names: tuple[str, ...]) -> Iterator[None]:
    """Import modules while this block runs, and have them at its end: then no two threads import the same at once.

    If the block raises, or importing takes much longer than the block, nobody waits for them any more.
    """
    thread = threading.Thread(target=_import, args=(names,), daemon=True, name="imports")
    thread.start()
    yield
    thread.join(JOIN_SECONDS)


def _import(names: tuple[str, ...]) -> None:
    for name in names:
        with contextlib.suppress(ImportError):  # who needs it imports it again, and says why that fails
            importlib.import_module(name)
