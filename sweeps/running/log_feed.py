"""Send a sweep's results to its loggers, each in its own thread: no trial waits for a logger, and none can end a sweep.

Ray Tune calls its callbacks in its own loop, and an exception in one of them ends the whole sweep. So each logger has a
thread here that calls it as Tune would. Every epoch is one result, whichever trial trained it.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lth_trainable import signals
from lth_trainable.errors import UserError
from lth_trainable.safe_text import one_line
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.store.store import Store
from lth_trainable.tune.config import members_of, task_of
from lth_trainable.tune.reports import MEMBERS, parts_of
from sweeps.running.conclusion import Conclusion
from sweeps.running.logger_thread import LoggerThread
from sweeps.running.loggers import LogFolder, make_logger

ENDED = ("done", "diverged", "failed")  # statuses of trials that are not handed out again
LEFT_OUT = ("step",)  # of an epoch's row: it starts at 0 in each level


def epoch_result(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """A record's row of an epoch, as a Tune result. number: of the epoch in the trial, from 1."""
    return {**_numbers({k: v for k, v in row.items() if k not in LEFT_OUT}), "training_iteration": number}


def final_result(epochs: int, result: Mapping[str, Any]) -> dict[str, Any]:
    """The final result of a trial, measured on the saved network, at the number of its last epoch."""
    numbers = _numbers({**result, "collapsed_layers": len(result["collapsed_layers"])})
    return {**{f"final/{name}": value for name, value in numbers.items()}, "training_iteration": max(epochs, 1)}


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


class Loggers:
    """The loggers of a sweep. With none of them nothing is sent, and it costs nothing."""

    def __init__(self, threads: Sequence[LoggerThread] = ()) -> None:
        self.threads = threads
        self._epochs: dict[str, int] = {}  # sent so far, by trial
        self._complete: set[str] = set()
        self._ended: set[str] = set()

    @classmethod
    def open(cls, names: Sequence[str], store: Store, run: str) -> Loggers:
        """Set up the loggers of these names. Raises `UserError` if one of them lacks something."""
        log_folder = LogFolder(store, run)
        return cls([LoggerThread(name, make_logger(name, log_folder), log_folder) for name in dict.fromkeys(names)])

    def __reduce__(self) -> Any:
        """Pickle no loggers: Tune saves its callbacks to restore them later, which never happens here."""
        return Loggers, ()

    def __bool__(self) -> bool:
        return bool(self.threads)

    @property
    def watch(self) -> list[str]:
        """How to look at the logs, one line per logger."""
        return [thread.watch for thread in self.threads]

    @property
    def notes(self) -> list[str]:
        """One message for each logger in which a trial is incomplete."""
        return [thread.note for thread in self.threads if thread.lost]

    # -- called by the sweep ------------------------------------------------------------------------------------------

    def begin(self, spec: TrialSpec) -> None:
        """A trial starts, or starts again after its worker died."""
        if spec.name not in self._epochs:
            self._epochs[spec.name] = 0
            for thread in self.threads:
                thread.begin(spec)

    def report(self, trial: str, log: Mapping[str, Any]) -> None:
        """A trial has trained more epochs: its rows from number `first` on, and its result once it is done."""
        sent, first = self._epochs[trial], log["first"]
        rows = list(enumerate(log["rows"], first + 1))[max(0, sent - first) :]
        results = [epoch_result(number, row) for number, row in rows]
        self._epochs[trial] = max(sent, first + len(log["rows"]))
        if log["result"] is not None:
            results.append(final_result(self._epochs[trial], log["result"]))
            self._complete.add(trial)
        for thread in self.threads:
            thread.results(trial, results)

    def end(self, trial: str) -> None:
        """A trial ends: done, or failed, stopped by a limit or interrupted."""
        if trial not in self._ended:
            self._ended.add(trial)
            for thread in self.threads:
                thread.end(trial, failed=trial not in self._complete)

    def conclude(self, conclude: Callable[[], Conclusion]) -> str | None:
        """Log the verdicts after everything else. conclude: makes them. Returns why they cannot be made, if so."""
        threads = [thread for thread in self.threads if thread.concludes]
        if not threads:
            return None
        try:
            conclusion = conclude()
        except UserError as error:  # such as a ticket to log that does not exist
            return f"the verdicts are not logged ({one_line(error)})"
        for thread in threads:
            thread.conclude(conclusion)
        return None

    def recorded(self, spec: TrialSpec, record: Mapping[str, Any]) -> None:
        """A trial is done whose epochs other trials have trained."""
        if self.threads:
            self.begin(spec)
            self.report(spec.name, {"first": 0, "rows": record["epochs"], "result": record["result"]})
            self.end(spec.name)

    def callback(self) -> Any:
        """A Tune callback that passes everything on to the loggers."""
        from ray import tune

        class ToLoggers(tune.Callback):
            def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
                for spec in _specs(trial):
                    loggers.begin(spec)

            def on_trial_result(
                self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any
            ) -> None:
                parts = parts_of(_name(trial), result)
                for name, part in parts.items():
                    if "log" in part:
                        loggers.report(name, json.loads(part["log"]))
                    if MEMBERS in result and part.get("status") in ENDED:
                        loggers.end(name)
                result.pop("log", None)  # Tune keeps the last result of each trial

            def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
                if not _is_cohort(trial):  # members of a cohort end by themselves
                    loggers.end(_name(trial))

            def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
                if not _is_cohort(trial):
                    loggers.end(_name(trial))

        loggers = self
        return ToLoggers()

    @contextlib.contextmanager
    def running(self) -> Iterator[Loggers]:
        """Run the threads while a sweep runs, then wait until the loggers have received the rest."""
        for thread in self.threads:
            thread.start()
        try:
            yield self
        finally:
            for trial in self._epochs:
                self.end(trial)
            for thread in self.threads:
                thread.stop()
            skip = threading.Event()
            with signals.asking(lambda _: skip.set()):
                for thread in self.threads:
                    thread.wait(skip)


NO_LOGGERS = Loggers()


def _specs(trial: Any) -> list[TrialSpec]:
    """Of all trials that one of Tune's trains."""
    return [spec_from_dict(task["spec"]) for task in members_of(task_of(trial.config))]


def _is_cohort(trial: Any) -> bool:
    return bool(task_of(trial.config).get(MEMBERS))


def _name(trial: Any) -> str:
    return str(task_of(trial.config)["trial"])
