"""The plan of a run against its store: what is done, what is damaged, what failed, which states are there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lth_trainable.errors import UserError, bad_value
from lth_trainable.record import Identity, record_trial
from lth_trainable.store import (
    FAILURE,
    FORMAT,
    PLAN,
    STATES,
    WEIGHTS,
    Damaged,
    Sealed,
    Store,
    fingerprint_mark,
    to_json,
)
from sweeps.branches import TICKET, role_of
from sweeps.plan import Facts, Plan, PlannedTrial
from sweeps.recipes import Sweep
from sweeps.references import read_plan

RESERVED = (STATES,)
READ_THROUGH = 2 << 30  # bytes of states up to which a restart checks every SHA-256 rather than every size


@dataclass(frozen=True, kw_only=True)
class Stock:
    """What the store has of a run. done: finished trials by name. failed: reason by name. reports: on damage."""

    done: Mapping[str, Sealed]
    failed: Mapping[str, str]
    reports: tuple[str, ...]

    @property
    def fingerprints(self) -> set[str]:
        """Marks of the fingerprints under which the finished trials were trained."""
        return {fingerprint_mark(folder.manifest.get("fingerprint", {})) for folder in self.done.values()}


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The trials of one command in one run. facts: of their data, by (dataset, split seed). roles: by name of trial."""

    store: Store
    run: str
    plan: Plan
    facts: Mapping[tuple[str, int], Facts]
    roles: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The run's path as a person would type it."""
        return self.store.at(self.run)

    def check_writable(self) -> None:
        """Raise `UserError` where the run cannot be written, before anything is trained."""
        probe = f"{self.run}/.writable"
        try:
            self.store.write(probe, b"")
            self.store.delete(probe)
        except OSError as error:
            raise UserError(
                f"storage: cannot write to {self.path} ({error}); choose a --storage that you may write to"
            ) from error

    # -- what is there -----------------------------------------------------------------------------------------------

    def take_stock(self, repair: bool) -> Stock:
        """Finished and failed trials; `repair` sets damaged folders aside, to be trained again.

        Raises `UserError` where a finished trial has this name but another identity.
        """
        done: dict[str, Sealed] = {}
        failed: dict[str, str] = {}
        reports: list[str] = []
        states: dict[str, bool] = {}
        for trial in self.plan.trials:
            path = self.store.trial(self.run, trial.name)
            try:
                folder = self._whole(path, states, repair, reports)
            except Damaged as damage:
                reports.append(self._report(damage, repair, self.run))
                continue
            if folder is None:
                reason = self.failure(trial.name)
                if reason is not None:
                    failed[trial.name] = reason
                continue
            if folder.manifest["key"] != trial.key:
                raise UserError(
                    f"{self.path}/trials/{trial.name}: found a finished trial of this name whose spec, data or"
                    " plugged-in code is another; expected the same; choose another --name for this sweep"
                )
            done[trial.name] = folder
        return Stock(done=done, failed=failed, reports=tuple(reports))

    def stored(self, mark: Mapping[str, Any], repair: bool) -> tuple[set[str], list[str]]:
        """Keys of the states that can be gone on from under this fingerprint, and reports on damaged ones."""
        listed, reports = set(self.store.folders(STATES)), []
        wanted = {segment.key for trial in self.plan.trials for segment in trial.chain}
        found: dict[str, Sealed] = {}
        for key in listed - {"quarantine"}:
            path = self.store.state(key, mark)
            try:
                folder = self.store.find(path) if key in wanted else None
            except Damaged as damage:
                reports.append(self._report(damage, repair, STATES))
                listed.discard(key)
                continue
            if folder is not None and folder.manifest.get("complete"):
                found[key] = folder
            elif key in wanted:
                listed.discard(key)
        if sum(_bytes(folder) for folder in found.values()) <= READ_THROUGH:
            for folder in found.values():
                for name in folder.manifest["files"]:
                    try:
                        self.store.content(folder, name)
                    except Damaged as damage:
                        reports.append(self._report(damage, repair, STATES))
                        listed.discard(folder.manifest["key"])
                        break
        return listed, reports

    def _whole(self, path: str, states: dict[str, bool], repair: bool, reports: list[str]) -> Sealed | None:
        """The trial's folder, its record and masks read and its states looked up. Raises `Damaged`."""
        folder = self.store.find(path)
        if folder is None:
            return None
        for name in folder.manifest["files"]:
            self.store.content(folder, name)
        for state in folder.manifest.get("states", {}).values():
            if state not in states:
                try:
                    found = self.store.find(state)
                    states[state] = found is not None
                    if found is not None and found.manifest["files"][WEIGHTS]["size"] <= READ_THROUGH // 1000:
                        self.store.content(found, WEIGHTS)
                except Damaged as damage:
                    states[state] = False
                    reports.append(self._report(damage, repair, STATES))
            if not states[state]:
                raise Damaged(path, f"its weights {state} are missing")
        return folder

    def _report(self, damage: Damaged, repair: bool, whose: str) -> str:
        aside = f"; set aside in {self.store.quarantine(damage, whose)}" if repair else ""
        return f"damaged, to be trained again: {damage}{aside}"

    # -- what is written ---------------------------------------------------------------------------------------------

    def record(self, trial: PlannedTrial, mark: Mapping[str, Any]) -> dict[str, Any] | None:
        """Record a trial whose every epoch is in the states already; None where something is missing."""
        identity = Identity(spec=trial.spec, key=trial.key, chain=trial.chain, mark=mark)
        try:
            return record_trial(self.store, self.run, identity)
        except Damaged:  # the trial goes to a worker, which sets the state aside and trains it again
            return None

    def write_plan(self, sweep: Sweep, command: Sequence[str]) -> None:
        """Add this command and its trials to the run's plan. Raises `UserError` where the verdict's terms change."""
        plan = self._planned() or {"format": FORMAT, "commands": [], "trials": []}
        terms: dict[str, Any] = {"endpoint": sweep.endpoint, "margin_pp": sweep.margin_pp, "alpha": sweep.alpha}
        terms["looks"] = list(sweep.looks)
        fixed = {"looks": [], **plan} if plan["trials"] else plan
        for name, value in terms.items():
            if fixed.get(name, value) != value:
                raise UserError(
                    f"{self.path}, {name}: found {value!r}; expected {fixed[name]!r}, as it was fixed before the first "
                    "trial; choose another --name"
                )
        known = {entry["name"]: entry for entry in plan["trials"]}
        for trial in self.plan.trials:
            facts = self.facts[trial.spec.dataset, trial.spec.split_seed]
            data = {"digest": facts.digest, "n_train": facts.n_train}
            known[trial.name] = {
                "name": trial.name, "key": trial.key, "spec": trial.spec.canonical(), "data": data,
                "role": self._role(trial, known.get(trial.name)), "parent": trial.spec.parent,
            }  # fmt: skip
        commands = plan.get("commands", [])
        commands += [list(command)] if list(command) not in commands else []
        content = {
            **plan, **terms, "recipe": sweep.name, "claim": sweep.claim, "commands": commands,
            "keep_states": self.plan.policy, "versions": driver_versions(), "trials": list(known.values()),
        }  # fmt: skip
        self.store.write(f"{self.run}/{PLAN}", to_json(content))

    def _role(self, trial: PlannedTrial, before: Mapping[str, Any] | None) -> str:
        """What the trial is in the run: a ticket of any command stays one where another takes it as a baseline."""
        was = before.get("role", role_of(trial.spec)) if before is not None else None
        return TICKET if was == TICKET else self.roles.get(trial.name, role_of(trial.spec))

    def other_trials(self) -> list[dict[str, Any]]:
        """Entries of the run's plan that this command does not name: earlier cohorts, or values left out this time."""
        plan = self._planned() or {"trials": []}
        ours = {trial.name for trial in self.plan.trials}
        return [entry for entry in plan["trials"] if entry["name"] not in ours]

    def _planned(self) -> dict[str, Any] | None:
        """What the run's plan has so far, None where there is none yet. Raises `UserError` where it is damaged."""
        return read_plan(self.store, self.run) if self.store.exists(f"{self.run}/{PLAN}") else None

    def failure(self, name: str) -> str | None:
        """Why a trial failed, as its worker noted it."""
        path = f"{self.store.trial(self.run, name)}/{FAILURE}"
        try:
            return str(json.loads(self.store.read(path))["reason"]) if self.store.exists(path) else None
        except (ValueError, KeyError, TypeError):
            return f"{FAILURE} is unreadable"


def check_place(storage: str, run: str) -> Store:
    """The store of `storage`. Raises `UserError` for a storage that is a file, or a bad run name."""
    if not run or "/" in run or run.startswith(".") or run in RESERVED:
        raise bad_value(
            "name", run, "a folder name without a slash or a leading dot, and not 'states'", "choose --name"
        )
    if "://" not in storage and Path(storage).exists() and not Path(storage).is_dir():
        raise bad_value("storage", storage, "a folder or a URI", "it is a file")
    return Store(storage)


def driver_versions() -> dict[str, str]:
    """Versions of the packages that matter, without importing them."""
    return {name: version(name) for name in ("lottery-sweep", "torch", "fastai", "ray", "numpy", "scipy")}


def _bytes(folder: Sealed) -> int:
    return sum(entry["size"] for entry in folder.manifest["files"].values())
