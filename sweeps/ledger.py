"""What a run is to hold and what it holds: `plan.json` against the trials in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lth_trainable.errors import UserError, bad_value
from lth_trainable.spec import TrialSpec
from lth_trainable.store import FAILURE, FINAL, FORMAT, PLAN, Damaged, Sealed, Store, to_json
from sweeps.recipes import Sweep

RESERVED = ("states",)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The trials of one command in one run. keys: identity by trial name, from spec and data."""

    store: Store
    run: str
    trials: tuple[TrialSpec, ...]
    keys: Mapping[str, str]

    @property
    def path(self) -> str:
        """The run's path as a person would type it."""
        return f"{self.store.uri.rstrip('/')}/{self.run}"

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

    def take_stock(self, repair: bool) -> tuple[dict[str, Sealed], list[str]]:
        """Finished trials by name, and reports on damaged ones; `repair` sets those aside, to be trained again.

        Raises `UserError` where a finished trial has this name but another identity.
        """
        done: dict[str, Sealed] = {}
        reports = []
        states: dict[str, bool] = {}
        for spec in self.trials:
            path = self.store.trial(self.run, spec.name)
            try:
                folder = self._whole(path, states)
            except Damaged as damage:
                aside = f"; set aside in {self.store.quarantine(damage, self.run)}" if repair else ""
                reports.append(f"damaged, to be trained again: {damage}{aside}")
                continue
            if folder is None:
                continue
            if folder.manifest["key"] != self.keys[spec.name]:
                raise UserError(
                    f"{self.path}/trials/{spec.name}: found a finished trial of this name whose spec, data or"
                    " plugged-in code is another; expected the same; choose another --name for this sweep"
                )
            done[spec.name] = folder
        return done, reports

    def _whole(self, path: str, states: dict[str, bool]) -> Sealed | None:
        """The trial's folder, its record and masks read and its states looked up. Raises `Damaged`.

        Final weights are checked where they are read: a run of large networks would take minutes to read through.
        """
        folder = self.store.find(path)
        if folder is None:
            return None
        for name in set(folder.manifest["files"]) - {FINAL}:
            self.store.content(folder, name)
        for state in folder.manifest.get("states", {}).values():
            if state not in states:
                states[state] = self.store.find(state) is not None
            if not states[state]:
                raise Damaged(path, f"its weights {state} are missing")
        return folder

    def write_plan(self, sweep: Sweep, command: Sequence[str]) -> None:
        """Add this command and its trials to the run's plan. Raises `UserError` where the verdict's terms change."""
        plan = read_plan(self.store, self.run) or {"format": FORMAT, "commands": [], "trials": []}
        terms = {"endpoint": sweep.endpoint, "margin_pp": sweep.margin_pp, "alpha": sweep.alpha}
        for name, value in terms.items():
            if plan.get(name, value) != value:
                raise UserError(
                    f"{self.path}: its {name} was fixed as {plan[name]!r} before the first trial; found {value!r}; "
                    "choose another --name"
                )
        known = {entry["name"]: entry for entry in plan["trials"]}
        for spec in self.trials:
            known[spec.name] = {"name": spec.name, "key": self.keys[spec.name], "spec": spec.canonical()}
        commands = plan["commands"] + ([list(command)] if list(command) not in plan["commands"] else [])
        content = {
            **plan, **terms, "recipe": sweep.name, "claim": sweep.claim, "commands": commands,
            "versions": driver_versions(), "trials": list(known.values()),
        }  # fmt: skip
        self.store.write(f"{self.run}/{PLAN}", to_json(content))

    def failure(self, name: str) -> str | None:
        """Why a trial failed, as its worker noted it."""
        path = f"{self.store.trial(self.run, name)}/{FAILURE}"
        return json.loads(self.store.read(path))["reason"] if self.store.exists(path) else None


def open_ledger(storage: str, run: str, trials: tuple[TrialSpec, ...], keys: Mapping[str, str]) -> Ledger:
    """The ledger of `run` in `storage`. Raises `UserError` for a storage that is a file, or a bad run name."""
    if not run or "/" in run or run.startswith(".") or run in RESERVED:
        raise bad_value(
            "name", run, "a folder name without a slash or a leading dot, and not 'states'", "choose --name"
        )
    if "://" not in storage and Path(storage).exists() and not Path(storage).is_dir():
        raise bad_value("storage", storage, "a folder or a URI", "it is a file")
    return Ledger(store=Store(storage), run=run, trials=trials, keys=keys)


def read_plan(store: Store, run: str) -> dict[str, Any] | None:
    """The run's plan, None where there is none yet."""
    path = f"{run}/{PLAN}"
    return json.loads(store.read(path)) if store.exists(path) else None


def driver_versions() -> dict[str, str]:
    """Versions of the packages that matter, without importing them."""
    return {name: version(name) for name in ("lottery-sweep", "torch", "fastai", "ray", "numpy", "scipy")}
