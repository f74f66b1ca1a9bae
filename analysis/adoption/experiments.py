"""What an experiment of Ray Tune with `ticket_trainable` says of its trials. Does not import Ray, and reads no pickle.

A `ResultGrid` has configs and last reports; a folder of an experiment has them as `params.json` and `result.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from lth_trainable.errors import UserError, words_of
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.json_files import NotJson, object_from_json
from lth_trainable.store.names import is_name
from lth_trainable.store.store import Store
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
    """A trial of Ray's. name: for messages. config: as far as known. finished: name of its record, if it has one."""

    name: str
    config: Mapping[str, Any]
    finished: str | None = None


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """store: its folder. is_own: whether it comes from an object of this process, whose paths are the user's own."""

    store: Store
    trials: tuple[RayTrial, ...]
    is_own: bool = False


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What an experiment asked for.

    places: storage and run of the records that its configs name. unfinished: specs of trials without a record.
    finished: names of records. problems: of trials whose config is no ticket's, one line each.
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
    found = [results[i] for i in range(len(results))]
    trials = (
        RayTrial(
            name=str(result.path).rpartition("/")[2], config=result.config or {},
            finished=_finished(result.metrics or {}),
        )
        for result in found
    )  # fmt: skip
    return Experiment(store=store, trials=tuple(trials), is_own=True)


def is_experiment(store: Store) -> bool:
    """Whether this folder is one of an experiment."""
    return any(name.startswith(STATE_FILE) for name in store.names(""))


def of_folder(store: Store) -> Experiment:
    """The experiment in a folder."""
    return Experiment(store=store, trials=tuple(_trials_in(store)))


def asked_for(experiment: Experiment) -> Asked:
    """What the trials of an experiment were to train."""
    places: dict[tuple[str, str], None] = {}
    unfinished: list[TrialSpec] = []
    problems: list[str] = []
    for trial in experiment.trials:
        if TASK in trial.config:
            task = task_of(trial.config)
            places[str(task["storage"]), str(task["run"])] = None
            continue
        try:
            ticket = Ticket.of(trial.config)
        except UserError as error:
            if trial.finished is None:
                problems.append(f"{trial.name}: not a ticket of ticket_trainable ({error})")
            continue
        if ticket.storage is not None:
            places[ticket.storage, ticket.run] = None
        if trial.finished is None:
            unfinished.append(ticket.spec)
    finished = tuple(trial.finished for trial in experiment.trials if trial.finished is not None)
    return Asked(
        places=tuple(places), unfinished=tuple(dict.fromkeys(unfinished)), finished=finished, problems=tuple(problems)
    )


def _trials_in(store: Store) -> Iterator[RayTrial]:
    for name in store.folders(""):
        if not is_name(name) or name == STORE:
            continue
        try:
            config = store.read_as(f"{name}/{PARAMS}", object_from_json)
        except FileNotFoundError:
            continue
        except NotJson as error:
            raise UserError(f"{store.at(name)}/{PARAMS}: not readable as a config of Ray Tune ({error})") from error
        yield RayTrial(name=name, config=config, finished=_finished(_last_report(store, name)))


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
