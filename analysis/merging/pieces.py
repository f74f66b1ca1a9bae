"""The runs that are to become one: their plans, and what each has of its trials."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.published.claims import read_claims
from analysis.tables.exclusions import read_exclusions
from analysis.tables.records import Found, list_trials, read_trials, trial_names
from analysis.tables.run_plan import KEPT, PUBLISHED, RunPlan, find_run, read_content, read_plan
from analysis.tables.suggestions import SUGGESTIONS
from lth_trainable.errors import UserError, bad_value
from lth_trainable.store.names import is_name
from lth_trainable.store.store import PLAN, STATES, Store
from lth_trainable.store.trials import open_run

MERGED = "merged"  # entry of a plan that was made of several: where its pieces were
STUDY = "study.db"  # only a search has it
_BYTES = (
    "key", "status", "reason", "spec", "data", "states", "layers", "result", "shapes", "sha256", "right", "all_weights",
    "dead_filters", "restored",
)  # of a record: what does not depend on who trained it, and when # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Had:
    """What a run has of a trial. content: of its record, without clocks; None if it has no record.

    fingerprint, source: which machine and which code trained it. states: paths of the states that it refers to.
    """

    status: str
    reason: str | None
    content: Mapping[str, Any] | None
    fingerprint: Mapping[str, Any]
    source: str | None
    seed: int | None


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A run as it is stored. shown: its path as it was typed. trials: by name, the planned ones first."""

    shown: str
    store: Store
    run: str
    content: Mapping[str, Any]
    plan: RunPlan
    trials: Mapping[str, Had]
    exclusions: Mapping[str, Mapping[str, str]]

    @property
    def place(self) -> str:
        """The same for the same run, however its path was typed."""
        return f"{self.store.uri}/{self.run}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the merged run is to be. piece: what is there already of it; None if nothing is."""

    shown: str
    store: Store
    run: str
    piece: Piece | None


def open_pieces(paths: Sequence[str]) -> list[Piece]:
    """The runs at these paths. Raises `UserError` for fewer than two, for one that is named twice, or that is none."""
    pieces = [read_piece(path) for path in paths]
    places = [piece.place for piece in pieces]
    twice = next((piece.shown for piece in pieces if places.count(piece.place) > 1), None)
    if twice is not None:
        raise bad_value("RUN", twice, "different runs", "it is named twice")
    if len(pieces) < 2:
        raise bad_value("RUN", list(paths), "two or more runs")
    return pieces


def open_target(path: str, pieces: Sequence[Piece]) -> Target:
    """The place of the merged run. Raises `UserError` if something else is there."""
    text = os.fspath(path).rstrip("/")
    store, run = open_run(text)
    if not is_name(run) or run.startswith(".") or run == STATES:
        raise bad_value("--into", path, f"the folder of a run: a storage and a name, which is not {STATES!r}")
    if not store.exists(f"{run}/{PLAN}"):
        if store.names(f"{run}/trials"):
            raise bad_value("--into", path, "a new run, or one that was merged", f"it has trials, but no {PLAN}")
        return Target(shown=text, store=store, run=run, piece=None)
    if f"{store.uri}/{run}" in {piece.place for piece in pieces}:
        raise bad_value("--into", path, "another run than the pieces, which stay as they are")
    piece = read_piece(text)
    if MERGED not in piece.content:
        raise bad_value("--into", path, "a new run, or one that was merged", "a sweep has planned it; choose another")
    return Target(shown=text, store=store, run=run, piece=piece)


def read_piece(path: str) -> Piece:
    """The run at a path, with what it has of every trial. Raises `UserError`."""
    store, run = find_run(path)
    store.in_use()
    for name, what in ((KEPT, "kept results, whose records are in their archive: unpack it"), (STUDY, _A_SEARCH)):
        if store.exists(f"{run}/{name}"):
            raise bad_value("RUN", path, "a run with its records", f"it is {what}")
    if f"{SUGGESTIONS}.parquet" in store.names(f"{run}/analysis"):
        raise bad_value("RUN", path, "a run with its records", f"it is {_A_SEARCH}")
    try:
        content, plan = read_content(store, run), read_plan(store, run)
    except UserError as error:  # it names the run, and pieces may have the same name
        raise UserError(f"{path}: {error}") from error
    for entry in content["trials"]:
        _check_entry(f"{path}/{PLAN}, trial {entry['name']}", entry)
    read_claims(f"{path}/{PLAN}, {PUBLISHED}", plan.published)
    _check_more(path, content)
    names = trial_names(plan, list_trials(store, run))
    found = read_trials(store, run, names, {trial.name: trial for trial in plan.trials})
    return Piece(
        shown=path.rstrip("/"), store=store, run=run, content=content, plan=plan,
        trials={name: _had(one) for name, one in found}, exclusions=read_exclusions(store, run),
    )  # fmt: skip


_A_SEARCH = "a search, whose suggestions follow from each other: search on one storage"


def _check_entry(where: str, entry: Mapping[str, Any]) -> None:
    """Raise `UserError` if a planned trial lacks what pieces are compared by."""
    spec, data = entry["spec"], entry.get("data")
    for name in ("seed", "split_seed"):
        if not isinstance(spec.get(name), int):
            raise bad_value(f"{where}, {name}", spec.get(name), "a whole number")
    if data and not (isinstance(data, Mapping) and isinstance(data.get("digest"), str)):
        raise bad_value(f"{where}, data", data, "digest and n_train")


def _check_more(path: str, content: Mapping[str, Any]) -> None:
    """Raise `UserError` if what a plan says of tuned rates, or of its pieces, has another form than expected."""
    try:
        arms = (content.get("tuning") or {"arms": {}})["arms"]
        is_fine = all(isinstance(arm["lr"], int | float) for arm in arms.values())
        is_fine = is_fine and all(isinstance(origin["run"], str) for origin in content.get(MERGED, []))
    except (KeyError, TypeError, AttributeError):
        is_fine = False
    if not is_fine:
        raise UserError(f"{path}/{PLAN}: its tuning or its list of merged runs is not readable; restore the file")


def _had(found: Found) -> Had:
    record = found.record
    return Had(
        status=found.status, reason=found.reason,
        content={name: record.get(name) for name in _BYTES} if record else None,
        fingerprint=record.get("fingerprint") or {}, source=(record.get("versions") or {}).get("source"),
        seed=(record.get("spec") or {}).get("seed"),
    )  # fmt: skip


def refuse(piece: Piece, what: str, found: str, expected: str, first: Piece, advice: str = "") -> UserError:
    """The error for a piece that does not fit the first one."""
    text = f"{piece.shown}, {what}: found {found}; expected {expected}, as in {first.shown}"
    return UserError(f"{text}; {advice}" if advice else text)
