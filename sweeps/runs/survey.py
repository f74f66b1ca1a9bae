"""Find the status of each trial of a run from the files of the run and its states.

Nothing is written and the driver is not asked, so a run can be read while it is trained, and also after a kill.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from analysis.tables.index import known_trials
from analysis.tables.run_plan import find_run
from lth_trainable.spec.trial_spec import spec_from_dict
from lth_trainable.store.store import (
    FAILURE,
    MANIFEST,
    PLAN,
    STATES,
    Store,
    damage_by_size,
    fingerprint_id,
    map_in_threads,
)
from lth_trainable.store.trials import read_failure
from sweeps.planning.plan import Plan
from sweeps.planning.work import needed_by, work_left
from sweeps.runs.inventory import read_manifest
from sweeps.runs.lock import is_alive, read_driver
from sweeps.runs.plan_file import plans_of_open_seeds, read_content


@dataclass(frozen=True, kw_only=True)
class TrialStatus:
    """The status of a trial.

    epochs, level: epochs that a running trial has trained, and its level. epochs_left: to train. waits_for: names of
    running trials whose states it needs.
    """

    trial: str
    status: str
    reason: str | None = None
    epochs: int | None = None
    level: int | None = None
    epochs_left: int = 0
    waits_for: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A run as its files show it.

    content: of plan.json. statuses: by trial name. driver: what it wrote last. stored: keys of states from which
    training can continue. total, left: epochs, each counted once.
    """

    store: Store
    run: str
    content: Mapping[str, Any]
    statuses: Mapping[str, TrialStatus]
    driver: Mapping[str, Any] | None
    states: _States
    total: int
    left: int

    @property
    def stored(self) -> Collection[str]:
        return self.states.keys


@dataclass(frozen=True, kw_only=True)
class _States:
    """The states of a storage that a run can use, listed when they are first asked for.

    fingerprint_ids: of the run's trials, which cannot use states of others. Empty: states of any fingerprint.
    """

    store: Store
    fingerprint_ids: Collection[str]

    @functools.cached_property
    def keys(self) -> set[str]:
        """Keys of the states from which training can continue: all files that training needs exist."""
        return _stored(self.store, self.fingerprint_ids)


@dataclass(frozen=True, kw_only=True)
class _Folders:
    """Folders of trials, by name.

    finished: status. troubled: status and reason of failed and damaged ones. fingerprint_ids: of finished trials; not
    known if all are finished.
    """

    finished: Mapping[str, str]
    troubled: Mapping[str, tuple[str, str]]
    fingerprint_ids: Collection[str] = ()


def read_survey(path: str) -> Survey:
    """Read the run at `path`. Raises `UserError` if there is none, or if its plan cannot be read."""
    store, run = find_run(path)
    content = read_content(store, run)
    folders = _read_folders(store, run, {one["name"]: one["key"] for one in content["trials"]})
    plans, of_finished = plans_of_open_seeds(f"{run}/{PLAN}", content, folders.finished)
    driver = _driver(store, run)
    running = driver["running"] if driver and driver["alive"] else {}
    states = _States(store=store, fingerprint_ids=folders.fingerprint_ids)
    stored = states.keys if plans else set()  # a storage has very many files of states
    waits: dict[str, tuple[str, ...]] = {}
    alone = _epochs_alone(content)
    of_trial = {name: epochs for name, epochs in alone.items() if name not in folders.finished}
    total, left = sum(alone.values()) + of_finished, sum(of_trial.values())
    for plan in plans:
        work = work_left(plan, folders.finished, stored)
        total, left = total + plan.epochs_distinct, left + work.epochs
        of_trial |= work.of_trial
        waits |= _waits(plan, running, folders.finished, stored)
    names = [entry["name"] for entry in content["trials"]]
    return Survey(
        store=store, run=run, content=content,
        statuses={name: _status(name, folders, running, waits.get(name, ()), of_trial) for name in names},
        driver=driver, states=states, total=total, left=left,
    )  # fmt: skip


def _epochs_alone(content: Mapping[str, Any]) -> dict[str, int]:
    """Epochs of the trials of old versions, which did not note the data, by name: nothing is shared with them."""
    others = (entry for entry in content["trials"] if not entry.get("data"))
    return {entry["name"]: spec_from_dict(entry["spec"]).epochs_alone() for entry in others}


def _status(
    name: str,
    folders: _Folders,
    running: Mapping[str, Mapping[str, int]],
    waits_for: tuple[str, ...],
    left: Mapping[str, int],
) -> TrialStatus:
    """The status of one trial. left: epochs to train, by name of unfinished trial."""
    if name in folders.finished:
        return TrialStatus(trial=name, status=folders.finished[name])
    if name in running:
        epochs, level = running[name]["epochs"], running[name]["level"]
        return TrialStatus(trial=name, status="running", epochs=epochs, level=level, epochs_left=left[name])
    status, reason = folders.troubled.get(name, ("held back" if waits_for else "not started", None))
    return TrialStatus(trial=name, status=status, reason=reason, epochs_left=left[name], waits_for=waits_for)


def _read_folders(store: Store, run: str, keys: Mapping[str, str | None]) -> _Folders:
    """Read the folders of trials; damage is detected by size only. keys: of the planned trials, by name.

    If all are as the last gather has read them, its index says how each has ended, and no manifest is read.
    """
    listed_at = time.time_ns()
    folders: dict[str, dict[str, fs.FileInfo]] = defaultdict(dict)
    for info in store.walk(f"{run}/trials"):
        _, _, below = info.path.rpartition("/trials/")
        name, _, file = below.partition("/")
        if file:
            folders[name][file] = info
    known = known_trials(store, run, {name: folders.get(name, {}) for name in keys}, listed_at)
    if all(name in known and keys[name] in (None, known[name].key) for name in keys):
        return _Folders(finished={name: known[name].status for name in keys}, troubled={})
    recorded = [name for name in keys if MANIFEST in folders.get(name, ())]
    failed = [name for name in keys if FAILURE in folders.get(name, ()) and MANIFEST not in folders[name]]
    read = map_in_threads(lambda name: read_manifest(store, store.trial(run, name)) or {}, recorded)
    manifests = dict(zip(recorded, read, strict=True))
    failures = map_in_threads(lambda name: read_failure(store, store.trial(run, name)), failed)
    troubled = {  # no note any more: another attempt has just begun
        name: ("failed", failure.reason if failure else "") for name, failure in zip(failed, failures, strict=True)
    }
    for name, manifest in manifests.items():
        wrong = _wrong(manifest, {file: info.size for file, info in folders[name].items()}, keys[name])
        if wrong is not None:
            troubled[name] = "damaged", wrong
    sealed = {name: manifest for name, manifest in manifests.items() if name not in troubled}
    prints = {repr(one): one for one in (manifest.get("fingerprint", {}) for manifest in sealed.values())}
    return _Folders(
        finished={name: str(manifest.get("status", "done")) for name, manifest in sealed.items()}, troubled=troubled,
        fingerprint_ids=frozenset(map(fingerprint_id, prints.values())),
    )  # fmt: skip


def _wrong(manifest: Mapping[str, Any], files: Mapping[str, int], key: str | None) -> str | None:
    wrong = damage_by_size(manifest, files)
    if wrong is None and key is not None and manifest.get("key") != key:
        return f"its key is {str(manifest.get('key'))[:12]}, the plan's {key[:12]}"
    return wrong


def _driver(store: Store, run: str) -> dict[str, Any] | None:
    """What the run's driver wrote last, with `alive` and `silent_s` (seconds since then)."""
    found = read_driver(store, run)
    if found is None:
        return None
    silent = max(0.0, time.time() - found["beat"])
    listed = found.get("running")
    running = listed if isinstance(listed, dict) else {}
    counts = {name: at for name, at in running.items() if isinstance(at, dict) and _are_counts(at)}
    process = {name: found[name] for name in ("host", "pid", "started")}
    return {**process, "running": counts, "alive": is_alive(found), "silent_s": round(silent, 1)}


def _are_counts(at: Mapping[str, Any]) -> bool:
    return all(isinstance(at.get(name), int) for name in ("epochs", "level"))


def _stored(store: Store, fingerprint_ids: Collection[str]) -> set[str]:
    files: dict[str, set[str]] = defaultdict(set)
    for info in store.walk(STATES):
        folder, _, name = info.path.rpartition("/")
        files[folder].add(name)
    complete = (
        folder.split("/")[-2:]
        for folder, names in files.items()
        if MANIFEST in names and any(name.startswith("training") for name in names)
    )
    return {key for key, of in complete if not fingerprint_ids or of in fingerprint_ids}


def _waits(
    plan: Plan, running: Collection[str], done: Collection[str], stored: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """For each waiting trial, by name: the running trials that are about to produce a state it starts from."""
    making: dict[int, str] = {}
    waiting = []
    for trial in plan.trials if running else ():
        if trial.name in done:
            continue
        if trial.name not in running:
            waiting.append(trial)
            continue
        for node in needed_by(trial, stored):
            making.setdefault(id(node), trial.name)
    return {
        trial.name: tuple(sorted({making[id(node)] for node in needed_by(trial, stored) if id(node) in making}))
        for trial in waiting
    }
