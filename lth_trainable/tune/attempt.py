"""One attempt at a trial of a sweep: it trains, or fails with a note of the reason."""

from __future__ import annotations

import contextlib
import json
import socket
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import NoRoom, StorageError, UserError
from lth_trainable.quiet import ignore_torch_warnings
from lth_trainable.silence.watchdog import Watch, watched
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.stopwatch import part
from lth_trainable.store.failures import Note, failure_of, reason_of
from lth_trainable.store.fingerprints import of_trial
from lth_trainable.store.store import FAILURE, Store
from lth_trainable.store.trouble import TROUBLE
from lth_trainable.tune.progress import Progress, Reports
from lth_trainable.tune.ray_adapter import write_results
from lth_trainable.tune.reports import NO_ROOM, last_report, results_of

if TYPE_CHECKING:
    from lth_trainable.data.feeding import AnyDataset
    from lth_trainable.training.execution import Execution

TELL = ("-m", "lth_trainable.store.failures")  # arguments of Python, to note that a trial is silent


class TrialFailed(Exception):
    """What Ray gets of any exception in a trial: its text only, because the exception itself may not be picklable."""


def trouble_report(error: StorageError) -> dict[str, Any]:
    """The last report of a trial that could not go on because the storage failed. Another attempt could not either."""
    return {"status": TROUBLE, "trouble": str(error), "host": socket.gethostname(), "epochs_done": 0}


@dataclass(frozen=True, kw_only=True)
class End:
    """The last report of a trial. final: key of its last state, if it is done. rows: all epochs."""

    report: Mapping[str, Any]
    progress: Progress
    final: str | None = None
    rows: Sequence[Mapping[str, Any]] = ()

    def tell(self) -> None:
        write_results(results_of(self.rows, self.report))
        self.progress.tell(self.report, self.final)


class Attempt:
    """One attempt at the trial of a task. note: for its failure. is_covered: whether others had trained all of it."""

    is_covered = False

    def __init__(self, task: Mapping[str, Any], progress: Progress, should_stop: Callable[[], bool]) -> None:
        self.task, self.progress, self.should_stop = task, progress, should_stop
        self.trial, self.path = task["trial"], f"{task['run']}/trials/{task['trial']}"
        self.note = Note(storage=task["storage"], path=self.path, launch=task["launch"])

    def run(self) -> End:
        """Run the trial, unless it has failed twice in this launch."""
        store = Store(self.note.storage).in_use()
        before = failure_of(store, self.path, self.note.launch)
        if before is not None and before.is_last:
            return self.end_with({"status": "failed", "epochs_done": 0, "reason": before.reason})
        store.delete(f"{self.path}/{FAILURE}")
        if before is not None:
            self.note = replace(self.note, before=before.reason)
            self.progress.note(f"{self.trial}: tried again after {before.reason}")
        with self.surroundings():
            if "copy" in self.task:
                return self._train_copy(store)
            record, final = self._train(store)
            result = self._result(record)
        return self.end_with(result, final=final, rows=record["epochs"])

    def end_with(self, report: Mapping[str, Any], **more: Any) -> End:
        return End(report=report, progress=self.progress, **more)

    def surroundings(self) -> contextlib.AbstractContextManager[None]:
        """What is around the training of this trial in its process."""
        return contextlib.nullcontext()

    def watched(self) -> contextlib.AbstractContextManager[None]:
        """Within this block the trial is watched for silence."""
        return contextlib.nullcontext()

    def _train(self, store: Store) -> tuple[dict[str, Any], str]:
        """The record of the trial, and the key of its last state."""
        with part("import"):
            from lth_trainable.training.execution import fingerprint  # torch: in the workers, not in the driver
            from lth_trainable.training.lifecycle import identity_of
            from lth_trainable.training.run import Keep, record_covered, run_trial

        task, progress = self.task, self.progress
        with self.watched():
            execution, spec = execution_of(task), spec_from_dict(task["spec"])
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

    def _train_copy(self, store: Store) -> End:
        """Train a copy for the analysis of barriers, which is stored where its task says and has no record."""
        from lth_trainable.tune.copies import train_copy_trial

        with self.watched():
            report, here = train_copy_trial(store, self.task, self.progress.epoch)
        self.progress.fingerprint = json.dumps(here)
        return self.end_with({**report, **self.progress.news(), "done": True}, rows=self.progress.rows)

    def _result(self, record: Mapping[str, Any]) -> dict[str, Any]:
        self.progress.rows = record["epochs"]
        news = self.progress.news(record["result"])
        # `done`: Tune ends the trial at this report, without asking the worker once more
        return {**last_report(record, self.is_covered), **news, "done": True}

    def blamed(self, error: BaseException) -> End | tuple[str, bool]:
        """How the attempt ends if another is to blame: the storage, or trials beside it that leave it no memory.

        Else its failure is noted: the reason, and whether it is a mistake of the user's, which no other attempt mends.
        """
        if isinstance(error, StorageError):
            return self.end_in_trouble(error)
        if isinstance(error, NoRoom) and (end := self.end_without_room()) is not None:
            return end
        is_final = isinstance(error, UserError) and not isinstance(error, NoRoom)
        is_last = is_final or self.note.before is not None
        try:
            return self.note.leave(reason_of(error), _traceback_of(error), is_last=is_last), is_final
        except StorageError as trouble:
            return self.end_in_trouble(trouble)

    def end_in_trouble(self, error: StorageError) -> End:
        """The end of an attempt that could not go on because the storage failed."""
        return self.end_so_far(trouble_report(error))

    def end_without_room(self) -> End | None:
        """The end of an attempt that found no memory beside others on its GPU; None if it has none beside it.

        Not its fault: the driver tries it again beside fewer.
        """
        sharing = (self.task.get("place") or {}).get("sharing", 1)
        return self.end_so_far({"status": NO_ROOM, "sharing": sharing}) if sharing > 1 else None

    def end_so_far(self, report: Mapping[str, Any]) -> End:
        """An end with this report, and with everything that was not told yet."""
        return self.end_with({**report, "epochs_done": self.progress.epochs, **self.progress.news()})


class AttemptAlone(Attempt):
    """An attempt at a trial that a worker trains by itself, and that Ray tries again if it fails."""

    progress: Reports

    def __init__(self, task: Mapping[str, Any], should_stop: Callable[[], bool]) -> None:
        measures = bool((task.get("place") or {}).get("measures"))
        super().__init__(task, Reports(task["end"], task["log"], measures), should_stop)

    @contextlib.contextmanager
    def surroundings(self) -> Iterator[None]:
        with self.progress.measurement.until_the_end(), own_warnings():
            yield

    def watched(self) -> contextlib.AbstractContextManager[None]:
        watch = Watch(limit=self.task["silence"], tell=TELL, failure=self.note.as_json())
        return watched_for_silence(watch, self.progress.note)

    def fail(self, error: BaseException) -> End | TrialFailed:
        """Note why the trial failed. Returns what makes Ray try again, or a last report if that would not help."""
        found = self.blamed(error)
        if isinstance(found, End):
            return found
        reason, is_final = found
        return self.end_so_far({"status": "failed", "reason": reason}) if is_final else TrialFailed(reason)


def execution_of(task: Mapping[str, Any]) -> Execution:
    """Where and how the trial of a task runs. Loads torch."""
    from lth_trainable.training.execution import Execution

    return Execution.of(task["execution"])


@contextlib.contextmanager
def own_warnings() -> Iterator[None]:
    """A trial's code may change the filters of warnings, and its worker trains other trials too."""
    with warnings.catch_warnings():
        ignore_torch_warnings()
        yield


@contextlib.contextmanager
def watched_for_silence(watch: Watch, note: Callable[[str], None]) -> Iterator[None]:
    """Within this block this process is ended if it is silent for too long. note: gets why it is not watched, if so."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(watched(watch))
        except OSError as error:
            note(f"trials are not watched for silence: the process for it cannot start ({error})")
        yield


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
