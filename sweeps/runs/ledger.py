"""Compare the plan of a run with its store: which trials are done, damaged or failed, and which states exist."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from analysis.published.claims import check_same_claims, claims_of, read_claims
from analysis.tables.roles import TICKET, role_of
from analysis.tables.run_plan import (
    ALPHA,
    FORMER_ALPHA,
    FORMER_MARGINS,
    PUBLISHED,
    read_terms,
    terms_of,
    write_content,
)
from lth_trainable.errors import StorageError, UserError, bad_value
from lth_trainable.spec.trial_spec import DataKey, TrialSpec
from lth_trainable.store.contents import check_layout, read_record
from lth_trainable.store.fingerprints import of_place, of_trial
from lth_trainable.store.record import Identity, record_trial
from lth_trainable.store.store import (
    PLAN,
    STATES,
    WEIGHTS,
    Damaged,
    Sealed,
    Store,
    fingerprint_id,
    map_in_threads,
)
from lth_trainable.store.trials import read_failure
from lth_trainable.versions import DISTRIBUTION, project_version
from sweeps.experiments.recipes import Sweep
from sweeps.experiments.tuning import check_same_rates
from sweeps.planning.plan import Facts, Plan, PlannedTrial
from sweeps.runs.damaged import read_damaged
from sweeps.runs.plan_file import read_content

RESERVED = (STATES,)
READ_THROUGH = 2 << 30  # up to so many bytes of states a restart checks SHA-256, beyond it only sizes

MANY = 5000  # states of a plan of which a restart looks only at those that finished trials refer to

Found = Sealed | Damaged | None  # a folder, what is wrong with it, or None if there is none


@dataclass(frozen=True, kw_only=True)
class Stock:
    """What the store has of a run. done: finished trials by name. failed: reasons by name. reports: on damage."""

    done: Mapping[str, Sealed]
    failed: Mapping[str, str]
    reports: tuple[str, ...]

    @property
    def fingerprints(self) -> set[str]:
        """Ids of the fingerprints of the places where the finished trials were trained."""
        found = (of_place(folder.manifest.get("fingerprint", {})) for folder in self.done.values())
        return {fingerprint_id(fingerprint) for fingerprint in {repr(one): one for one in found}.values()}


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The trials of one command in one run.

    facts: about their data, by `TrialSpec.data_key`. roles: by trial name.
    """

    store: Store
    run: str
    plan: Plan
    facts: Mapping[DataKey, Facts]
    roles: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The run's path as the user would type it."""
        return self.store.at(self.run)

    def for_seeds(self, seeds: Collection[int]) -> Ledger:
        """The ledger with only the trials of these seeds."""
        return replace(self, plan=self.plan.for_seeds(seeds))

    def check_writable(self) -> None:
        """Raise `UserError` if the run cannot be written, before anything is trained. From here on it must stay so."""
        probe = f"{self.run}/.writable"
        try:
            self.store.write(probe, b"")
            self.store.delete(probe)
        except (OSError, StorageError, UserError) as error:
            raise UserError(
                f"storage: cannot write to {self.path} ({error}); choose a --storage that you may write to"
            ) from error
        self.store.in_use()

    # -- what exists ------------------------------------------------------------------------------------------------

    def take_stock(self, repair: bool) -> Stock:
        """The finished and failed trials. With `repair`, damaged folders are set aside, to be trained again.

        Raises `UserError` if a finished trial has the name of a planned one but another key.
        """
        begun = self.store.names(f"{self.run}/trials")  # no look-ups for trials that nobody has started
        paths = [self.store.trial(self.run, trial.name) for trial in self.plan.trials]
        there = [path for trial, path in zip(self.plan.trials, paths, strict=True) if trial.name in begun]
        keys = {self.store.trial(self.run, trial.name): trial.key for trial in self.plan.trials}
        folders = dict(zip(there, map_in_threads(lambda path: self._trial(path, keys[path]), there), strict=True))
        read = [folders.get(path) for path in paths]
        referred = list(dict.fromkeys(state for folder in read for state in _states_of(folder)))
        noted = read_damaged(self.store)
        states = dict(zip(referred, self._read_states(referred, noted), strict=True))
        damages = [state for state in states.values() if isinstance(state, Damaged)]
        reports = [self._report(damage, repair, STATES) for damage in damages]
        reports += [self._report(damage, repair, STATES) for damage in self._damaged_others(referred, noted)]
        done: dict[str, Sealed] = {}
        missing: list[str] = []
        for trial, path, folder in zip(self.plan.trials, paths, read, strict=True):
            if isinstance(folder, Sealed) and folder.manifest["key"] != trial.key:
                raise UserError(
                    f"{self.path}/trials/{trial.name}: found a finished trial of this name with another spec,"
                    " data or plug-in; expected the same; choose another --name for this sweep"
                )
            gone = next((state for state in _states_of(folder) if not isinstance(states[state], Sealed)), None)
            found = folder if gone is None else Damaged(path, f"its weights {gone} are missing")
            if isinstance(found, Damaged):
                reports.append(self._report(found, repair, self.run))
            elif found is None:
                missing += [trial.name] if trial.name in begun else []
            else:
                done[trial.name] = found
        reasons = zip(missing, map_in_threads(self.failure, missing), strict=True)
        failed = {name: reason for name, reason in reasons if reason is not None}
        return Stock(done=done, failed=failed, reports=tuple(reports))

    def stored(self, fingerprint: Mapping[str, Any], repair: bool) -> tuple[set[str], list[str]]:
        """Keys of the states from which training can continue under this fingerprint, and reports on damaged ones."""
        listed = set(self.store.folders(STATES))
        wanted = self._of_plan(listed)
        own = {key: of_trial(fingerprint, spec) for key, spec in self._specs_of(wanted).items()}
        found = map_in_threads(lambda key: self._find(self.store.state(key, own[key])), sorted(wanted))
        whole = [folder for folder in found if isinstance(folder, Sealed) and folder.manifest.get("complete")]
        damages = [folder for folder in found if isinstance(folder, Damaged)]
        if sum(map(_bytes, whole)) <= READ_THROUGH:
            read = map_in_threads(self._read, whole)
            whole = [folder for folder in read if isinstance(folder, Sealed)]
            damages += [folder for folder in read if isinstance(folder, Damaged)]
        reports = [self._report(damage, repair, STATES) for damage in damages]
        return (listed - wanted) | {folder.manifest["key"] for folder in whole}, reports

    def listed_states(self) -> set[str]:
        """Keys of this plan's states that have a folder, whatever is in it."""
        return self._of_plan(set(self.store.folders(STATES)))

    def has_states_of(self, fingerprint: Mapping[str, Any]) -> bool:
        """Whether any of this plan's states was stored under this fingerprint."""
        folder = fingerprint_id(fingerprint)
        return any(self.store.exists(f"{STATES}/{key}/{folder}") for key in sorted(self.listed_states()))

    def _specs_of(self, keys: Collection[str]) -> dict[str, TrialSpec]:
        """For each of these keys a trial that passes its state. They all train alike up to there."""
        return {segment.key: trial.spec for trial in self.plan.trials for segment in trial.chain if segment.key in keys}

    def _of_plan(self, keys: set[str]) -> set[str]:
        return keys.intersection(segment.key for trial in self.plan.trials for segment in trial.chain)

    def _trial(self, path: str, key: str) -> Found:
        """The folder of a trial, with its files read; one with another key than planned is not read."""
        folder = self._find(path)
        return folder if isinstance(folder, Sealed) and folder.manifest["key"] != key else self._read(folder)

    def _find(self, path: str) -> Found:
        try:
            return self.store.find(path)
        except Damaged as damage:
            return damage

    def _read(self, folder: Found, names: Collection[str] | None = None) -> Found:
        """Read these files of a folder, or all of them; returns the folder, or what is wrong with it."""
        read = self._read_once(folder, names)
        if isinstance(folder, Sealed) and isinstance(read, Damaged):  # another driver may just have sealed it again
            return self._read_once(self._find(folder.path), names)
        return read

    def _read_once(self, folder: Found, names: Collection[str] | None) -> Found:
        if not isinstance(folder, Sealed):
            return folder
        try:
            for name in folder.manifest["files"] if names is None else names:
                content = self.store.content(folder, name)
                if len(self.plan.trials) <= MANY:
                    check_layout(folder, name, content)
        except Damaged as damage:
            return damage
        return folder

    def _read_states(self, paths: Sequence[str], noted: Collection[str]) -> list[Found]:
        """What is in these folders of states. Their files are read if that is little, or if `check` has found damage.

        noted: the folders in which it has. Of a larger storage only small weights are read.
        """
        found = map_in_threads(self._find, paths)
        is_little = sum(_bytes(folder) for folder in found if isinstance(folder, Sealed)) <= READ_THROUGH

        def read(folder: Found) -> Found:
            if not isinstance(folder, Sealed) or is_little or folder.path in noted:
                return self._read(folder)
            weights = folder.manifest["files"].get(WEIGHTS, {"size": 0})
            return self._read(folder, (WEIGHTS,) if 0 < weights["size"] <= READ_THROUGH // 1000 else ())

        return map_in_threads(read, found)

    def _damaged_others(self, referred: Collection[str], noted: Collection[str]) -> list[Damaged]:
        """Damaged states of this plan that no finished trial refers to; of many states, those that `check` noted."""
        keys = sorted(self.listed_states())
        if len(keys) > MANY:
            paths = [path for path in noted if path.split("/")[1] in set(keys)]
        else:
            listed = map_in_threads(
                lambda key: [f"{STATES}/{key}/{n}" for n in self.store.folders(f"{STATES}/{key}")], keys
            )
            paths = [path for folders in listed for path in folders]
        others = sorted(set(paths) - set(referred))
        return [state for state in self._read_states(others, noted) if isinstance(state, Damaged)]

    def _report(self, damage: Damaged, repair: bool, whose: str) -> str:
        aside = f"; set aside in {self.store.quarantine(damage, whose)}" if repair else ""
        return f"damaged, to be trained again where it is needed: {damage}{aside}"

    # -- writing ----------------------------------------------------------------------------------------------------

    def record(self, trial: PlannedTrial, fingerprint: Mapping[str, Any]) -> dict[str, Any] | None:
        """Record a trial whose epochs are all in stored states; returns its result and status.

        None if something is missing.
        """
        own = of_trial(fingerprint, trial.spec)
        identity = Identity(spec=trial.spec, key=trial.key, chain=trial.chain, fingerprint=own)
        try:
            record = record_trial(self.store, self.run, identity)
        except Damaged:  # a worker gets the trial, sets the state aside and trains it again
            return None
        return None if record is None else {**record["result"], "status": record["status"]}

    def read_record(self, name: str) -> dict[str, Any]:
        """The record of a finished trial. Raises `Damaged`."""
        folder = self.store.find(self.store.trial(self.run, name))
        if folder is None:
            raise Damaged(self.store.trial(self.run, name), "there is no manifest")
        return read_record(self.store, folder)

    def write_plan(self, sweep: Sweep, command: Sequence[str]) -> list[dict[str, Any]]:
        """Add this command and its trials to the run's plan; returns the entries of trials of earlier commands only.

        Raises `UserError` if the terms of the verdict change.
        """
        planned = self._planned()
        plan = planned or {"commands": [], "trials": []}
        terms: dict[str, Any] = {"endpoint": sweep.endpoint, "margin_pp": sweep.margin_pp, "alpha": sweep.alpha}
        terms["looks"] = list(sweep.looks)
        fixed = terms_of(planned) if planned else read_terms(self.store, self.run)
        former = {"alpha": FORMER_ALPHA if sweep.alpha == ALPHA else None, "margin_pp": FORMER_MARGINS.get(sweep.name)}
        # a run of version 0.4.0 keeps what was fixed before its first trial
        terms |= {name: value for name, value in former.items() if value is not None and fixed.get(name) == value}
        for name, value in terms.items():
            if fixed.get(name, value) != value:
                raise UserError(
                    f"{self.path}, {name}: found {value!r}; expected {fixed[name]!r}, as it was fixed before the first "
                    "trial; choose another --name"
                )
        claims = self._claims(sweep, fixed)
        if planned is not None:
            check_same_rates(self.path, planned.get("tuning"), sweep.tuning)
        known = {entry["name"]: entry for entry in plan["trials"]}
        for trial in self.plan.trials:
            facts = self.facts[trial.spec.data_key]
            data = {"digest": facts.digest, "n_train": facts.n_train}
            known[trial.name] = {
                "name": trial.name, "key": trial.key, "spec": trial.spec.canonical(), "data": data,
                "role": self._role(trial, known.get(trial.name)), "parent": trial.spec.parent,
            }  # fmt: skip
        commands = list(plan.get("commands", []))
        commands += [list(command)] if list(command) not in commands else []
        content = {
            **plan, **terms, "recipe": sweep.name, "claim": sweep.claim, "commands": commands,
            "keep_states": self.plan.policy, "versions": driver_versions(), "trials": list(known.values()),
            **({PUBLISHED: claims} if claims else {}),
            **({"tuning": sweep.tuning.as_json()} if sweep.tuning is not None else {}),
        }  # fmt: skip
        write_content(self.store, self.run, content, planned)
        return self._not_ours(plan["trials"])

    def _claims(self, sweep: Sweep, fixed: Mapping[str, Any]) -> list[Any]:
        """The claims of papers that the run is held against, as the plan has them. fixed: the terms so far, if any.

        What was planned without claims stays without: a claim is fixed before the first trial, or not at all. Raises
        `UserError` if the sweep has other claims or margins than those that were fixed.
        """
        claims = [claim.as_json() for claim in claims_of(f"{sweep.name}, {PUBLISHED}", sweep.published)]
        if not fixed:
            return claims
        before = list(fixed.get(PUBLISHED, []))
        if read_claims(f"{self.path}, {PUBLISHED}", before):
            check_same_claims(f"{self.path}, {PUBLISHED}", before, claims)
        return before

    def _role(self, trial: PlannedTrial, before: Mapping[str, Any] | None) -> str:
        """The role of a trial in the run. A ticket stays a ticket even if this command uses it as a baseline."""
        was = before.get("role", role_of(trial.spec)) if before is not None else None
        return TICKET if was == TICKET else self.roles.get(trial.name, role_of(trial.spec))

    def other_trials(self) -> list[dict[str, Any]]:
        """Entries of the run's plan that this command does not include, from earlier commands."""
        plan = self._planned() or {"trials": []}
        return self._not_ours(plan["trials"])

    def _not_ours(self, entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        ours = {trial.name for trial in self.plan.trials}
        return [entry for entry in entries if entry["name"] not in ours]

    def _planned(self) -> dict[str, Any] | None:
        """The run's plan so far; None if there is none yet. Raises `UserError` if it is damaged."""
        return read_content(self.store, self.run) if self.store.exists(f"{self.run}/{PLAN}") else None

    def failure(self, name: str) -> str | None:
        """Why a trial failed, as its worker noted; None without such a note."""
        failure = read_failure(self.store, self.store.trial(self.run, name))
        return None if failure is None else failure.reason


def check_place(storage: str, run: str) -> Store:
    """The store at `storage`. Raises `UserError` if it is a file, or if the run name is not allowed."""
    if not run or "/" in run or run.startswith(".") or run in RESERVED:
        raise bad_value(
            "name", run, "a folder name without a slash or a leading dot, and not 'states'", "choose --name"
        )
    if "://" not in storage and Path(storage).exists() and not Path(storage).is_dir():
        raise bad_value("storage", storage, "a folder or a URI", "it is a file")
    return Store(storage)


def driver_versions() -> dict[str, str]:
    """Versions of this project and its main dependencies, without importing them."""
    return {
        DISTRIBUTION: project_version(),
        **{name: version(name) for name in ("torch", "fastai", "ray", "numpy", "scipy")},
    }


def _states_of(folder: Found) -> Collection[str]:
    """Paths of the states that a trial's folder refers to."""
    return folder.manifest.get("states", {}).values() if isinstance(folder, Sealed) else ()


def _bytes(folder: Sealed) -> int:
    return sum(entry["size"] for entry in folder.manifest["files"].values())
