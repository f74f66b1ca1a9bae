"""Send a sweep's results to its loggers, each in its own thread: no trial waits for a logger, and none can end a sweep.

Ray Tune calls its callbacks in its own loop, and an exception in one of them ends the whole sweep. So each logger has a
thread here that calls it as Tune would. Every epoch is one result, whichever trial trained it.
"""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lth_trainable import signals
from lth_trainable.safe_text import one_line
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.store.store import Store
from lth_trainable.tune.config import task_of
from sweeps.running.loggers import LogFolder, Logger, brief, make_logger

PATIENCE_SECONDS = 60.0  # to wait for a logger that makes no progress, once the sweep has ended
NOTE_SECONDS = 3.0  # of waiting before a message says so
SHIP_SECONDS = 30.0  # between two copies of a trial's files to the storage
LEFT_OUT = ("step",)  # of an epoch's row: it starts at 0 in each level
START, RESULT, COMPLETE, ERROR = "on_trial_start", "on_trial_result", "on_trial_complete", "on_trial_error"
THE_END = "the end of the sweep"


@dataclass(frozen=True, eq=False, kw_only=True)
class Watched:
    """What Ray's loggers read of a Tune trial. Trials that the driver records without Tune are logged alike."""

    name: str
    trial_id: str
    config: Mapping[str, Any]
    local_path: str
    experiment_dir_name: str
    checkpoint: None = None

    @property
    def evaluated_params(self) -> Mapping[str, Any]:
        return self.config

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self.name


def epoch_result(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """A record's row of an epoch, as a Tune result. number: of the epoch in the trial, from 1."""
    return {**_numbers({k: v for k, v in row.items() if k not in LEFT_OUT}), "training_iteration": number}


def final_result(epochs: int, result: Mapping[str, Any]) -> dict[str, Any]:
    """The final result of a trial, measured on the saved network, at the number of its last epoch."""
    numbers = _numbers({**result, "collapsed_layers": len(result["collapsed_layers"])})
    return {**{f"final/{name}": value for name, value in numbers.items()}, "training_iteration": max(epochs, 1)}


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


class LoggerThread:
    """A logger and the thread that calls it. lost: reasons by name of trials that are incomplete in this logger."""

    def __init__(self, name: str, logger: Logger, log_folder: LogFolder) -> None:
        self.name, self.log_folder, self.watch = name.rpartition(":")[2], log_folder, logger.watch
        self.trials: dict[str, Watched] = {}
        self.lost: dict[str, str] = {}
        self._callback = logger.callback
        self._todo: queue.SimpleQueue[tuple[str, str, Sequence[dict[str, Any]]] | None] = queue.SimpleQueue()
        self._taken = 0
        self._ended: set[str] = set()
        self._shipped: dict[str, float] = {}
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"log {self.name}")

    # -- called by the sweep ------------------------------------------------------------------------------------------

    def begin(self, spec: TrialSpec) -> None:
        self.trials[spec.name] = Watched(
            name=spec.name, trial_id=uuid.uuid4().hex[:8], experiment_dir_name=self.log_folder.run,
            local_path=str(self.log_folder.folder / self.name / spec.name),
            config={name: value for name, value in asdict(spec).items() if value is not None},
        )  # fmt: skip
        self._todo.put((START, spec.name, [{}]))

    def results(self, trial: str, results: Sequence[dict[str, Any]]) -> None:
        self._todo.put((RESULT, trial, [{"result": result} for result in results]))

    def end(self, trial: str, failed: bool) -> None:
        self._todo.put((ERROR if failed else COMPLETE, trial, [{}]))

    @property
    def note(self) -> str:
        """A message on what the logger does not have."""
        [trial, reason], *more = self.lost.items()
        others = f"; so are {len(more)} more of {len(self.trials)} trials" if more else ""
        return f"{self.name}: {trial} is incomplete there ({reason}){others}; the run itself has everything"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end once it has sent what is in the queue."""
        self._todo.put(None)

    def wait(self, skip: threading.Event) -> None:
        """Wait until the logger has everything, makes no more progress, or `skip` is set."""
        started = changed = time.monotonic()
        taken, noted = -1, False
        while self._thread.is_alive():
            self._thread.join(0.2)
            now = time.monotonic()
            if skip.is_set():
                self.give_up("interrupted")
                return
            if self._taken != taken:
                taken, changed = self._taken, now
            if now - changed > PATIENCE_SECONDS:
                self.give_up(f"no progress for {now - changed:.0f} s")
                return
            if not noted and now - started > NOTE_SECONDS:
                there = f"it has {len(self._ended)} of {len(self.trials)} trials"
                _print(f"waiting for {self.name}: {there}; Ctrl-C skips the rest")
                noted = True

    def give_up(self, reason: str) -> None:
        for trial in set(self.trials) - self._ended:
            self.lost.setdefault(trial, reason)

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (item := self._todo.get()) is not None:
            self._call(*item)
        self._close()

    def _call(self, hook: str, trial: str, calls: Sequence[dict[str, Any]]) -> None:
        over = hook in (COMPLETE, ERROR)
        if trial in self.lost and not over:
            return
        try:
            for call in calls:
                getattr(self._callback, hook)(iteration=self._taken, trials=[], trial=self.trials[trial], **call)
            self._callback.on_step_end(iteration=self._taken, trials=[])
            self._ship(trial, over)
        except Exception as error:  # of any logger, database or network: the sweep continues
            self._lose(trial, brief(error))
            return
        self._taken += 1
        self._ended |= {trial} if over else set()

    def _ship(self, trial: str, over: bool) -> None:
        if over or time.monotonic() - self._shipped.get(trial, -SHIP_SECONDS) >= SHIP_SECONDS:
            self.log_folder.ship(f"{self.name}/{trial}")
            self._shipped[trial] = time.monotonic()

    def _close(self) -> None:
        try:
            self._callback.on_experiment_end(trials=[])
            self.log_folder.ship(self.name)
        except Exception as error:
            self._lose(THE_END, brief(error))
        self._callback = None

    def _lose(self, trial: str, reason: str) -> None:
        if not self.lost:
            _print(f"note: {self.name}: {trial} is incomplete there ({reason}); the sweep continues")
        self.lost.setdefault(trial, reason)


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
                loggers.begin(_spec(trial))

            def on_trial_result(
                self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any
            ) -> None:
                log = result.pop("log", None)  # Tune keeps the last result of each trial
                if log is not None:
                    loggers.report(_spec(trial).name, json.loads(log))

            def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
                loggers.end(_spec(trial).name)

            def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
                loggers.end(_spec(trial).name)

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


def _spec(trial: Any) -> TrialSpec:
    return spec_from_dict(task_of(trial.config)["spec"])


def _print(text: str) -> None:
    print(one_line(text), file=sys.stderr, flush=True)
