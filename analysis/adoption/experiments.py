"""What an experiment of Ray Tune with `ticket_trainable` says of its trials. Does not import Ray, and reads no pickle.

A `ResultGrid` has configs and last reports; a folder of an experiment has them as `params.json` and `result.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from lth_trainable.errors import UserError, words_of
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.store.checkpoint import CHECKPOINT
from lth_trainable.store.json_files import NotJson, object_from_json
from lth_trainable.store.names import is_name
from lth_trainable.store.store import PLAN, STATES, Store
from lth_trainable.tune.config import TASK, Ticket, task_of

STATE_FILE = "experiment_state-"  # how the name of Ray's own file begins
PARAMS, RESULTS = "params.json", "result.json"
STORE = "store"  # folder of an experiment with the store of `ticket_trainable`, unless its config names another


@runtime_checkable
class Results(Protocol):
    """A `ray.tune.ResultGrid`, also one that is restored from disk."""

    experiment_path: str
    filesystem: Any

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class RayTrial:
    """A trial of Ray's.

    name: for messages. config: None if it is not known. finished: name of its record, if it has one. checkpoint:
    content of `checkpoint.json` in its last one; it knows the trial better than a config, which a function of the
    user's may have added to.
    """

    name: str
    config: Mapping[str, Any] | None
    finished: str | None = None
    checkpoint: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """store: its folder. is_own: whether it comes from an object of this process, whose paths are the user's own."""

    store: Store
    trials: tuple[RayTrial, ...]
    is_own: bool = False


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What an experiment asked for.

    places: storage and run of the records that its configs name, or else its checkpoints. unfinished: specs of trials
    without a record. finished: names of records. problems: of trials whose config is no ticket's, one line each.
    """

    places: tuple[tuple[str, str], ...] = ()
    unfinished: tuple[TrialSpec, ...] = ()
    finished: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())


def of_results(results: Results) -> Experiment:
    """The experiment of a `ResultGrid`."""
    store = Store.on(results.filesystem, results.experiment_path)
    if store.is_local:
        store = Store(results.experiment_path)
    trials = []
    for result in (results[i] for i in range(len(results))):
        name = str(result.path).rpartition("/")[2]
        config = result.config or _config(store, name)  # a trial that has not reported has none
        trials.append(
            RayTrial(
                name=name, config=config, finished=_finished(result.metrics or {}), checkpoint=_checkpoint(store, name)
            )
        )
    return Experiment(store=store, trials=tuple(trials), is_own=True)


def is_experiment(store: Store) -> bool:
    """Whether this folder is one of an experiment."""
    return any(name.startswith(STATE_FILE) for name in store.names(""))


def of_folder(store: Store) -> Experiment:
    """The experiment in a folder."""
    return Experiment(store=store, trials=tuple(_trials_in(store)))


def asked_for(experiment: Experiment) -> Asked:
    """What the trials of an experiment were to train."""
    named: dict[tuple[str, str], None] = {}
    noted: dict[tuple[str, str], None] = {}
    unfinished: list[TrialSpec] = []
    problems: list[str] = []
    for trial in experiment.trials:
        if trial.config is not None and TASK in trial.config:
            named[_of_task(trial)] = None
            continue
        if trial.checkpoint is not None:
            noted[str(trial.checkpoint["store"]), str(trial.checkpoint["run"])] = None
        ticket, problem = _ticket(trial)
        if ticket is not None and ticket.storage is not None:
            named[ticket.storage, ticket.run] = None
        if trial.finished is None:
            spec = _spec_of(trial.checkpoint) or (None if ticket is None else ticket.spec)
            unfinished += [] if spec is None else [spec]
            problems += [f"{trial.name}: {problem}"] if spec is None else []
    is_elsewhere = not named and not runs_in(store_beside(experiment.store))
    return Asked(
        places=tuple(noted if is_elsewhere else named), unfinished=tuple(dict.fromkeys(unfinished)),
        finished=tuple(trial.finished for trial in experiment.trials if trial.finished is not None),
        problems=tuple(problems),
    )  # fmt: skip


def _ticket(trial: RayTrial) -> tuple[Ticket | None, str]:
    """What the config of a trial asks for, or why it asks for no ticket."""
    if trial.config is None:
        return None, "it failed before its first report"
    try:
        return Ticket.of(trial.config), ""
    except (TypeError, ValueError) as error:  # a `UserError` among them
        return None, f"not a ticket of ticket_trainable ({words_of(error)})"


def _of_task(trial: RayTrial) -> tuple[str, str]:
    """Storage and run of a trial of a sweep."""
    try:
        task = task_of(trial.config or {})
        return str(task["storage"]), str(task["run"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{trial.name}: found a task that no sweep has written; expected one of lth_grid") from error


def _trials_in(store: Store) -> Iterator[RayTrial]:
    for name in store.folders(""):
        if not is_name(name) or name == STORE:
            continue
        config = _config(store, name)
        if config is not None:
            yield RayTrial(
                name=name, config=config, finished=_finished(_last_report(store, name)),
                checkpoint=_checkpoint(store, name),
            )  # fmt: skip


def _config(store: Store, name: str) -> Mapping[str, Any] | None:
    try:
        return store.read_as(f"{name}/{PARAMS}", object_from_json)
    except FileNotFoundError:
        return None
    except NotJson as error:
        raise UserError(f"{store.at(name)}/{PARAMS}: not readable as a config of Ray Tune ({error})") from error


def _checkpoint(store: Store, name: str) -> Mapping[str, Any] | None:
    """The content of `checkpoint.json` in a trial's last checkpoint, if it is one of `ticket_trainable`."""
    folders = [folder for folder in store.folders(name) if folder.startswith("checkpoint_")]
    try:
        about = store.read_as(f"{name}/{folders[-1]}/{CHECKPOINT}", object_from_json) if folders else {}
    except (FileNotFoundError, NotJson):  # one that a kill has cut; the config says nearly as much
        return None
    return about if {"store", "run"} <= set(about) and isinstance(about.get("spec"), dict) else None


def _spec_of(about: Mapping[str, Any] | None) -> TrialSpec | None:
    """The trial that a checkpoint is of; None for one that was restored, which no fields describe."""
    try:
        return None if about is None or about.get("restored") else spec_from_dict(about["spec"])
    except UserError:  # of another version, or with a plug-in that is not here
        return None


def store_beside(experiment: Store) -> Store:
    """The store beside an experiment, with a path or URI as a user would type it."""
    if experiment.is_local:
        return Store(f"{experiment.root}/{STORE}")
    beside = Store.on(experiment.fs, f"{experiment.root}/{STORE}")
    beside.as_typed = experiment.at(STORE)
    return beside


def runs_in(store: Store) -> list[str]:
    """Names of the runs of a store, with or without a plan."""
    return [name for name in store.folders("") if not name.startswith(".") and is_run(store, name)]


def is_run(store: Store, run: str) -> bool:
    """Whether this folder has a plan, or trials."""
    try:
        return run != STATES and (store.exists(f"{run}/{PLAN}") or bool(store.names(f"{run}/trials")))
    except OSError:  # a file where a folder should be
        return False


def _last_report(store: Store, name: str) -> Mapping[str, Any]:
    """The last line of a trial's `result.json`; nothing if it has not reported, or the line was cut by a kill."""
    try:
        lines = store.read(f"{name}/{RESULTS}").splitlines()
        found = json.loads(lines[-1]) if lines else {}
    except (FileNotFoundError, ValueError):
        return {}
    except OSError as error:
        raise UserError(f"{store.at(name)}/{RESULTS}: cannot be read ({words_of(error)})") from error
    return found if isinstance(found, dict) else {}


def _finished(report: Mapping[str, Any]) -> str | None:
    """The name of the record that a trial's last report is of."""
    name = report.get("trial")
    return name if is_name(name) and "status" in report else None
