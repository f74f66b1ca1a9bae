"""Choose pairs of trained networks of a run whose line is measured: ends of consecutive levels, or dense and ticket.

Nothing is trained for them if their states are stored. A sweep stores the levels at which a trial of its plan ends, and
those between them only with `--keep-states levels`; the others are trained again from the stored ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from analysis.barriers.stored import is_sealed
from analysis.barriers.targets import Finished, Trials, why_no_ticket
from analysis.labels import ladder_name
from analysis.tables.run_plan import RunPlan
from analysis.text import plural
from lth_trainable.errors import UserError
from lth_trainable.spec.segments import Segment, segments
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store

Between = Literal["levels", "dense"]
LEVELS: Between = "levels"
DENSE: Between = "dense"


@dataclass(frozen=True, kw_only=True)
class End:
    """A trained network. state: folder of its state. spec: of the trial that ends with it; None: no such trial exists.

    level: prune events so far. sparsity_pct: after the last one.
    """

    state: str
    level: int
    sparsity_pct: float
    spec: TrialSpec | None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two trained networks of one seed, less sparse first."""

    a: End
    b: End


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The pairs of one ticket."""

    ticket: Finished
    between: Between
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class Ladders:
    """What is measured, and notes about trials that were left out."""

    ladders: tuple[Ladder, ...]
    notes: tuple[str, ...]


def choose_ladders(
    store: Store, run: str, plan: RunPlan, names: Sequence[str], seeds: int, between: Between
) -> Ladders:  # fmt: skip
    """Choose tickets and their pairs; a pair that several tickets have in common is measured once, for the sparsest.

    names: trials, and groups of trials (all that are finished). Without names: the first `seeds` finished trials of
    each group of tickets, without controls. Raises `UserError` for unknown names, for named trials that are not
    finished or have no such pairs, and if nothing is left.
    """
    why_not, expected = _RULES[between]
    trials = Trials(store, run, plan, why_not, expected)
    tickets = trials.named(names)[0] if names else trials.first(seeds)
    alone: Counter[str] = Counter()
    ladders, known = [], set[tuple[str, str]]()
    for ticket in sorted(tickets, key=lambda t: -t.record["result"]["sparsity_pct"]):
        pairs = _levels(store, ticket) if between == LEVELS else _dense(trials, ticket)
        alone["no dense trial of its seed is finished"] += not pairs
        new = tuple(pair for pair in pairs if (pair.a.state, pair.b.state) not in known)
        known |= {(pair.a.state, pair.b.state) for pair in new}
        ladders += [Ladder(ticket=ticket, between=between, pairs=new)] if new else []
    notes = tuple(f"{plural(count, 'trial')} left out: {why}" for why, count in (+alone).items())
    notes += () if names else trials.notes()
    if not ladders:
        reasons = "; ".join(notes) or "none is finished"
        raise UserError(f"{run}: found nothing to measure ({reasons}); expected {expected}")
    order = {name: number for number, name in enumerate(trials.specs)}
    ladders.sort(key=lambda ladder: (ladder_name(ladder.ticket.name, trials.replicate), order[ladder.ticket.name]))
    return Ladders(ladders=tuple(ladders), notes=notes)


def _why_no_levels(spec: TrialSpec) -> str | None:
    if spec.is_dense:
        return "a dense trial has one level"
    if (reason := why_no_ticket(spec)) is not None:
        return reason
    if spec.control != "none":
        return f"the last level of {spec.control} is not that of its ticket"
    if spec.family != "levels":
        return f"{spec.schedule or 'an imported ticket'} has no levels that are trained to their end one after another"
    return None


def _why_not_dense(spec: TrialSpec) -> str | None:
    if spec.is_dense:
        return "a dense trial is the other end of the line"
    return why_no_ticket(spec)


_RULES = {
    LEVELS: (_why_no_levels, "finished tickets of imp or omp"),
    DENSE: (_why_not_dense, "finished tickets, and the dense trials of their seeds"),
}


def _levels(store: Store, ticket: Finished) -> list[Pair]:
    """The ends of consecutive levels, the dense network first."""
    record, steps = ticket.record, ticket.steps_per_epoch
    chain = segments(ticket.spec, record["data"]["digest"], steps)
    last = {segment.level: segment for segment in chain if segment.kind == "train"}
    ends = [
        End(
            state=store.state(segment.key, record["fingerprint"]), level=level,
            sparsity_pct=float(100 * segment.sparsity), spec=_spec_of(ticket, segment, steps),
        )
        for level, segment in sorted(last.items())
    ]  # fmt: skip
    return [Pair(a=a, b=b) for a, b in pairwise(ends)]


def _spec_of(ticket: Finished, end: Segment, steps: int) -> TrialSpec | None:
    """The trial that ends where this level of the ticket ends: dense, or a ticket that is less sparse."""
    spec = ticket.spec
    if end.level == len(spec.level_sparsities):
        return spec
    try:
        changes = {"target_sparsity_pct": round(float(100 * end.sparsity), 2)} if end.level else {"control": "dense"}
        found = replace(spec, **changes)
    except UserError:  # at very high sparsities the target rounds to 100 %
        return None
    chain = segments(found, ticket.record["data"]["digest"], steps)
    return found if chain[-1].key == end.key else None


def _dense(trials: Trials, ticket: Finished) -> list[Pair]:
    """The dense trial of the ticket's seed, and the ticket."""
    dense = trials.finished(trials.dense_of(ticket.spec))
    if dense is None:
        return []
    a, b = (
        End(
            state=str(trial.folder.manifest["states"]["final"]), level=len(trial.spec.level_sparsities),
            sparsity_pct=float(trial.record["result"]["sparsity_pct"]), spec=trial.spec,
        )
        for trial in (dense, ticket)
    )  # fmt: skip
    return [Pair(a=a, b=b)]


def missing_ends(store: Store, ladders: Sequence[Ladder]) -> list[tuple[Ladder, End]]:
    """The networks that are not stored, or damaged, each once: in the order in which they can be trained."""
    ends: dict[str, tuple[Ladder, End]] = {}
    for ladder in ladders:
        for pair in ladder.pairs:
            for end in (pair.a, pair.b):
                ends.setdefault(end.state, (ladder, end))
    missing = [(ladder, end) for ladder, end in ends.values() if not is_sealed(store, end.state)]
    return sorted(missing, key=lambda found: found[1].level)
