"""Whether runs were planned alike, so that together they are what one sweep would have planned.

They may differ in their seeds and in their tickets. What must be equal is refused where it is not; what may differ is
told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.adoption.plan import ADOPTED
from analysis.labels import is_own_split
from analysis.merging.pieces import Piece, refuse
from analysis.published.claims import difference_of_claims
from analysis.tables.roles import DENSE, TICKET
from analysis.tables.run_plan import PUBLISHED
from analysis.tables.schema import SPEC_FIELDS
from analysis.text import plural
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict

TERMS = ("endpoint", "margin_pp", "alpha")
# What makes a ticket and its branches. All other fields are the setting, in which pieces must agree.
OF_TICKETS = (
    "seed", "order_seed", "split_seed", "control", "target_sparsity_pct", "granularity", "context", "criterion",
    "schedule", "prune_rate_pct", "output_prune_rate_pct", "prune_steps", "start_pct", "end_pct", "retrain",
    "rewind_epoch", "rewind_step", "rewind_optimizer", "reset_end", "fine_tuning_lr_fraction", "retrain_order",
    "control_lr", "sign_flip_pct", "layers", "width_pct", "ticket",
)  # fmt: skip
PLUGGED = ("dataset", "model", "criterion", "schedule")  # fields that may name a plug-in
SETTING = tuple(name for name in SPEC_FIELDS if name not in OF_TICKETS)
_NOOP = {name: field.metadata.get("noop") for name, field in TrialSpec.__dataclass_fields__.items()}


def check_settings(pieces: Sequence[Piece]) -> list[str]:
    """What differs between these plans and may, one line each. Raises `UserError` for what may not."""
    first, *others = pieces
    for piece in pieces:
        if piece.content.get("looks"):
            raise UserError(
                f"{piece.shown}, looks: found interim looks at {', '.join(map(str, piece.content['looks']))} seeds; "
                "expected none: a look is at all seeds so far, and the looks of a piece have seen its own only; type "
                "the sweep's command on one storage"
            )
    for piece in others:
        _check_pair(piece, first)
    _check_splits(pieces)
    _check_data(pieces)
    return [*_check_plugins(pieces), *_told(pieces)]


def _check_pair(piece: Piece, first: Piece) -> None:
    for name in ("recipe", *TERMS):
        if piece.content.get(name) != first.content.get(name):
            raise refuse(piece, name, repr(piece.content.get(name)), repr(first.content.get(name)), first)
    adopted = [bool(one.content.get(ADOPTED)) for one in (piece, first)]
    if adopted[0] != adopted[1]:
        words = [f"a run that {'was adopted' if one else 'a sweep has planned'}" for one in adopted]
        raise refuse(piece, "plan", words[0], words[1], first, "terms of an adopted run were not fixed beforehand")
    rates = [_rates(one) for one in (piece, first)]
    if rates[0] != rates[1]:
        raise refuse(piece, "tuned learning rates", _in_words(rates[0]), _in_words(rates[1]), first)
    differ = difference_of_claims(first.content.get(PUBLISHED, ()), piece.content.get(PUBLISHED, ()))
    if differ is not None:
        raise UserError(f"{piece.shown}, {PUBLISHED}: {differ}, as in {first.shown}")
    _check_fields(piece, first)


def _check_fields(piece: Piece, first: Piece) -> None:
    """The setting of tickets, or if a piece has none, of dense networks: the same values in both."""
    for role, free in ((TICKET, ()), (DENSE, ("epochs",))):
        ours, theirs = _specs(piece, role), _specs(first, role)
        for name in SETTING if ours and theirs else ():
            found, expected = _values(ours, name), _values(theirs, name)
            if name not in free and found != expected:
                what = f"{name} of its {'tickets' if role == TICKET else 'dense networks'}"
                raise refuse(
                    piece, what, _listed(found), _listed(expected), first,
                    "pieces differ in seeds or tickets only; python -m analysis compare takes runs that differ",
                )  # fmt: skip
        if ours and theirs:
            return
    raise refuse(piece, "trials", "no role that both have", "tickets or dense networks", first)


def _check_splits(pieces: Sequence[Piece]) -> None:
    """One split of the data in all pieces, or in all of them a split of its own for each seed."""
    pairs = {piece.shown: {_seeds(trial.spec) for trial in piece.plan.trials} for piece in pieces}
    if is_own_split(set().union(*pairs.values())):
        return
    first = pieces[0]
    splits = {shown: {split for _, split in found} for shown, found in pairs.items()}
    for piece in pieces[1:]:
        if splits[piece.shown] != splits[first.shown]:
            raise refuse(
                piece, "split_seed", _listed(splits[piece.shown]), _listed(splits[first.shown]), first,
                "pieces have one split, or each seed its own split in all of them",
            )  # fmt: skip


def _check_data(pieces: Sequence[Piece]) -> None:
    """Equal data of trials that name the same data.

    Where a piece has one digest for all splits of a data set, so must the others: seeds with splits of their own have
    no split in common that could be compared.
    """
    known: dict[tuple[Any, ...], tuple[set[str], Piece]] = {}
    for piece in pieces:
        for named, digests in _digests(piece).items():
            before, where = known.setdefault(named, (digests, piece))
            if len(before) == len(digests) == 1 and before != digests:
                raise refuse(
                    piece, f"data of {named[0]}", f"the digest {next(iter(digests))[:12]}", next(iter(before))[:12],
                    where, "the files or arrays are others",
                )  # fmt: skip


def _digests(piece: Piece) -> dict[tuple[Any, ...], set[str]]:
    """Digests of the data by what names them: data set, size of images, and split; and the same for all splits."""
    found: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for trial, entry in zip(piece.plan.trials, piece.content["trials"], strict=True):
        content = piece.trials[trial.name].content
        digest = (entry.get("data") or (content["data"] if content else None) or {}).get("digest")
        if digest is not None:
            spec = entry["spec"]
            named = spec["dataset"], spec.get("image_size")
            found[*named, spec["split_seed"]].add(digest)
            found[named].add(digest)
    return found


def _check_plugins(pieces: Sequence[Piece]) -> list[str]:
    """Whether all pieces have the same version of each plug-in, as far as the one that is here can tell.

    A trial's key has the digest of its plug-ins. Where some pieces have the keys that they have here, and others do
    not, they were made with different versions: raises `UserError`. Returns what cannot be told.
    """
    as_here = {piece.shown: _keys_as_here(piece) for piece in pieces}
    kinds = {kind for found in as_here.values() for kind in found}
    if {True, False} <= kinds:
        odd = next(piece for piece in pieces if False in as_here[piece.shown])
        fine = next(piece for piece in pieces if True in as_here[piece.shown])
        raise refuse(odd, "plug-in", "another version", "the one that is here", fine, "its trials are of other code")
    if kinds & {False, None}:
        return ["plug-ins of the pieces are not here, or changed: whether all pieces had the same cannot be told"]
    return []


def _keys_as_here(piece: Piece) -> set[bool | None]:
    """Whether trials with plug-ins have the keys that they would have here; None: their plug-in is not here."""
    found: set[bool | None] = set()
    for trial, entry in zip(piece.plan.trials, piece.content["trials"], strict=True):
        digest = (entry.get("data") or {}).get("digest")
        if trial.key is None or digest is None or not any(":" in str(trial.spec.get(name)) for name in PLUGGED):
            continue
        try:
            found.add(spec_from_dict(trial.spec).key(digest) == trial.key)
        except UserError:  # its module is not here
            found.add(None)
    return found


def _told(pieces: Sequence[Piece]) -> Iterator[str]:
    first = pieces[0]
    if is_own_split({_seeds(trial.spec) for piece in pieces for trial in piece.plan.trials}):
        yield "each seed has a split of the data of its own, in all of them"
    for name, what in (("claim", "the question"), ("keep_states", "which states are kept"), ("tuning", "the tuning")):
        if any(piece.content.get(name) != first.content.get(name) for piece in pieces):
            yield f"{what} ({name}) differs; that of {first.shown} is kept"
    versions: dict[str, list[str]] = defaultdict(list)
    for piece in pieces:
        versions[", ".join(f"{name} {value}" for name, value in sorted(piece.plan.versions.items()))].append(
            piece.shown
        )
    if len(versions) > 1:
        yield "planned with different versions: " + "; ".join(
            f"{', '.join(shown)}: {found}" for found, shown in versions.items()
        )
    for piece in pieces:
        left = [name for name in ("barriers", "connections", "supermasks") if _has_table(piece, name)]
        if left:
            yield f"not merged: {', '.join(left)} of {piece.shown}; measure them again in the merged run"


def told_of_trials(pieces: Sequence[Piece]) -> list[str]:
    """What should be known of who trained the trials. Raises `UserError` if versions of this project differ."""
    codes: dict[Any, Piece] = {}
    by_seed: dict[Any, set[str]] = defaultdict(set)
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for piece in pieces:
        for had in piece.trials.values():
            if had.content is None:
                continue
            codes.setdefault(had.fingerprint.get("code"), piece)
            by_seed[had.seed].add(repr(sorted(had.fingerprint.items())))
            for name, value in {**had.fingerprint, "source": had.source}.items():
                values[name][str(value)] = None
    if len(codes) > 1:
        (code, first), (other, piece), *_ = codes.items()
        raise refuse(
            piece, "code version of its trials", repr(other), repr(code), first,
            "another version trains other bytes; python -m analysis compare takes them as two runs",
        )  # fmt: skip
    differ = {name: list(found) for name, found in values.items() if len(found) > 1}
    notes = [f"trained with different {name}: {'; '.join(found)}" for name, found in sorted(differ.items())]
    mixed = [seed for seed, found in by_seed.items() if len(found) > 1]
    if mixed:
        notes.append(
            f"in {plural(len(mixed), 'seed')} trials were trained under different fingerprints, so that their pairs "
            "compare machines too"
        )
    return notes


def _specs(piece: Piece, role: str) -> list[Mapping[str, Any]]:
    return [trial.spec for trial in piece.plan.trials if trial.role == role]


def _values(specs: Sequence[Mapping[str, Any]], name: str) -> set[Any]:
    return {repr(spec.get(name, _NOOP[name])) for spec in specs}


def _seeds(spec: Mapping[str, Any]) -> tuple[int, int]:
    return spec["seed"], spec["split_seed"]


def _rates(piece: Piece) -> dict[str, Any]:
    """Tuned learning rates by arm."""
    arms = (piece.content.get("tuning") or {}).get("arms") or {}
    return {name: arm["lr"] for name, arm in arms.items()}


def _in_words(rates: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {rate:g}" for name, rate in sorted(rates.items())) or "none"


def _listed(values: set[Any]) -> str:
    return ", ".join(sorted(map(str, values))) or "none"


def _has_table(piece: Piece, name: str) -> bool:
    return f"{name}.parquet" in piece.store.names(f"{piece.run}/analysis")
