"""The thread of one logger: it calls the logger as Ray Tune would, and what the logger raises ends nothing else."""

from __future__ import annotations

import queue
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lth_trainable.safe_text import one_line
from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.running.conclusion import Conclusion
from sweeps.running.loggers import LogFolder, Logger, brief

PATIENCE_SECONDS = 60.0  # to wait for a logger that makes no progress, once the sweep has ended
NOTE_SECONDS = 3.0  # of waiting before a message says so
SHIP_SECONDS = 30.0  # between two copies of a trial's files to the storage
START, RESULT, COMPLETE, ERROR = "on_trial_start", "on_trial_result", "on_trial_complete", "on_trial_error"
THE_END, THE_VERDICTS = "the end of the sweep", "the table of verdicts"


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


class LoggerThread:
    """A logger and the thread that calls it. lost: reasons by name of trials that are incomplete in this logger."""

    def __init__(self, name: str, logger: Logger, log_folder: LogFolder) -> None:
        self.name, self.log_folder, self.watch = name.rpartition(":")[2], log_folder, logger.watch
        self.trials: dict[str, Watched] = {}
        self.lost: dict[str, str] = {}
        self._callback = logger.callback
        self._todo: queue.SimpleQueue[tuple[str, str, Sequence[dict[str, Any]]] | Conclusion | None] = (
            queue.SimpleQueue()
        )
        self._taken = 0
        self._ended: set[str] = set()
        self._owed: set[str] = set()  # beside trials: `THE_VERDICTS`, until they are logged
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
    def concludes(self) -> bool:
        """Whether the logger takes verdicts."""
        return hasattr(self._callback, "log_verdicts")

    def conclude(self, conclusion: Conclusion) -> None:
        self._owed.add(THE_VERDICTS)
        self._todo.put(conclusion)

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
                there = f"it has {len(self._ended - self._owed)} of {len(self.trials)} trials"
                _print(f"waiting for {self.name}: {there}; Ctrl-C skips the rest")
                noted = True

    def give_up(self, reason: str) -> None:
        for trial in (set(self.trials) | self._owed) - self._ended:
            self.lost.setdefault(trial, reason)

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (item := self._todo.get()) is not None:
            if isinstance(item, Conclusion):
                self._log_verdicts(item)
            else:
                self._call(*item)
        self._close()

    def _log_verdicts(self, conclusion: Conclusion) -> None:
        try:
            for _ in self._callback.log_verdicts(conclusion):
                self._taken += 1
        except Exception as error:  # of any logger, database or network, or of a ticket that cannot be read
            self._lose(THE_VERDICTS, brief(error))
            return
        self._ended.add(THE_VERDICTS)

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


def _print(text: str) -> None:
    print(one_line(text), file=sys.stderr, flush=True)
