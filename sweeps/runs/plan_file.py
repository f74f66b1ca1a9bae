"""Read the training in a run's plan.json: its trials as trees, and the states that they need."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from analysis.tables import run_plan
from lth_trainable.errors import UserError, bad_value
from lth_trainable.spec.segments import recorded_keys, rewind_key
from lth_trainable.spec.trial_spec import DataKey, TrialSpec, spec_from_dict
from lth_trainable.store.store import PLAN, Store
from sweeps.planning.plan import KEEP_STATES, Facts, Plan, PlannedTrial, make_plan


def read_content(store: Store, run: str) -> dict[str, Any]:
    """The content of a run's plan.json. Raises FileNotFoundError if there is none.

    Raises `UserError` if it is not a plan, or one of a newer version.
    """
    content = run_plan.read_content(store, run)
    _policy_of(f"{run}/{PLAN}", content)
    return content


def plans_of(where: str, content: Mapping[str, Any]) -> list[Plan]:
    """The planned trials as trees: one plan for each data set, since two data sets share nothing.

    Trials planned by old versions, which did not note the data, are left out: no state was stored for them. Raises
    `UserError` for a plan of a newer version, or if one of its plug-ins has changed.
    """
    policy = _policy_of(where, content)
    specs: dict[Facts, list[TrialSpec]] = defaultdict(list)
    keys = {}
    for entry in content["trials"]:
        with _readable(f"{where}, trial {entry['name']}"):
            spec = spec_from_dict(entry["spec"])
            if entry.get("data"):
                specs[Facts(digest=entry["data"]["digest"], n_train=entry["data"]["n_train"])].append(spec)
                keys[spec.name] = entry["key"]
    with _readable(where):
        plans = [make_plan(own, dict.fromkeys(_data_of(own), facts), policy) for facts, own in specs.items()]
    _check_keys(where, plans, keys)
    return plans


def plans_of_open_seeds(where: str, content: Mapping[str, Any], done: Collection[str]) -> tuple[list[Plan], int]:
    """Like `plans_of`, for the seeds that have unfinished trials; and the epochs of all other seeds together.

    No two seeds share training, and seeds with the same trials train equally many epochs. So of those that are finished
    one of each kind is planned, however many there are. done: names of finished trials.
    """
    entries: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    kinds: dict[frozenset[str], list[Any]] = defaultdict(list)
    with _readable(where):
        for entry in content["trials"]:
            entries[entry["spec"]["seed"]].append(entry)
        for seed, own in entries.items():
            if all(entry["name"] in done for entry in own):
                kinds[frozenset(repr((entry["spec"] | {"seed": None}, entry.get("data"))) for entry in own)].append(
                    seed
                )

    def planned(seeds: Iterable[Any]) -> list[Plan]:
        return plans_of(where, {**content, "trials": [entry for seed in seeds for entry in entries[seed]]})

    epochs = sum(len(alike) * sum(p.epochs_distinct for p in planned(alike[:1])) for alike in kinds.values())
    finished = {seed for alike in kinds.values() for seed in alike}
    return planned(seed for seed in entries if seed not in finished), epochs


def _but_for_its_seed(entry: Mapping[str, Any]) -> str:
    return repr((entry["spec"] | {"seed": None}, entry.get("data")))


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a plug-in's module may raise anything
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{where}: not readable as a plan ({reason}); restore what it needs") from error


def _policy_of(where: str, content: Mapping[str, Any]) -> str:
    """Which states are stored. Raises `UserError` for a policy that this version does not know."""
    policy = content.get("keep_states", KEEP_STATES[0])
    if policy not in KEEP_STATES:
        advice = "read the run with the version that wrote it"
        raise bad_value(f"{where}, keep_states", policy, f"one of {', '.join(KEEP_STATES)}", advice)
    return policy


def _check_keys(where: str, plans: Iterable[Plan], keys: Mapping[str, str]) -> None:
    for trial in (trial for plan in plans for trial in plan.trials):
        if trial.key != keys[trial.name]:
            raise UserError(
                f"{where}, trial {trial.name}: found the key {keys[trial.name][:12]}, expected {trial.key[:12]} from "
                "its spec; its plug-in was edited since: put it back as it was, or remove the run's folder"
            )


def _data_of(specs: Iterable[TrialSpec]) -> set[DataKey]:
    return {spec.data_key for spec in specs}


def kept_keys(plan: Plan, trial: PlannedTrial, recorded: bool) -> set[str]:
    """Keys of the states that a trial needs, or that others start from on its path.

    An unfinished trial may also have a state at any epoch: it stores some so that a kill loses little training.
    """
    keys = {*plan.keep(trial), *plan.rewind_steps(trial).values(), trial.chain[0].key}
    keys |= set(recorded_keys(trial.spec, trial.chain).values())
    rewound = rewind_key(trial.spec, trial.chain)
    if rewound is not None:
        keys.add(rewound)
    if trial.spec.ticket_id is not None:
        keys.add(trial.spec.ticket_id.digest)
    if not recorded:
        trained = (segment for segment in trial.chain if segment.kind == "train")
        keys |= {segment.key_at(epoch) for segment in trained for epoch in range(segment.start + 1, segment.end + 1)}
    return keys
