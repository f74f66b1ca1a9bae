"""Take stock of a storage: which states its runs refer to, which files exist, and whether they are undamaged."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pyarrow import fs

from lth_trainable.errors import StorageError, UserError, bad_value
from lth_trainable.store.contents import check_content
from lth_trainable.store.json_files import NotJson, object_from_json
from lth_trainable.store.names import STATE_KEY, STATE_OR_TEMPORARY
from lth_trainable.store.store import MANIFEST, PLAN, STATES, Damaged, Store, manifest_problem, map_in_threads
from lth_trainable.store.trouble import of_storage
from lth_trainable.unfinished import is_unfinished
from sweeps.planning.plan import Plan
from sweeps.runs.plan_file import kept_keys, plans_of, read_content

CHUNK = 4 << 20  # bytes of a file in memory
NOT_OURS = (["ray"], ["quarantine"])  # folders of a run in which nothing is unfinished: Ray's, and what was set aside


@dataclass(frozen=True, kw_only=True)
class Run:
    """The states that a run refers to.

    trials: names of the planned trials. planned, recorded: numbers of trials. keys: of the states that its plan needs.
    folders: of the states that the manifests of its trials name. problem: why the plan cannot be read; None if it can.
    """

    name: str
    trials: frozenset[str]
    planned: int
    recorded: int
    keys: frozenset[str]
    folders: frozenset[str]
    problem: str | None = None

    def needs(self, folder: str) -> bool:
        return folder in self.folders or folder.split("/")[1] in self.keys


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """All files of a storage, from one listing.

    states: for each folder of a state, its files by name. keys: the folders above them, one for each state key. trials:
    folders with a manifest. strange: what is in the place of a state's or trial's folder and is none. unfinished: files
    of runs and of `states` itself that a process has begun to write. bytes: of everything else, by run and by folder
    within the run.
    """

    states: Mapping[str, Mapping[str, fs.FileInfo]]
    keys: Mapping[str, fs.FileInfo]
    trials: Sequence[str]
    strange: Sequence[str]
    unfinished: Mapping[str, fs.FileInfo]
    bytes: Mapping[str, Counter[str]]


# -- what runs need -------------------------------------------------------------------------------------------------


def read_runs(store: Store) -> list[Run]:
    """The runs of a storage in order of name. A run is a folder with a plan or with trials."""
    names = [name for name in store.folders("") if name != STATES and not name.startswith(".")]
    return [run for run in (_read_run(store, name) for name in names) if run is not None]


def _read_run(store: Store, name: str) -> Run | None:
    """The run in a folder; None if the folder is not a run."""
    trials = store.folders(f"{name}/trials")
    read = map_in_threads(lambda trial: read_manifest(store, store.trial(name, trial)), trials)
    manifests = dict(zip(trials, read, strict=True))
    plans: list[Plan] = []
    planned, problem = 0, None
    try:
        content = read_content(store, name)
        plans, planned = plans_of(f"{name}/{PLAN}", content), len(content["trials"])
    except UserError as error:
        problem = str(error)
    except FileNotFoundError:  # trained without a sweep: its manifests name the states that it needs
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
        name=name, trials=frozenset(known), planned=planned, recorded=len(sealed),
        keys=frozenset(chain.from_iterable(kept)), folders=frozenset(folders), problem=problem,
    )  # fmt: skip


def read_manifest(store: Store, folder: str) -> dict[str, Any] | None:
    """The manifest of a folder: None if there is none, empty if it cannot be read."""
    try:
        manifest = store.read_as(f"{folder}/{MANIFEST}", object_from_json)
    except FileNotFoundError:
        return None
    except NotJson:
        return {}
    return manifest if manifest_problem(manifest) is None else {}


# -- what exists ----------------------------------------------------------------------------------------------------


def open_storage(path: str) -> Store:
    """The store at `path`. Raises `UserError` if this is not a folder of runs."""
    expected = "a folder of runs, or a URI such as s3://bucket/runs"
    try:
        store = Store(path)
        is_folder = store.fs.get_file_info(store.root).type == fs.FileType.Directory
    except UserError:
        raise
    except (OSError, ValueError, StorageError) as error:
        raise bad_value("STORAGE", path, expected, str(error).splitlines()[0]) from error
    if not is_folder:
        raise bad_value("STORAGE", path, expected, "there is no such folder")
    if store.exists(PLAN):
        raise bad_value("STORAGE", path, expected, "this is one run; name the folder above it")
    return store


def take_inventory(store: Store) -> Inventory:
    """All files of the storage, in one listing."""
    states: dict[str, dict[str, fs.FileInfo]] = {}
    keys: dict[str, fs.FileInfo] = {}
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    trials, strange = [], []
    unfinished: dict[str, fs.FileInfo] = {}
    for info in store.walk(""):
        path = info.path[len(store.root) + 1 :]
        parent, _, name = path.rpartition("/")
        if info.type == fs.FileType.Directory:
            if STATE_OR_TEMPORARY.fullmatch(path):
                states.setdefault(path, {})
            elif STATE_KEY.fullmatch(path):
                keys[path] = info
            elif name == MANIFEST:
                strange.append(parent)
        elif STATE_OR_TEMPORARY.fullmatch(path) or STATE_KEY.fullmatch(path) or parent.split("/")[1:] == ["trials"]:
            strange.append(path)
        elif STATE_OR_TEMPORARY.fullmatch(parent):
            states.setdefault(parent, {})[name] = info
        else:
            run, *folders = parent.split("/") if parent else [""]
            sizes[run][folders[0] if folders else ""] += info.size
            if is_unfinished(name) and folders[:1] not in NOT_OURS:
                unfinished[path] = info
            if name == MANIFEST and len(folders) == 2 and folders[0] == "trials":
                trials.append(parent)
    return Inventory(states=states, keys=keys, trials=trials, strange=strange, unfinished=unfinished, bytes=sizes)


def files_below(store: Store, folder: str) -> dict[str, fs.FileInfo]:
    """Files of a folder by name, without those of its subfolders."""
    full = f"{store.root}/{folder}"
    infos = (info for info in store.walk(folder) if info.type == fs.FileType.File)
    return {info.base_name: info for info in infos if info.path == f"{full}/{info.base_name}"}


# -- whether it is damaged ------------------------------------------------------------------------------------------


def damage_in(store: Store, path: str) -> list[str]:
    """Read a sealed folder completely and say what is wrong with it; empty if nothing is, or if it is not sealed."""
    # twice: another driver may seal it again while it is read
    return _damage_in(store, path) and _damage_in(store, path)


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
    if folder is not None and not reasons:
        try:
            check_content(store, folder)
        except Damaged as damage:
            reasons.append(damage.reason)
    states = folder.manifest.get("states", {}) if folder else {}
    missing = sorted(state for state in set(states.values()) if not store.exists(f"{state}/{MANIFEST}"))
    return reasons + [f"its weights {state} are missing" for state in missing]


@of_storage
def _sha256(store: Store, path: str) -> str:
    sha = hashlib.sha256()
    with store.fs.open_input_stream(f"{store.root}/{path}") as stream:
        while chunk := stream.read(CHUNK):
            sha.update(chunk)
    return sha.hexdigest()
