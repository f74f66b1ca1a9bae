"""Make the requested controls and baselines for every ticket that can have them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from analysis.tables.roles import AGAIN
from lth_trainable.errors import UserError, bad_value, unknown_name
from lth_trainable.pruning.controls import CONTROLS
from lth_trainable.registry import lookup
from lth_trainable.spec.draft import MOST_SEED
from lth_trainable.spec.trial_spec import TrialSpec
from sweeps.experiments.baselines import BASELINES, Baseline

ALL, NONE = "all", "none"
NAMES = (*CONTROLS, AGAIN)  # of controls
OTHER_ORDER = 1_000_000  # from the order seed of a dense network to that of its repetition


class IfNone(Enum):
    """What happens if no ticket can have a control or baseline."""

    ERROR = "an error: the user has named it"
    NOTE = "a note: the recipe has it where it is possible"
    SUMMARY = 'an entry in the note on what "all" leaves out'


@dataclass(frozen=True, kw_only=True)
class Branches:
    """Trials that accompany the tickets, with notes for the user on how they were chosen."""

    trials: tuple[TrialSpec, ...]
    notes: tuple[str, ...]


def controls_of(
    tickets: Sequence[TrialSpec],
    names: Sequence[str],
    settings: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    if_none: IfNone = IfNone.ERROR,
) -> Branches:
    """The controls of the tickets. names: of `NAMES`, or "all" or "none". Raises `UserError`.

    settings: values of fields that act in controls only; a control has a trial for each combination that acts in it.
    """
    values = [dict(zip(settings, point, strict=True)) for point in itertools.product(*settings.values())]

    def maker(name: str) -> Callable[[TrialSpec], list[TrialSpec]]:
        if name == AGAIN:
            return lambda ticket: [dense_again(ticket)]
        return lambda ticket: [replace(ticket, control=name, **own) for own in values]

    chosen = _chosen("controls", names, dict.fromkeys(NAMES))
    return _made("controls", tickets, {name: maker(name) for name in chosen}, _if_none(names, if_none))


def dense_again(ticket: TrialSpec) -> TrialSpec:
    """The ticket's dense network from the same initialisation, in another order of the data.

    Dense against dense shows what the order alone changes, and so what a margin is worth (an A/A comparison).
    """
    order = ticket.seed if ticket.order_seed is None else ticket.order_seed
    other = order + OTHER_ORDER if order + OTHER_ORDER <= MOST_SEED else order - OTHER_ORDER
    return replace(ticket, control="dense", order_seed=other)


def baselines_of(
    tickets: Sequence[TrialSpec], names: Sequence[str], data_root: Path | None = None, if_none: IfNone = IfNone.ERROR
) -> Branches:
    """The baselines of the tickets, always with the dense one. names: as for controls, or `package.module:function`."""
    chosen = dict.fromkeys(["dense", *_chosen("baselines", names, BASELINES)])
    found: dict[str, Baseline] = {name: lookup("baseline", name, BASELINES) for name in chosen}
    makers = {name: lambda ticket, make=make: [make(ticket, data_root)] for name, make in found.items()}
    made = _made("baselines", tickets, makers, _if_none(names, if_none))
    if "small_dense" not in chosen:
        return made
    return replace(made, notes=(*made.notes, *_widths(tickets, made, data_root)))


def _chosen(flag: str, names: Sequence[str], valid: Mapping[str, object]) -> list[str]:
    for word in (ALL, NONE):
        if word in names and len(set(names)) > 1:
            raise bad_value(flag, list(names), f"{word} alone, or names without it")
    for name in names:
        if name not in (*valid, ALL, NONE) and ":" not in name:
            raise unknown_name(flag, name, (*valid, ALL, NONE))
    if ALL in names:
        return list(valid)
    return [name for name in dict.fromkeys(names) if name != NONE]


def _if_none(names: Sequence[str], otherwise: IfNone) -> IfNone:
    return IfNone.SUMMARY if ALL in names else otherwise


def _made(
    flag: str,
    tickets: Sequence[TrialSpec],
    makers: Mapping[str, Callable[[TrialSpec], list[TrialSpec]]],
    if_none: IfNone,
) -> Branches:
    """The trials that the makers give for the tickets. Raises `UserError` if a name fits none and that is an error."""
    trials: list[TrialSpec] = []
    notes: list[str] = []
    left_out: list[str] = []
    for name, make in makers.items():
        made, refused = _each(make, tickets)
        trials += itertools.chain.from_iterable(made)
        is_absent = bool(refused) and not made
        if is_absent and if_none is IfNone.ERROR:
            raise UserError(f"{flag} {name}: no ticket of this sweep can have it; {next(iter(refused))}")
        if is_absent and if_none is IfNone.NOTE:
            notes.append(f"{flag}: {name} of the recipe is left out, no ticket can have it; {next(iter(refused))}")
        elif refused and if_none is IfNone.SUMMARY:
            left_out.append(f"{name} {'for none' if is_absent else f'for {len(made)} only'}")
        else:
            notes += [
                f"{name}: {n} of {len(tickets)} tickets do not have it; {reason}" for reason, n in refused.items()
            ]
    if left_out:
        notes.append(f"{flag} all, of {len(tickets)} tickets: {', '.join(left_out)}")
    return Branches(trials=tuple(trials), notes=tuple(notes))


def _each(
    make: Callable[[TrialSpec], list[TrialSpec]], tickets: Collection[TrialSpec]
) -> tuple[list[list[TrialSpec]], Counter[str]]:
    """What is made of each ticket that can have it, and how many tickets cannot, by the reason."""
    made: list[list[TrialSpec]] = []
    refused: Counter[str] = Counter()
    for ticket in tickets:
        try:
            made.append(make(ticket))
        except UserError as error:  # the ticket has no such branch; the notes count these tickets
            refused[str(error)] += 1
    return made, refused


def _widths(tickets: Sequence[TrialSpec], made: Branches, data_root: Path | None) -> list[str]:
    """Notes on how close each small dense network comes to the number of weights its tickets keep."""
    from sweeps.experiments.small_dense import nearest_width

    models = {trial.model for trial in made.trials if trial.width_pct is not None}
    widths = dict.fromkeys(
        (ticket.target_sparsity_pct, nearest_width(ticket, data_root))
        for ticket in tickets if ticket.model in models and not ticket.reset_end
    )  # fmt: skip
    return [
        f"small_dense of {target:g} %: width {width.pct:g} %, {width.n_weights:,} weights for {width.n_kept:,} kept"
        for target, width in widths
    ]  # fmt: skip
