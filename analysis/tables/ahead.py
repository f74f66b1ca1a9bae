"""Records that are read while other trials still train, so that the gather at the end of a sweep has less to read.

A sweep's command waits most of its time. Reading the records of `mnist_lenet` takes longer than all verdicts and
figures. What was read early is kept as columns, which are far smaller than the records, and counts only if the files of
the trial have the same names, sizes and times at the end.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from analysis.tables.index import SETTLED_NS, Known, signature_of
from analysis.tables.record_rows import Entries
from analysis.tables.records import list_trial, read_trial
from analysis.tables.trial_rows import trial_row
from lth_trainable.errors import StorageError
from lth_trainable.store.store import Store

SETTLED_SECONDS = SETTLED_NS / 1e9 + 0.1  # a record that is younger may still change without a trace
JOIN_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Early:
    """A trial with a record. known: as the index of a gather notes it. row: see `trial_row`. tables: of its lists."""

    known: Known
    row: Mapping[str, Any]
    tables: Mapping[str, pa.Table]


NOT_READ: Mapping[str, Early] = MappingProxyType({})


@dataclass(kw_only=True)
class Ahead:
    """Reads trials in a thread of its own, each once its files have settled."""

    store: Store
    run: str
    found: dict[str, Early] = field(default_factory=dict)
    _waiting: queue.SimpleQueue[tuple[float, str] | None] = field(default_factory=queue.SimpleQueue)
    _over: threading.Event = field(default_factory=threading.Event)

    def add(self, trial: str) -> None:
        """A trial has been recorded."""
        self._waiting.put((time.monotonic() + SETTLED_SECONDS, trial))

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Read within this block. At its end nothing is waited for but the record that is just being read.

        And not long for that one: a storage that does not answer must not keep a command from ending.
        """
        thread = threading.Thread(target=self._read_all, daemon=True, name="records")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._waiting.put(None)
            thread.join(JOIN_SECONDS)

    def _read_all(self) -> None:
        while (item := self._waiting.get()) is not None:
            at, trial = item
            if self._over.wait(max(0.0, at - time.monotonic())):
                return
            try:
                early = read_early(self.store, self.run, trial)
            except (StorageError, OSError):  # the gather reads it again, and says what is wrong
                continue
            if early is not None:
                self.found[trial] = early


def read_early(store: Store, run: str, trial: str) -> Early | None:
    """The trial as a gather will need it; None without a record, or if its files are too young or damaged."""
    listed_at = time.time_ns()
    mark = signature_of(list_trial(store, run, trial), listed_at)
    found = read_trial(store, run, trial, None) if mark is not None else None
    if mark is None or found is None or not found.record:
        return None
    entries = Entries(run)
    entries.add(trial, found.record)
    row = trial_row(run, trial, found, None)
    known = Known(mark=mark, key=row["key"], status=found.status, reason=found.reason)
    return Early(known=known, row=row, tables=entries.tables())
