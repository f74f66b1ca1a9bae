"""Make one run of several: its plan first, then states, then trials. The pieces stay as they are.

A kill at any moment leaves a run whose other trials are missing, and the same command goes on. What is there already
with the same content is not written again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.merging.choosing import Chosen, choose
from analysis.merging.pieces import MERGED, Piece, Target, open_pieces, open_target
from analysis.merging.settings import check_settings, told_of_trials
from analysis.tables.exclusions import write_exclusions
from analysis.tables.run_plan import write_content
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import spec_from_dict
from lth_trainable.store.store import FAILURE, Damaged, Sealed, Store, map_in_threads

_OF_SEAL = ("format", "files", "sha256")  # entries of a manifest that sealing makes


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What was merged. notes: what differs between the pieces and may, one line each."""

    store: Store
    run: str
    shown: str
    n_trials: int
    n_states: int
    notes: tuple[str, ...]


def merge(paths: Sequence[str], into: str) -> Merged:
    """Merge the runs at `paths` into the run at `into`, which is new or was merged before. Nothing is gathered.

    Raises `UserError` if they were not planned alike, or disagree about a trial; then nothing is written.
    """
    given = open_pieces(paths)
    target = open_target(into, given)
    pieces = [*([target.piece] if target.piece is not None else []), *given]
    notes = [*check_settings(pieces), *told_of_trials(pieces)]
    chosen = choose(pieces, target.store)
    exclusions, of_exclusions = _exclusions(pieces)
    before = target.piece.content if target.piece is not None else None
    content = _content(pieces, target, given)
    try:
        write_content(target.store, target.run, content, before)
    except OSError as error:
        raise UserError(f"--into {into}: cannot be written ({error}); choose a place that you may write to") from error
    target.store.in_use()  # from here on its folder is not made anew
    n_states = _copy_states(chosen, target.store)
    n_trials = _copy_trials(chosen, target)
    if exclusions and (target.piece is None or target.piece.exclusions != exclusions):
        write_exclusions(target.store, target.run, exclusions)
    return Merged(
        store=target.store, run=target.run, shown=target.shown, n_trials=n_trials, n_states=n_states,
        notes=(*notes, *chosen.notes, *of_exclusions),
    )  # fmt: skip


# -- the plan ----------------------------------------------------------------------------------------------------------


def _content(pieces: Sequence[Piece], target: Target, given: Sequence[Piece]) -> dict[str, Any]:
    """The plan that one sweep of all pieces would have written, with the commands of all of them."""
    entries: dict[str, Mapping[str, Any]] = {}
    for piece in pieces:
        for entry in piece.content["trials"]:
            known = entries.get(entry["name"])
            if known is None or (known.get("role") != "ticket" and entry.get("role") == "ticket"):
                entries[entry["name"]] = entry  # a ticket stays a ticket if another piece has it as a baseline
    commands: list[Any] = []
    for piece in pieces:
        commands += [command for command in piece.content["commands"] if command not in commands]
    command = ["python", "-m", "analysis", "merge", *(piece.shown for piece in given), "--into", target.shown]
    commands += [command] if command not in commands else []
    merged = {origin["run"]: origin for piece in pieces for origin in _origins(piece)}
    return {
        **pieces[0].content, "commands": commands, MERGED: list(merged.values()),
        "trials": _in_order(list(entries.values())),
    }  # fmt: skip


def _origins(piece: Piece) -> list[dict[str, Any]]:
    """Where a piece was, and with which versions it was planned; of a merged one, its own pieces."""
    if MERGED in piece.content:
        return list(piece.content[MERGED])
    return [{"run": piece.store.at(piece.run), "versions": dict(piece.plan.versions)}]


def _in_order(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The trials as a sweep plans them: seeds in order, and within a seed the longest first."""
    return sorted(entries, key=lambda entry: (entry["spec"]["seed"], -_epochs(entry)))


def _epochs(entry: Mapping[str, Any]) -> int:
    try:
        return spec_from_dict(entry["spec"]).epochs_alone()
    except UserError:  # its plug-in is not here; the order has no effect on a verdict
        return 0


def _exclusions(pieces: Sequence[Piece]) -> tuple[dict[str, Mapping[str, str]], list[str]]:
    """The exclusions of all pieces, and what should be known of them."""
    found: dict[str, Mapping[str, str]] = {}
    notes = []
    for piece in pieces:
        for name, entry in piece.exclusions.items():
            if name in found and found[name]["reason"] != entry["reason"]:
                notes.append(f"{name} is excluded with different reasons; kept: {found[name]['reason']}")
            found.setdefault(name, entry)
    for name in found:
        included = [
            p.shown for p in pieces if name in p.trials and name not in p.exclusions and MERGED not in p.content
        ]
        if included:
            notes.append(f"{name} is excluded, though not in {', '.join(included)}")
    return found, notes


# -- files -------------------------------------------------------------------------------------------------------------


def _copy_states(chosen: Chosen, into: Store) -> int:
    """Copy the states that are not there yet; returns their number."""

    def copy(path: str) -> bool:
        piece, folder = chosen.states[path]
        if piece.store.uri == into.uri or _is_there(into, path, folder):
            return False
        about, files = _content_of(piece.store, folder)
        into.seal_shared(path, files, about)
        return True

    return sum(map_in_threads(copy, list(chosen.states)))


def _copy_trials(chosen: Chosen, target: Target) -> int:
    """Copy the trials that are not there yet; returns their number."""
    into = target.store

    def copy(name: str) -> bool:
        piece, path = chosen.trials[name], into.trial(target.run, name)
        source = piece.store.trial(piece.run, name)
        if piece is target.piece:
            return False
        folder = piece.store.find(source)
        if folder is None:
            note = piece.store.read_if_file(f"{source}/{FAILURE}")
            if note is not None:
                into.write(f"{path}/{FAILURE}", note)
            return note is not None
        about, files = _content_of(piece.store, folder)
        into.seal(path, files, about)
        return True

    return sum(map_in_threads(copy, list(chosen.trials)))


def _is_there(into: Store, path: str, folder: Sealed) -> bool:
    """Whether the storage has this state, as good as the one to be copied."""
    try:
        found = into.find(path)
    except Damaged:
        return False
    return found is not None and (bool(found.manifest.get("complete")) or not folder.manifest.get("complete"))


def _content_of(store: Store, folder: Sealed) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What to seal again: the manifest without what sealing makes, and all files, each checked against it."""
    try:
        files = {name: store.content(folder, name) for name in folder.manifest["files"]}
    except Damaged as damage:
        raise UserError(f"{damage}; run the command of that sweep again, then this one") from damage
    return {name: value for name, value in folder.manifest.items() if name not in _OF_SEAL}, files
