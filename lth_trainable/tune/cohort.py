"""One Ray trial that trains several trials of a sweep as one: a cohort, in `lth_trainable/training/cohort.py`.

Each member has an attempt of its own. What all of them have to tell goes to Ray in common reports, in whose entry
`MEMBERS` each has its own part. The first member is the trial as which Ray knows the cohort.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lth_trainable.errors import NoRoom, StorageError, UserError
from lth_trainable.silence import pulse
from lth_trainable.silence.watchdog import Watch
from lth_trainable.spec.trial_spec import spec_from_dict
from lth_trainable.stopwatch import part
from lth_trainable.store.failures import reason_of
from lth_trainable.store.store import Store
from lth_trainable.store.trouble import ray_error
from lth_trainable.tune.attempt import (
    Attempt,
    End,
    TrialFailed,
    execution_of,
    own_warnings,
    watched_for_silence,
)
from lth_trainable.tune.config import members_of
from lth_trainable.tune.progress import REPORT_SECONDS, Measurement, Progress
from lth_trainable.tune.ray_adapter import write_results
from lth_trainable.tune.reports import AGAIN, LOST, MEMBERS, STOPPED, UNSTACKABLE, epoch_metrics, results_of

TELL_NOBODY = ("-c", "pass")  # arguments of Python, for a silent cohort: nobody knows which member it was
OF_COHORT = ("stored", "fingerprint", "notes", "done")  # entries of a member's report that the cohort's report has
_BROKEN = ("CUDA error", "an illegal memory access", "device-side assert")


class Stopped(BaseException):
    """Ends a member at a stored state, because the driver has asked for it."""


class MemberProgress(Progress):
    """What a member has to tell. is_new: whether it has trained an epoch since its last part of a report."""

    def __init__(self, end: str, logged: bool, should_stop: Callable[[], bool]) -> None:
        super().__init__(end, logged)
        self.should_stop, self.is_new = should_stop, False

    def has_trained(self) -> None:
        self.is_new = True

    def has_stored(self, key: str) -> None:
        if self.should_stop():
            raise Stopped


class Member(Attempt):
    """An attempt at the trial of a member. end: how it ended; told: its last part of a report."""

    progress: MemberProgress
    end: End | None = None
    told: dict[str, Any] | None = None

    def __init__(self, task: Mapping[str, Any], should_stop: Callable[[], bool]) -> None:
        super().__init__(task, MemberProgress(task["end"], task["log"], should_stop), should_stop)
        self.has_broken_process = False
        self._seat: Any = None

    @property
    def is_unstackable(self) -> bool:
        """Whether it is known that the networks of its cohort cannot be stacked."""
        return self._seat is not None and self._seat.refusal is not None

    def train(self) -> None:
        """Train the trial, in the member's thread. It raises nothing but the end of the cohort."""
        from lth_trainable.training.cohort import Ended, current_seat

        self._seat = current_seat()
        try:
            self.end = self.run()
        except Ended:
            raise
        except Stopped:
            self.end = self.end_so_far({"status": STOPPED})
        except BaseException as error:  # SystemExit too: it is of the trial's own code
            self.end = self.fail(error)

    def fail(self, error: BaseException) -> End:
        """Note why the trial failed. Memory and a broken GPU are no failure of its own while there are others."""
        reason = reason_of(error)
        self.has_broken_process = any(sign in reason for sign in _BROKEN)
        if self.has_broken_process or (isinstance(error, NoRoom) and self.end_without_room() is None):
            return self.end_so_far({"status": LOST, "reason": reason})
        return self.end_by(error)

    def end_by(self, error: BaseException) -> End:
        """The end of an attempt that this error is to be blamed for."""
        found = self.blamed(error)
        if isinstance(found, End):
            return found
        reason, is_final = found
        is_last = is_final or self.note.before is not None
        return self.end_so_far({"status": "failed" if is_last else AGAIN, "reason": reason})

    @property
    def has_news(self) -> bool:
        """Whether others may wait for what it has to tell."""
        return bool(self.progress.stored) or (self.end is not None and self.told is None)

    def part(self) -> dict[str, Any]:
        """Its part of a report: everything that was not told yet; once it has ended, how."""
        if self.told is not None:
            return self.told
        self.progress.is_new = False
        if self.end is None:
            rows = self.progress.rows
            now = epoch_metrics(rows[-1]) if rows else {}
            return {"epochs_done": self.progress.epochs, **now, **self.progress.news()}
        report = dict(self.end.report)
        self.told = {name: value for name, value in report.items() if name not in (*OF_COHORT, "log")}
        return report


class CohortTrial:
    """The Ray trial of a cohort. task: of its first member, with those of the others."""

    def __init__(self, task: Mapping[str, Any], should_stop: Callable[[], bool]) -> None:
        self.task = task
        self.members = [Member(each, should_stop) for each in members_of(task)]
        self.measurement = Measurement(bool((task.get("place") or {}).get("measures")))
        self.last, self.is_stopped = time.monotonic(), False

    def run(self) -> None:
        """Train all members, and report their ends. Raises `TrialFailed` where only another process can go on."""
        with self.measurement.until_the_end(), own_warnings(), self._watched():
            self._train()
        try:
            broken = next((m for m in self.members if m.has_broken_process), None)
            self._tell(is_last=broken is None)
        except StorageError as error:
            for member in self.members:
                member.end, member.told = member.end_in_trouble(error), None
            self._tell(is_last=True, with_checkpoint=False)
            return
        if broken is not None and broken.end is not None:
            raise TrialFailed(str(broken.end.report.get("reason", LOST)))

    def _train(self) -> None:
        with part("import"):
            from lth_trainable.training.cohort import run_cohort

        execution, spec = execution_of(self.task), spec_from_dict(self.task["spec"])
        try:
            outcomes = run_cohort([member.train for member in self.members], execution, spec, self._between)
            errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
            self._break(errors[0] if errors else RuntimeError("a member has ended without an outcome"))
        except BaseException as error:
            if self.is_stopped:
                raise
            self._break(error)

    def _break(self, error: BaseException) -> None:
        """End the members that have not ended, if any, because of an error of the cohort itself."""
        for member in self.members:
            if member.end is None and isinstance(error, StorageError | UserError):
                member.end = member.end_by(error)
            elif member.end is None:
                member.has_broken_process = True
                member.end = member.end_so_far({"status": LOST, "reason": reason_of(error)})

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        note = self.members[0].note.as_json()
        watch = Watch(limit=self.task["silence"], tell=TELL_NOBODY, failure=note)
        with watched_for_silence(watch, self.members[0].progress.note):
            yield

    # -- reports -----------------------------------------------------------------------------------------------------

    def _between(self) -> None:
        """While all members wait: report what others may wait for at once, and epochs once a second."""
        has_trained = any(member.progress.is_new for member in self.members)
        if has_trained:
            self.measurement.begin()
        if any(member.has_news for member in self.members) or (
            has_trained and time.monotonic() - self.last >= REPORT_SECONDS
        ):
            self._tell()

    def _tell(self, is_last: bool = False, with_checkpoint: bool = True) -> None:
        self.last, leader = time.monotonic(), self.members[0]
        at = self._checkpoint_at(is_last) if with_checkpoint else None
        parts = {m.trial: m.part() for m in self.members if is_last or m.has_news or m.progress.is_new}
        stored = [key for of in parts.values() for key in of.pop("stored", ())]
        notes = [note for of in parts.values() for note in of.pop("notes", ())]
        known = [m.progress.fingerprint for m in self.members if m.progress.fingerprint != "{}"]
        parts = {name: {n: v for n, v in of.items() if n not in OF_COHORT} for name, of in parts.items()}
        of_leader = {n: v for n, v in parts.get(leader.trial, leader.told or {}).items() if n != "log"}
        report = {
            "epochs_done": 0, **of_leader, "stored": stored, "notes": notes, "fingerprint": (known or ["{}"])[0],
            **self.measurement.now(), MEMBERS: json.dumps(parts),
            UNSTACKABLE: any(m.is_unstackable for m in self.members),
        }  # fmt: skip
        if not is_last:
            report.pop("status", None)
        elif leader.end is not None:
            report["done"] = True
            write_results(results_of(leader.end.rows, of_leader))
        self._send(report, at)

    def _checkpoint_at(self, is_last: bool) -> str | None:
        """Key of the first member's state of which a report has a checkpoint: at a level's end, and at its own."""
        leader = self.members[0]
        if leader.end is not None:
            return leader.end.final if is_last else None
        return next((key for key in reversed(leader.progress.stored) if key in leader.progress.ends), None)

    def _send(self, report: Mapping[str, Any], checkpoint_at: str | None) -> None:
        with pulse.waiting(), part("waiting"):
            try:
                self.members[0].progress.tell(report, checkpoint_at)
            except SystemExit:
                self.is_stopped = True
                raise
            except OSError as error:  # Ray copies the checkpoint to the storage
                raise ray_error(Store(self.task["storage"]), error) from error
