"""The Ray Tune adapter: each Ray Tune trial runs one `TrialSpec` with `run_trial`, on a worker that is reused."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import NoRoom, StorageError, UserError
from lth_trainable.silence import pulse
from lth_trainable.silence.watchdog import Watch, watched
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.stopwatch import part
from lth_trainable.store.checkpoint import Content, content_at
from lth_trainable.store.failures import Note, failure_of, reason_of
from lth_trainable.store.fingerprints import of_trial
from lth_trainable.store.record import Identity
from lth_trainable.store.store import FAILURE, Store
from lth_trainable.store.trouble import TROUBLE, ray_error
from lth_trainable.tune.config import task_of
from lth_trainable.tune.ray_adapter import checkpoint, write_results
from lth_trainable.tune.reports import NO_ROOM, epoch_metrics, last_report, level_ends, results_of

if TYPE_CHECKING:
    from lth_trainable.data.feeding import AnyDataset
    from lth_trainable.training.execution import Execution
    from lth_trainable.training.gauge import Gauge

REPORT_SECONDS = 1.0  # between progress reports of a trial
TELL = ("-m", "lth_trainable.store.failures")  # arguments of Python, to note that a trial is silent


class TrialFailed(Exception):
    """What Ray gets of any exception in a trial: its text only, because the exception itself may not be picklable."""


def ticket_trainable(config: dict[str, Any]) -> None:
    """One lottery-ticket trial for a Tuner of your own: `tune.Tuner(ticket_trainable, param_space={...})`.

    config: fields of `TrialSpec`, flat (`target_sparsity_pct`, `schedule`, `rewind_epoch`, `seed`, ...); those left out
    have their defaults. Where it runs, all optional: `storage`, path or URI of the store that has states and records
    (default: the folder "store" of the experiment; trials share the training of equal states of one store); `run`, name
    of the folder of the records in it; `device`, `threads` (default: what Tune reserves for the trial), `data_root`.

    Reports each epoch of each level: `valid_accuracy` (fraction), `valid_loss`, `train_loss`, `sparsity_pct`, `level`,
    `epoch`, `levels_done`; epochs that another trial has trained already are reported at once. Each level's end has a
    checkpoint, which `load_trial` reads. The last report has the record's results (`test_accuracy`, ...) and `status`.
    docs/ray_tune.md has examples. Raises `UserError` for a config that could not run.
    """
    from lth_trainable.tune.ticket import train_ticket  # torch

    train_ticket(config)


def train(config: dict[str, Any], should_stop: Callable[[], bool] = lambda: False) -> None:
    """Run the trial of a sweep. Ray gets progress, keys of states and checkpoints; the store gets the rest.

    config: the fields of the spec, for people, and `task`. task is JSON of {trial, storage, launch, spec, key, run,
    execution, keep, marks, resumable, end, log, silence, place}, and copy for a `CopyTask`. launch: id of the launch of
    Ray Tune. keep, marks, resumable: the fields of `Keep` (marks: `mid_epoch_points`). key: of the trial. end: of its
    last trained state. log: whether reports carry everything that is logged. silence: the limit of `Watch`.
    should_stop: looked at after each epoch; if true, the state of the epoch is stored and reported, and the driver ends
    the trial.

    An attempt that fails leaves `failure.json` in the trial's folder. Then this raises `TrialFailed`, whereupon Ray
    ends this worker and tries again on a new one. The second failure in a launch is the last: the attempt after it does
    not train, but only reports the status "failed". A mistake of the user (`UserError`) fails at once.
    If the storage fails, that is not the trial's fault: it leaves no failure, and the report says what the trouble is.
    Nor is it if it shares a GPU (place: where it runs, and beside how many) and finds no memory there.
    """
    attempt = _Attempt(config, should_stop)
    end: _End | TrialFailed
    try:
        end = attempt.run()
    except BaseException as error:  # SystemExit too: Tune would take it for the end of the worker
        if attempt.progress.is_stopped:
            raise
        end = attempt.fail(error)
    if isinstance(end, TrialFailed):
        raise end  # here, where the exception itself is no longer its context
    try:
        end.tell()
    except OSError as error:  # Ray copies the checkpoint to the storage
        tune.report(trouble_report(ray_error(Store(attempt.task["storage"]), error)))
    except StorageError as error:
        tune.report(trouble_report(error))


def trouble_report(error: StorageError) -> dict[str, Any]:
    """The last report of a trial that could not go on because the storage failed. Another attempt could not either."""
    return {"status": TROUBLE, "trouble": str(error), "host": socket.gethostname(), "epochs_done": 0}


@dataclass(frozen=True, kw_only=True)
class _End:
    """The last report of a trial. final: key of its last state, if it is done. rows: all epochs."""

    report: Mapping[str, Any]
    progress: _Progress
    final: str | None = None
    rows: Sequence[Mapping[str, Any]] = ()

    def tell(self) -> None:
        write_results(results_of(self.rows, self.report))
        self.progress.tell(self.report, self.final)


class _Attempt:
    """One attempt at the trial of `config`. note: for its failure. is_covered: whether others had trained all of it."""

    is_covered = False

    def __init__(self, config: Mapping[str, Any], should_stop: Callable[[], bool]) -> None:
        self.should_stop = should_stop
        self.task = task_of(config)
        self.trial, self.path = self.task["trial"], f"{self.task['run']}/trials/{self.task['trial']}"
        self.progress = _Progress(self.task["end"], self.task["log"])
        self.progress.measures = bool((self.task.get("place") or {}).get("measures"))
        self.note = Note(storage=self.task["storage"], path=self.path, launch=self.task["launch"])

    def run(self) -> _End:
        """Run the trial, unless it has failed twice in this launch."""
        store = Store(self.note.storage).in_use()
        before = failure_of(store, self.path, self.note.launch)
        if before is not None and before.is_last:
            return self._end({"status": "failed", "epochs_done": 0, "reason": before.reason})
        store.delete(f"{self.path}/{FAILURE}")
        if before is not None:
            self.note = replace(self.note, before=before.reason)
            self.progress.note(f"{self.trial}: tried again after {before.reason}")
        with (
            self.progress.measured(),
            warnings.catch_warnings(),
        ):  # a trial's code may change them, and this worker trains other trials too
            warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
            if "copy" in self.task:
                return self._train_copy(store)
            record, final = self._train(store)
            result = self._result(record)
        return self._end(result, final=final, rows=record["epochs"])

    def _end(self, report: Mapping[str, Any], **more: Any) -> _End:
        return _End(report=report, progress=self.progress, **more)

    def _train(self, store: Store) -> tuple[dict[str, Any], str]:
        """The record of the trial, and the key of its last state."""
        with part("import"):
            from lth_trainable.training.execution import (  # so that torch is loaded in the workers, not in the driver
                Execution,
                fingerprint,
            )
            from lth_trainable.training.lifecycle import identity_of
            from lth_trainable.training.run import Keep, record_covered, run_trial

        task, progress = self.task, self.progress
        with self._watched():
            data_root = task["execution"].get("data_root")
            execution = Execution(**{**task["execution"], "data_root": data_root and Path(data_root)})
            spec = spec_from_dict(task["spec"])
            keep = Keep(
                states=task["keep"], mid_epoch_points={int(step): key for step, key in task["marks"].items()},
                resumable=task["resumable"],
            )  # fmt: skip
            here = fingerprint(execution)
            progress.fingerprint = json.dumps(here)
            data = _check_same(spec, task["key"], execution)
            steps = -(-len(data.train) // spec.batch_size)
            trial = identity_of(spec, data.digest, steps, of_trial(here, spec))
            progress.of(store, trial, task["run"], data)
            record = record_covered(store, task["run"], trial)
            self.is_covered = record is not None
            if record is None:
                record = run_trial(
                    spec, store, task["run"], execution, progress.epoch, keep=keep, on_state=progress.state,
                    on_note=progress.note, should_stop=self.should_stop,
                )  # fmt: skip
            return record, trial.state_keys["final"]

    def _train_copy(self, store: Store) -> _End:
        """Train a copy for the analysis of barriers, which is stored where its task says and has no record."""
        from lth_trainable.tune.copies import train_copy_trial

        with self._watched():
            report, here = train_copy_trial(store, self.task, self.progress.epoch)
        self.progress.fingerprint = json.dumps(here)
        return self._end({**report, **self.progress.news(), "done": True}, rows=self.progress.rows)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(watched(Watch(limit=self.task["silence"], tell=TELL, failure=self.note.as_json())))
            except OSError as error:
                self.progress.note(f"trials are not watched for silence: the process for it cannot start ({error})")
            yield

    def _result(self, record: Mapping[str, Any]) -> dict[str, Any]:
        self.progress.rows = record["epochs"]
        news = self.progress.news(record["result"])
        # `done`: Tune ends the trial at this report, without asking the worker once more
        return {**last_report(record, self.is_covered), **news, "done": True}

    def fail(self, error: BaseException) -> _End | TrialFailed:
        """Note why the trial failed. Returns what makes Ray try again, or a last report if that would not help."""
        progress = self.progress
        if isinstance(error, StorageError):
            return self._end_in_trouble(error)
        sharing = (self.task.get("place") or {}).get("sharing", 1)
        if isinstance(error, NoRoom) and sharing > 1:  # not its fault: the driver tries it again beside fewer
            return self._end({"status": NO_ROOM, "sharing": sharing, "epochs_done": progress.epochs, **progress.news()})
        is_final = isinstance(error, UserError) and not isinstance(error, NoRoom)
        is_last = is_final or self.note.before is not None
        try:
            reason = self.note.leave(reason_of(error), _traceback_of(error), is_last=is_last)
        except StorageError as trouble:
            return self._end_in_trouble(trouble)
        if not is_final:
            return TrialFailed(reason)
        return self._end({"status": "failed", "epochs_done": progress.epochs, "reason": reason, **progress.news()})

    def _end_in_trouble(self, error: StorageError) -> _End:
        return self._end(trouble_report(error) | {"epochs_done": self.progress.epochs, **self.progress.news()})


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception as broken:  # of an exception whose attributes raise
        return f"the traceback cannot be read ({type(broken).__name__})"


@part("data")
def _check_same(spec: TrialSpec, key: str, execution: Execution) -> AnyDataset:
    """The trial's data. Refuses a trial whose data or plug-ins are not the plan's: nodes may have other files."""
    data = load_dataset(spec.dataset, execution.data_root, spec.split_seed, spec.image_size)
    if spec.key(data.digest) != key:
        what = "data or plugged-in code" if spec.code_digests() else "data"
        raise UserError(
            f"{spec.name}: found other {what} on {socket.gethostname()} than the command has planned with; expected "
            "the same on every node while the command runs; correct that, then use --retry-failed"
        )
    return data


class _Progress:
    """Reports to Ray: stored states at once, because trials wait for them, and epochs at most once a second.

    end: key of the last trained state, which is reported with the result that follows at once. logged: whether reports
    carry everything that is logged.
    """

    def __init__(self, end: str, logged: bool) -> None:
        self.end, self.fingerprint, self.epochs, self.last = end, "{}", 0, time.monotonic()
        self.logged, self.reported = logged, 0
        self.is_stopped = False  # by Tune, with a SystemExit out of a report
        self.rows: list[dict[str, Any]] = []
        self.stored: list[str] = []
        self.notes: list[str] = []
        self.content_at: Callable[[str, int], Content | None] = lambda key, epochs: None
        self.store: Store | None = None
        self.ends: set[str] = set()  # keys of the states at the levels' ends
        self.measures = False
        self.gauge: Gauge | None = None  # of a trial that shows how many can share its GPU

    def of(self, store: Store, trial: Identity, run: str, data: AnyDataset) -> None:
        """From now on reports have checkpoints of this trial."""
        self.store, self.ends = store, set(level_ends(trial.chain).values())
        self.content_at = lambda key, epochs: content_at(
            store, trial, key, run=run, epochs=epochs, shape=data.shape, n_classes=len(data.classes)
        )

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """The block in which the trial trains: it ends the measurement that the first epoch begins."""
        try:
            yield
        finally:
            if self.gauge is not None:
                self.gauge.close()
                self.gauge = None

    def epoch(self, rows: list[dict[str, Any]]) -> None:
        if self.measures and self.gauge is None:
            from lth_trainable.training.gauge import Gauge

            self.gauge = Gauge()
        self.epochs += 1
        self.rows = rows
        if time.monotonic() - self.last >= REPORT_SECONDS:
            self._report()

    def state(self, key: str) -> None:
        self.stored.append(key)
        if key != self.end:
            self._report(key if key in self.ends else None)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def news(self, result: dict[str, Any] | None = None) -> dict[str, Any]:
        """Everything not reported yet. result: of the trial, once it has ended."""
        # the fingerprint is text, because Tune flattens nested results
        news = {"stored": self.stored, "fingerprint": self.fingerprint, "notes": self.notes}
        self.stored, self.notes = [], []
        if self.gauge is not None:
            news["gpu"] = json.dumps(self.gauge.now())
        if self.logged:  # all epochs since the last report
            log = {"first": self.reported, "rows": self.rows[self.reported :], "result": result}
            news["log"], self.reported = json.dumps(log), len(self.rows)
        return news

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

    def tell(self, report: Mapping[str, Any], checkpoint_at: str | None = None) -> None:
        """Report to Tune, with a checkpoint of the state with this key, if it is stored."""
        content = None if checkpoint_at is None else self.content_at(checkpoint_at, len(self.rows))
        with checkpoint(self.store, content) as made:
            tune.report(dict(report), checkpoint=made)
