"""What Ray Tune is told of a trial: each epoch once, then what was measured in the end. Does not import Ray."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lth_trainable.spec.segments import Segment

OF_EPOCH = ("valid_accuracy", "valid_loss", "train_loss", "sparsity_pct", "level", "epoch")
NO_ROOM = "no room"  # status of a trial that found no memory beside others on its GPU; it is tried again beside fewer
STOPPED = "stopped"  # of a trial that has ended because the driver asked for it
AGAIN = "again"  # of a member of a cohort that has failed for the first time: it is tried once more
LOST = "lost"  # of a member of a cohort that broke, maybe because of another member: it is no failure of its own
UNSTACKABLE = "unstackable"  # of a report: whether the networks of the cohort were trained one after another
MEMBERS = "members"  # of a report: those of the members of a cohort, by trial, as JSON


class Tell(Protocol):
    """Reports metrics. checkpoint_at: key of the state that the report's checkpoint is of, None for no checkpoint."""

    def __call__(self, metrics: Mapping[str, Any], checkpoint_at: str | None, epochs: int) -> None: ...


def epoch_metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an epoch, from its row in the record. What was not measured is NaN: schedulers compare numbers."""
    return {name: math.nan if row[name] is None else row[name] for name in OF_EPOCH}


def final_metrics(record: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of the trial's last epoch, and those of its record."""
    result = {
        name: math.nan if value is None else value
        for name, value in record["result"].items()
        if value is None or isinstance(value, bool | int | float)
    }
    about = {name: record[name] for name in ("trial", "status", "epochs_trained")}
    return {**epoch_metrics(record["epochs"][-1]), **result, **about}


def last_report(record: Mapping[str, Any], covered: bool) -> dict[str, Any]:
    """The last report of a sweep's trial, from its record. covered: whether others had trained all of it."""
    measures = {name: record["result"][name] for name in ("sparsity_pct", "test_accuracy")}
    about = {"epochs_done": record["epochs_trained"], "status": record["status"], "covered": covered}
    return {**about, **epoch_metrics(record["epochs"][-1]), **measures}


def parts_of(trial: str, result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a report says, by trial: of each member of a cohort of which it says something; else of the trial alone."""
    members = result.get(MEMBERS)
    found: dict[str, Mapping[str, Any]] = {trial: result} if members is None else json.loads(members)
    return found


def level_ends(chain: Sequence[Segment]) -> dict[tuple[int, int], str]:
    """Keys of the states at the levels' ends, by level and the number of its last epoch."""
    last = {segment.level: segment for segment in chain if segment.kind == "train"}
    return {(segment.level, segment.end - 1): segment.key for segment in last.values()}


def results_of(rows: Sequence[Mapping[str, Any]], last: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every epoch as Tune would have written it down, whether or not it was reported, and the last report."""
    values = {name: value for name, value in last.items() if isinstance(value, str | int | float)}
    ended = {name: value for name, value in values.items() if name not in ("fingerprint", "log")}
    lines = [epoch_metrics(row) for row in rows] or [{}]
    lines[-1] = {**lines[-1], **ended}
    return [{**line, "training_iteration": number} for number, line in enumerate(lines, 1)]


class EpochReports:
    """Reports every epoch of a trial once, also those that another trial has trained: so epochs count alike in all.

    The epoch at a level's end is reported once its state is stored, with a checkpoint; the last one with the record.
    chain: of the trial. told: epochs that Tune already knows, from the attempt that it restores.
    """

    def __init__(self, chain: Sequence[Segment], tell: Tell, told: int = 0) -> None:
        self.tell, self.told, self.ends = tell, told, level_ends(chain)
        self.last = max(self.ends)
        self.rows: list[dict[str, Any]] = []

    def epoch(self, rows: list[dict[str, Any]]) -> None:
        """To be called after each epoch, with all rows so far."""
        self.rows = rows
        is_end = _place(rows[-1]) in self.ends
        self._tell_to(len(rows) - 1 if is_end else len(rows))

    def state(self, key: str) -> None:
        """To be called for each stored state."""
        if self.rows and self.ends.get(_place(self.rows[-1])) == key and _place(self.rows[-1]) != self.last:
            self._tell_to(len(self.rows))

    def end(self, record: Mapping[str, Any], final: str) -> None:
        """Report the finished trial. final: key of its last state."""
        self.rows = record["epochs"]
        self._tell_to(len(self.rows) - 1)
        self.tell({**final_metrics(record), "levels_done": len(self.ends)}, final, len(self.rows))

    def _tell_to(self, n: int) -> None:
        while self.told < n:
            row, self.told = self.rows[self.told], self.told + 1
            end = self.ends.get(_place(row))
            self.tell({**epoch_metrics(row), "levels_done": row["level"] + (end is not None)}, end, self.told)


def _place(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["level"], row["epoch"]
