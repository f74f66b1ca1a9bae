"""What the runs of a storage refer to, what there is, and whether it is as it was written."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pyarrow import fs

from lth_trainable.errors import UserError, bad_value
from lth_trainable.spec.segments import recorded_keys, rewind_key
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.store.listing import each, listing
from lth_trainable.store.store import FORMAT, MANIFEST, PLAN, STATES, Damaged, Store
from sweeps.planning.plan import KEEP_STATES, Facts, Plan, PlannedTrial, make_plan

CHUNK = 4 << 20  # bytes of a file in memory
_STATE = re.compile(
    rf"{STATES}/[0-9a-f]{{64}}/[0-9a-f]{{12}}(-passing-[0-9a-f]+)?"
)  # anything else below states/ is left alone
_KEY = re.compile(rf"{STATES}/[0-9a-f]{{64}}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run refers to. keys: of states, by its plan; folders: of states, by its trials' manifests.

    planned, recorded: numbers of trials. problem: why its plan is not known, if it is not.
    """

    name: str
    planned: int
    recorded: int
    keys: frozenset[str]
    folders: frozenset[str]
    problem: str | None = None

    def needs(self, folder: str) -> bool:
        return folder in self.folders or folder.split("/")[1] in self.keys


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """One listing of a storage. states: files by name, by folder. keys: folders of keys.

    bytes: of everything else, by run and the folder in it.
    """

    states: Mapping[str, Mapping[str, fs.FileInfo]]
    keys: Mapping[str, fs.FileInfo]
    trials: Sequence[str]
    bytes: Mapping[str, Counter[str]]


# -- what runs refer to ----------------------------------------------------------------------------------------------


def read_runs(store: Store) -> list[Run]:
    """The runs of a storage, in order of name: folders with a plan or with trials."""
    names = [name for name in store.folders("") if name != STATES and not name.startswith(".")]
    return [run for run in (_read_run(store, name) for name in names) if run is not None]


def read_plan(store: Store, run: str) -> dict[str, Any]:
    """The content of a run's plan. Raises FileNotFoundError where there is none.

    Raises `UserError` for what is no plan, or one of a newer version.
    """
    try:
        content = dict(json.loads(store.read(f"{run}/{PLAN}")))
        list(content["trials"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{run}/{PLAN}: not readable as a plan ({error}); expected what a sweep writes there; restore it, or "
            "delete it and type the run's commands again: finished trials stay"
        ) from error
    _policy_of(f"{run}/{PLAN}", content)
    return content


def plans_of(where: str, content: Mapping[str, Any]) -> list[Plan]:
    """The planned trials as trees, one for each data set: nothing is shared between two.

    Trials of versions that did not write down the data are left out: nothing was stored to go on from them. Raises
    `UserError` for a plan of a newer version, or one whose plug-ins are not what they were.
    """
    policy = _policy_of(where, content)
    name = ""
    try:
        specs: dict[Facts, list[TrialSpec]] = defaultdict(list)
        keys = {}
        for entry in content["trials"]:
            name, spec = f", trial {entry['name']}", spec_from_dict(entry["spec"])
            if entry.get("data"):
                specs[Facts(digest=entry["data"]["digest"], n_train=entry["data"]["n_train"])].append(spec)
                keys[spec.name] = entry["key"]
        name = ""
        plans = [make_plan(own, dict.fromkeys(_data_of(own), facts), policy) for facts, own in specs.items()]
    except Exception as error:  # a plug-in's module may raise whatever it likes
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{where}{name}: not readable as a plan ({told}); restore what it needs") from error
    _check_keys(where, plans, keys)
    return plans


def _policy_of(where: str, content: Mapping[str, Any]) -> str:
    """Which states are kept. Raises `UserError` for a plan that this version does not know how to read."""
    policy = content.get("keep_states", KEEP_STATES[0])
    if content.get("format") != FORMAT or policy not in KEEP_STATES:
        found = f"format {content.get('format')!r}, keep_states {policy!r}"
        raise UserError(
            f"{where}: written by another version ({found}; this one reads format {FORMAT}); use that version"
        )
    return policy


def _check_keys(where: str, plans: Iterable[Plan], keys: Mapping[str, str]) -> None:
    for trial in (trial for plan in plans for trial in plan.trials):
        if trial.key != keys[trial.name]:
            raise UserError(
                f"{where}, trial {trial.name}: found the key {keys[trial.name][:12]}, expected {trial.key[:12]} from "
                "its spec; its plug-in was edited since: put it back as it was, or remove the run's folder"
            )


def _data_of(specs: Iterable[TrialSpec]) -> set[tuple[str, int]]:
    return {(spec.dataset, spec.split_seed) for spec in specs}


def kept_keys(plan: Plan, trial: PlannedTrial, recorded: bool) -> set[str]:
    """Keys of the states that a trial needs, or that others start from on its way.

    One that is not recorded may also have a state at any epoch, stored lest a kill cost it much.
    """
    keys = {*plan.keep(trial), *plan.rewind_steps(trial).values(), trial.chain[0].key}
    keys |= set(recorded_keys(trial.spec, trial.chain).values())
    rewound = rewind_key(trial.spec, trial.chain)
    if rewound is not None:
        keys.add(rewound)
    if trial.spec.given is not None:
        keys.add(trial.spec.given.digest)
    if not recorded:
        trained = (segment for segment in trial.chain if segment.kind == "train")
        keys |= {segment.key_at(epoch) for segment in trained for epoch in range(segment.start + 1, segment.end + 1)}
    return keys


def _read_run(store: Store, name: str) -> Run | None:
    """None for a folder that is no run."""
    trials = store.folders(f"{name}/trials")
    read = each(lambda trial: read_manifest(store, store.trial(name, trial)), trials)
    manifests = dict(zip(trials, read, strict=True))
    plans: list[Plan] = []
    planned, problem = 0, None
    try:
        content = read_plan(store, name)
        plans, planned = plans_of(f"{name}/{PLAN}", content), len(content["trials"])
    except UserError as error:
        problem = str(error)
    except FileNotFoundError:  # trained without a sweep; its manifests say what they refer to
        if not trials:
            return None
    known = {trial.name for plan in plans for trial in plan.trials}
    unknown = next((trial for trial, manifest in manifests.items() if manifest == {} and trial not in known), None)
    if problem is None and unknown is not None:
        problem = f"{store.trial(name, unknown)}/{MANIFEST}: not readable; rerun the sweep's command to repair it"
    planned_trials = ((plan, trial) for plan in plans for trial in plan.trials)
    kept = (kept_keys(plan, trial, recorded=bool(manifests.get(trial.name))) for plan, trial in planned_trials)
    sealed = [manifest for manifest in manifests.values() if manifest]
    folders = (folder for manifest in sealed for folder in manifest.get("states", {}).values())
    return Run(
        name=name, planned=planned, recorded=len(sealed), keys=frozenset(chain.from_iterable(kept)),
        folders=frozenset(folders), problem=problem,
    )  # fmt: skip


def read_manifest(store: Store, folder: str) -> dict[str, Any] | None:
    """A folder's manifest; None where there is none, empty where it cannot be read."""
    try:
        return dict(json.loads(store.read(f"{folder}/{MANIFEST}")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return {}


# -- what there is ---------------------------------------------------------------------------------------------------


def open_storage(path: str) -> Store:
    """The store at `path`. Raises `UserError` for what is not a folder of runs."""
    expected = "a folder of runs, or a URI such as s3://bucket/runs"
    try:
        store = Store(path)
        is_folder = store.fs.get_file_info(store.root).type == fs.FileType.Directory
    except (OSError, ValueError) as error:
        raise bad_value("STORAGE", path, expected, str(error).splitlines()[0]) from error
    if not is_folder:
        raise bad_value("STORAGE", path, expected, "there is no such folder")
    if store.exists(PLAN):
        raise bad_value("STORAGE", path, expected, "this is one run; name the folder above it")
    return store


def take_inventory(store: Store) -> Inventory:
    """Everything in the storage, in one listing."""
    states: dict[str, dict[str, fs.FileInfo]] = {}
    keys: dict[str, fs.FileInfo] = {}
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    trials = []
    for info in listing(store, ""):
        path = info.path[len(store.root) + 1 :]
        parent, _, name = path.rpartition("/")
        if info.type == fs.FileType.Directory:
            if _STATE.fullmatch(path):
                states.setdefault(path, {})
            elif _KEY.fullmatch(path):
                keys[path] = info
        elif _STATE.fullmatch(parent):
            states.setdefault(parent, {})[name] = info
        else:
            run, *folders = parent.split("/") if parent else [""]
            sizes[run][folders[0] if folders else ""] += info.size
            if name == MANIFEST and len(folders) == 2 and folders[0] == "trials":
                trials.append(parent)
    return Inventory(states=states, keys=keys, trials=trials, bytes=sizes)


def files_below(store: Store, folder: str) -> dict[str, fs.FileInfo]:
    """Files of a folder by name, without those of folders in it."""
    full = f"{store.root}/{folder}"
    infos = (info for info in listing(store, folder) if info.type == fs.FileType.File)
    return {info.base_name: info for info in infos if info.path == f"{full}/{info.base_name}"}


# -- whether it is whole ---------------------------------------------------------------------------------------------


def damage_in(store: Store, path: str) -> list[str]:
    """What is wrong with a sealed folder, after reading all of it; nothing where it is not sealed."""
    return _damage_in(store, path) and _damage_in(store, path)  # twice: it may be sealed anew while it is read


def _damage_in(store: Store, path: str) -> list[str]:
    try:
        folder = store.find(path)
    except Damaged as damage:
        return [damage.reason]
    except UserError as error:
        return [str(error)]
    reasons = []
    for name, entry in folder.manifest["files"].items() if folder else ():
        try:
            if _sha256(store, f"{path}/{entry.get('file', name)}") != entry.get("sha256"):
                reasons.append(f"{name} does not have the SHA-256 of the manifest")
        except FileNotFoundError:
            reasons.append(f"{name} is missing")
    states = folder.manifest.get("states", {}) if folder else {}
    missing = sorted(state for state in set(states.values()) if not store.exists(f"{state}/{MANIFEST}"))
    return reasons + [f"its weights {state} are missing" for state in missing]


def _sha256(store: Store, path: str) -> str:
    sha = hashlib.sha256()
    with store.fs.open_input_stream(f"{store.root}/{path}") as stream:
        while chunk := stream.read(CHUNK):
            sha.update(chunk)
    return sha.hexdigest()
