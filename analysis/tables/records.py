"""Reading trials from the store: the record of each, or its status and the reason why it has none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyarrow import fs

from analysis.tables.run_plan import PlanEntry, RunPlan, check_fields
from analysis.tables.schema import RESTORED
from lth_trainable.errors import UserError
from lth_trainable.safe_text import one_line
from lth_trainable.store.store import FAILURE, MANIFEST, PART, RECORD, Damaged, Store, map_in_threads
from lth_trainable.store.trials import read_failure, read_record

BATCH = 256  # records in memory at a time

Files = Mapping[str, fs.FileInfo]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the store has of one trial: its record, or the status and the reason why there is none."""

    record: Mapping[str, Any] = field(default_factory=dict)
    status: str = "missing"
    reason: str | None = None


def list_trials(store: Store, run: str) -> dict[str, dict[str, fs.FileInfo]]:
    """Files in the folder of each trial, trials in order of name. Files that are still being written are left out."""
    return _by_trial(store.walk(f"{run}/trials"))


def list_trial(store: Store, run: str, trial: str) -> Files:
    """The same files in the folder of one trial."""
    return _by_trial(store.walk(store.trial(run, trial))).get(trial, {})


def _by_trial(infos: Iterable[fs.FileInfo]) -> dict[str, dict[str, fs.FileInfo]]:
    trials: dict[str, dict[str, fs.FileInfo]] = {}
    for info in infos:
        folder, _, name = info.path.rpartition("/")
        parent, _, trial = folder.rpartition("/")
        if info.type == fs.FileType.File and parent.endswith("/trials") and not name.endswith(PART):
            trials.setdefault(trial, {})[name] = info
    return dict(sorted(trials.items()))


def trial_names(plan: RunPlan, folders: Mapping[str, Files]) -> list[str]:
    """The trials of the run: the planned ones in the order of the plan, then others that the store has files of."""
    planned = {trial.name: None for trial in plan.trials}
    return [*planned, *(name for name, files in folders.items() if name not in planned and is_begun(files))]


def is_begun(files: Files) -> bool:
    """Whether these files of a trial include a record, or a note of why it failed."""
    return MANIFEST in files or FAILURE in files


def read_trials(
    store: Store, run: str, names: Sequence[str], planned: Mapping[str, PlanEntry]
) -> Iterator[tuple[str, Found]]:
    """What the store has of these trials, in their order; only `BATCH` of them are in memory at a time."""
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        yield from zip(
            batch, map_in_threads(lambda name: read_trial(store, run, name, planned.get(name)), batch), strict=True
        )


def read_trial(store: Store, run: str, name: str, planned: PlanEntry | None) -> Found:
    """What the store has of one trial."""
    path = store.trial(run, name)
    try:
        folder = store.find(path)
        if folder is None:
            return _unfinished(store, path)
        record = read_record(store, folder)
        _check_record(path, record, planned)
    except Damaged as damage:
        return Found(status="damaged", reason=one_line(damage.reason))
    except UserError as error:  # of a newer version: cannot be compared, but the other trials still count
        return Found(status="damaged", reason=one_line(error))
    restored = record.get("restored")
    if restored:
        return Found(record=record, status=RESTORED, reason=_of_restored(restored))
    return Found(record=record, status=record["status"], reason=record["reason"])


def _of_restored(about: Mapping[str, Any]) -> str:
    """Why no verdict counts this trial: it is none that its own fields describe."""
    return one_line(f"after level {about['level']} of {about['from']} it went on with other settings")


def _unfinished(store: Store, path: str) -> Found:
    failure = read_failure(store, path)
    return Found() if failure is None else Found(status="failed", reason=failure.reason)


def _check_record(path: str, record: Mapping[str, Any], planned: PlanEntry | None) -> None:
    """Raises `Damaged` for a record that is not this trial's, `UserError` for one of a newer version."""
    if path.rpartition("/")[2] != record["trial"]:
        raise Damaged(path, f"{RECORD} is of the trial {record['trial'][:80]}")
    if planned is not None and planned.key is not None and record["key"] != planned.key:
        raise Damaged(path, f"{RECORD} has the key {record['key'][:12]}..., the plan {planned.key[:12]}...")
    check_fields(f"{path}/{RECORD}", record["spec"])
