"""Which run each trial of the merged run is taken from, and which states it needs from there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.merging.pieces import Had, Piece
from analysis.text import plural
from lth_trainable.errors import UserError
from lth_trainable.spec.segments import segments
from lth_trainable.spec.trial_spec import spec_from_dict
from lth_trainable.store.store import MASKS, STATES, WEIGHTS, Damaged, Sealed, Store, map_in_threads

SHOWN = 3  # names of trials in a message
_COMPARED = (WEIGHTS, MASKS)  # files of a state that are equal if it was trained alike; its history has clocks


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Where the merged run gets what. trials: the piece by name, of those that have a folder there.

    states: by path, the piece with the folder. conflicts are refused before anything is written.
    """

    trials: Mapping[str, Piece]
    states: Mapping[str, tuple[Piece, Sealed]]
    notes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class _Names:
    """Trials with the same problem, for one message."""

    names: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        more = f" and {len(self.names) - SHOWN:,} more" if len(self.names) > SHOWN else ""
        return f"{', '.join(self.names[:SHOWN])}{more}"


def choose(pieces: Sequence[Piece], into: Store) -> Chosen:
    """The pieces of all trials and states. into: the storage of the merged run.

    Raises `UserError` if a trial has other bytes in two runs, or is only there damaged, or if a state that trials refer
    to has.
    """
    _check_keys(pieces)
    names = list(dict.fromkeys(name for piece in pieces for name in piece.trials))
    trials = {name: piece for name in names if (piece := _best(name, pieces)) is not None}
    _check_equal(names, pieces)
    _check_sound(names, pieces)
    referred = _referred(trials)
    states = _states(referred, into)
    states |= _others(pieces, into, states)
    failed = sum(piece.trials[name].status == "failed" for name, piece in trials.items())
    notes = [f"{plural(failed, 'trial')} failed in the pieces, and so in the merged run"] if failed else []
    return Chosen(trials=trials, states=states, notes=tuple(notes))


def _best(name: str, pieces: Iterable[Piece]) -> Piece | None:
    """The first piece with a record of this trial, else the first in which it failed; None if it is missing."""
    having = [piece for piece in pieces if name in piece.trials]
    with_record = (piece for piece in having if piece.trials[name].content is not None)
    failed = (piece for piece in having if piece.trials[name].status == "failed")
    return next(with_record, None) or next(failed, None)


def _check_keys(pieces: Sequence[Piece]) -> None:
    known: dict[str, tuple[str | None, Piece]] = {}
    for piece in pieces:
        for trial in piece.plan.trials:
            before, first = known.setdefault(trial.name, (trial.key, piece))
            if None not in (before, trial.key) and before != trial.key:
                raise UserError(
                    f"{piece.shown}, trial {trial.name}: found the key {str(trial.key)[:12]}; expected "
                    f"{str(before)[:12]}, as in {first.shown}; its spec, data or plug-in is another"
                )


def _check_equal(names: Iterable[str], pieces: Sequence[Piece]) -> None:
    """Raise `UserError` for trials that two runs have with other bytes."""
    odd, where = _Names(), ("", "")
    for name in names:
        having = [piece for piece in pieces if name in piece.trials and piece.trials[name].content is not None]
        other = next((piece for piece in having[1:] if _differ(having[0].trials[name], piece.trials[name])), None)
        if other is not None:
            odd.names.append(name)
            where = (having[0].shown, other.shown)
    if odd.names:
        raise UserError(
            f"{where[1]}: found {plural(len(odd.names), 'trial')} with other bytes than in {where[0]}: {odd}; expected "
            "equal ones: the same trial on another device, or without --deterministic on a GPU, is another result; "
            "take each seed from one machine"
        )


def _differ(one: Had, other: Had) -> bool:
    return one.content != other.content


def _check_sound(names: Iterable[str], pieces: Sequence[Piece]) -> None:
    damaged, where = _Names(), ""
    for name in names:
        having = [piece for piece in pieces if name in piece.trials]
        if any(piece.trials[name].content is not None for piece in having):
            continue
        broken = [piece for piece in having if piece.trials[name].status == "damaged"]
        if broken:
            damaged.names.append(name)
            where = f"{broken[0].shown}: {broken[0].trials[name].reason}"
    if damaged.names:
        raise UserError(f"damaged: {damaged} ({where}); run the command of that sweep again, which repairs it")


# -- states ------------------------------------------------------------------------------------------------------------


def _referred(trials: Mapping[str, Piece]) -> dict[str, dict[str, tuple[Piece, list[str]]]]:
    """The states that these trials refer to: path -> storage -> a piece of it, and names of trials."""
    with_folder = [(name, piece) for name, piece in trials.items() if piece.trials[name].content is not None]
    folders = map_in_threads(lambda one: one[1].store.find(one[1].store.trial(one[1].run, one[0])), with_folder)
    found: dict[str, dict[str, tuple[Piece, list[str]]]] = {}
    for (name, piece), folder in zip(with_folder, folders, strict=True):
        for path in folder.manifest.get("states", {}).values() if folder is not None else ():
            found.setdefault(path, {}).setdefault(piece.store.uri, (piece, []))[1].append(name)
    return found


def _states(
    referred: Mapping[str, Mapping[str, tuple[Piece, list[str]]]], into: Store
) -> dict[str, tuple[Piece, Sealed]]:
    """Where each of these states is taken from. Raises `UserError` if it is gone, damaged, or not the same in two."""
    wanted = [(path, piece, names) for path, stores in referred.items() for piece, names in stores.values()]
    folders = map_in_threads(lambda one: _find(one[1].store, one[0]), wanted)
    there = dict(zip(referred, map_in_threads(lambda path: _find(into, path), referred), strict=True))
    found: dict[str, tuple[Piece, Sealed]] = {}
    for (path, piece, names), folder in zip(wanted, folders, strict=True):
        if not isinstance(folder, Sealed):
            reason = "it is missing" if folder is None else folder.reason
            raise UserError(
                f"{piece.store.at(path)}: {reason}; {names[0]} refers to it; run the command of that sweep again"
            )
        before = there[path]
        known = found[path][1] if path in found else before if isinstance(before, Sealed) else None
        if known is not None and _sums(known) != _sums(folder):
            raise UserError(
                f"{piece.store.at(path)}: found other bytes than another storage has there; expected equal ones, since "
                f"{names[0]} refers to it; they were trained without --deterministic: take each seed from one machine"
            )
        if path not in found or (folder.manifest.get("complete") and not found[path][1].manifest.get("complete")):
            found[path] = (piece, folder)
    return found


def _others(pieces: Sequence[Piece], into: Store, known: Mapping[str, Any]) -> dict[str, tuple[Piece, Sealed]]:
    """States of the plans that training can go on from, and that no trial refers to; damaged ones stay behind."""
    found: dict[str, tuple[Piece, Sealed]] = {}
    for piece in pieces:
        if piece.store.uri == into.uri:
            continue
        keys = sorted(set(piece.store.folders(STATES)) & _chain_keys(piece))
        listed = map_in_threads(lambda key, piece=piece: piece.store.folders(f"{STATES}/{key}"), keys)  # type: ignore[misc]
        paths = [f"{STATES}/{key}/{name}" for key, names in zip(keys, listed, strict=True) for name in names]
        paths = [path for path in paths if path not in known and path not in found and "-passing-" not in path]
        folders = map_in_threads(lambda path, piece=piece: _find(piece.store, path), paths)  # type: ignore[misc]
        found |= {
            path: (piece, folder) for path, folder in zip(paths, folders, strict=True) if isinstance(folder, Sealed)
        }
    return found


def _chain_keys(piece: Piece) -> set[str]:
    """Keys of the states on the chains of the planned trials, as far as this machine has their plug-ins."""
    keys: set[str] = set()
    for entry in piece.content["trials"]:
        data = entry.get("data")
        if not data:
            continue
        try:
            spec = spec_from_dict(entry["spec"])
            steps = -(-data["n_train"] // spec.batch_size)
            keys |= {segment.key for segment in segments(spec, data["digest"], steps)}
        except UserError:  # its plug-in is not here: what its record refers to is merged all the same
            continue
        if spec.ticket_id is not None:
            keys.add(spec.ticket_id.digest)
    return keys


def _sums(folder: Sealed) -> dict[str, str]:
    """SHA-256 of what must be equal."""
    files = folder.manifest["files"]
    return {name: files[name]["sha256"] for name in _COMPARED if name in files}


def _find(store: Store, path: str) -> Sealed | Damaged | None:
    try:
        return store.find(path)
    except Damaged as damage:
        return damage
