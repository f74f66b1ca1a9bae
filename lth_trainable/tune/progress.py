"""What an attempt at a trial of a sweep tells the driver: states that it has stored, epochs, notes, and its end."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ray import tune

from lth_trainable.silence import pulse
from lth_trainable.stopwatch import part
from lth_trainable.store.checkpoint import Content, content_at
from lth_trainable.store.record import Identity
from lth_trainable.store.store import Store
from lth_trainable.store.trouble import ray_error
from lth_trainable.tune.ray_adapter import checkpoint
from lth_trainable.tune.reports import epoch_metrics, level_ends

if TYPE_CHECKING:
    from lth_trainable.data.feeding import AnyDataset
    from lth_trainable.training.gauge import Gauge

REPORT_SECONDS = 1.0  # between progress reports of a trial


class Progress:
    """Collects what is to be told of an attempt; `news` is everything that was not told yet.

    end: key of the last trained state, which is told with the result that follows at once. logged: whether reports
    carry everything that is logged.
    """

    def __init__(self, end: str, logged: bool) -> None:
        self.end, self.fingerprint, self.epochs = end, "{}", 0
        self.logged, self.reported = logged, 0
        self.rows: list[dict[str, Any]] = []
        self.stored: list[str] = []
        self.notes: list[str] = []
        self.content_at: Callable[[str, int], Content | None] = lambda key, epochs: None
        self.store: Store | None = None
        self.ends: set[str] = set()  # keys of the states at the levels' ends

    def of(self, store: Store, trial: Identity, run: str, data: AnyDataset) -> None:
        """From now on reports have checkpoints of this trial."""
        self.store, self.ends = store, set(level_ends(trial.chain).values())
        self.content_at = lambda key, epochs: content_at(
            store, trial, key, run=run, epochs=epochs, shape=data.shape, n_classes=len(data.classes)
        )

    # -- called by the trial ------------------------------------------------------------------------------------------

    def epoch(self, rows: list[dict[str, Any]]) -> None:
        """An epoch has been trained; rows: of all epochs so far."""
        self.epochs += 1
        self.rows = rows
        self.has_trained()

    def state(self, key: str) -> None:
        """The state with this key is stored."""
        self.stored.append(key)
        if key != self.end:
            self.has_stored(key)

    def note(self, text: str) -> None:
        self.notes.append(text)

    # -- what follows from it -----------------------------------------------------------------------------------------

    def has_trained(self) -> None:
        """Called after each epoch."""

    def has_stored(self, key: str) -> None:
        """Called for each stored state but the last."""

    def news(self, result: dict[str, Any] | None = None) -> dict[str, Any]:
        """Everything not told yet. result: of the trial, once it has ended."""
        # the fingerprint is text, because Tune flattens nested results
        news = {"stored": self.stored, "fingerprint": self.fingerprint, "notes": self.notes}
        self.stored, self.notes = [], []
        if self.logged:  # all epochs since the last report
            log = {"first": self.reported, "rows": self.rows[self.reported :], "result": result}
            news["log"], self.reported = json.dumps(log), len(self.rows)
        return news

    def tell(self, report: Mapping[str, Any], checkpoint_at: str | None = None) -> None:
        """Report to Tune, with a checkpoint of the state with this key, if it is stored."""
        content = None if checkpoint_at is None else self.content_at(checkpoint_at, len(self.rows))
        with checkpoint(self.store, content) as made:
            tune.report(dict(report), checkpoint=made)


class Measurement:
    """Of the GPU, by what has it for itself, so that it shows how many can share it. is_wanted: whether it does."""

    def __init__(self, is_wanted: bool) -> None:
        self.is_wanted = is_wanted
        self.gauge: Gauge | None = None

    def begin(self) -> None:
        """Begin, after the first epoch; nothing happens if it has begun."""
        if self.is_wanted and self.gauge is None:
            from lth_trainable.training.gauge import Gauge

            self.gauge = Gauge()

    def now(self) -> dict[str, str]:
        """For a report; empty if nothing is measured."""
        return {} if self.gauge is None else {"gpu": json.dumps(self.gauge.now())}

    @contextlib.contextmanager
    def until_the_end(self) -> Iterator[None]:
        """The block in which is trained: its end ends the measurement."""
        try:
            yield
        finally:
            if self.gauge is not None:
                self.gauge.close()
                self.gauge = None


class Reports(Progress):
    """Tells Ray of a trial that trains alone: stored states at once, since trials wait for them, epochs once a second.

    is_measuring: whether it measures its GPU. is_stopped: by Tune, with a SystemExit out of a report.
    """

    def __init__(self, end: str, logged: bool, is_measuring: bool = False) -> None:
        super().__init__(end, logged)
        self.measurement, self.last, self.is_stopped = Measurement(is_measuring), time.monotonic(), False

    def has_trained(self) -> None:
        self.measurement.begin()
        if time.monotonic() - self.last >= REPORT_SECONDS:
            self._report()

    def has_stored(self, key: str) -> None:
        self._report(key if key in self.ends else None)

    def news(self, result: dict[str, Any] | None = None) -> dict[str, Any]:
        return {**super().news(result), **self.measurement.now()}

    def _report(self, checkpoint_at: str | None = None) -> None:
        self.last = time.monotonic()
        report = {"epochs_done": self.epochs, **epoch_metrics(self.rows[-1]), **self.news()}
        with pulse.waiting(), part("waiting"):
            try:
                self.tell(report, checkpoint_at)
            except SystemExit:
                self.is_stopped = True
                raise
            except OSError as error:  # Ray copies the checkpoint to the storage
                assert self.store is not None
                raise ray_error(self.store, error) from error
