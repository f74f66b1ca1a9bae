"""Groups, ladders and pairs of trials. Pure functions of rows.

A *group* is all tickets that differ only in their seeds. A *ladder* is all groups that differ only in their target
sparsity. A ticket is paired with the trial of the same seed, the replicate, on the other side.

A diverged trial has no accuracy, but leaving out its pair would hide a bad outcome. So it enters its pair at chance
accuracy, 1 / number of classes; its early stop never comes. A trial that is failed, missing or damaged has no outcome
yet: its seed forms no pair, and the pairs say that they are not complete.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.labels import SEEDS
from analysis.stats.crossed import Crossed, Outcomes, crossed
from analysis.stats.paired import Values
from analysis.tables.clocks import FROM_INIT
from analysis.tables.schema import DIVERGED, SPEC_FIELDS, Row
from analysis.text import number_of
from analysis.verdicts.images import outcomes
from analysis.verdicts.splits import with_own_splits

TICKET, BASELINE = "ticket", "baseline"  # roles of a group
CENSORED = {FROM_INIT: "early_stop_censored"}  # column -> column that is true if it is a lower bound
CONSTANTS = ("chance_accuracy", "majority_class_accuracy")  # of the data, which a diverged trial has too
NOT_FINISHED = ("failed", "missing", "damaged")  # statuses of trials that were planned and have no outcome yet


@dataclass(frozen=True, kw_only=True)
class Group:
    """Tickets that differ only in their seeds. spec: the fields that they share.

    role: TICKET; or BASELINE if all of them are in the run only as baselines, which are tickets of another method.
    """

    name: str
    ladder: str
    spec: Row
    members: tuple[Row, ...]
    role: str = TICKET

    @property
    def done(self) -> list[Row]:
        return [row for row in self.members if row["status"] == "done"]

    @property
    def target(self) -> float:
        """Target sparsity in percent of the weights."""
        return float(self.spec["target_sparsity_pct"])


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Values of both sides, seed by seed. broken: why each other seed of the group forms no pair.

    diverged: seeds of pairs with a diverged trial, which counts at chance. unfinished: seeds without a pair because a
    planned trial is failed, missing or damaged.

    images: by seed and image, ticket minus other side; None if that is not known (see `analysis.verdicts.images`).
    tickets_censored, others_censored: true if the value is only a lower bound, such as the early stop of a network
    whose validation loss was still falling when training ended.
    """

    seeds: tuple[int, ...] = ()
    tickets: tuple[float, ...] = ()
    others: tuple[float, ...] = ()
    tickets_censored: tuple[bool, ...] = ()
    others_censored: tuple[bool, ...] = ()
    broken: Mapping[int, str] = field(default_factory=dict)
    diverged: frozenset[int] = frozenset()
    unfinished: frozenset[int] = frozenset()
    images: Outcomes | None = field(default=None, compare=False)

    @property
    def n(self) -> int:
        return len(self.seeds)

    @property
    def differences(self) -> Values:
        """Ticket minus other side, in the order of `seeds`; only a bound if a side is censored."""
        with np.errstate(invalid="ignore"):  # of two early stops that never come the difference is unknown
            return np.asarray(self.tickets, dtype=np.float64) - np.asarray(self.others, dtype=np.float64)

    @property
    def n_censored(self) -> int:
        """Number of pairs with a censored value."""
        return sum(a or b for a, b in zip(self.tickets_censored, self.others_censored, strict=True))

    @property
    def n_late(self) -> int:
        """Number of pairs with a censored value that longer training would complete: no trial of it diverged."""
        both = zip(self.tickets, self.tickets_censored, self.others, self.others_censored, strict=True)
        return sum((a_late and math.isfinite(a)) or (b_late and math.isfinite(b)) for a, a_late, b, b_late in both)

    @functools.cached_property
    def crossed(self) -> Crossed | None:
        """The differences as a sample of seeds and of images; None if the images are not known, or below 2 pairs."""
        return None if self.images is None or self.n < 2 else crossed(self.images)

    def before(self, seed: int) -> Pairs:
        """Only the pairs of seeds below `seed`."""
        return self._of(lambda s: s < seed)

    def finished(self) -> Pairs:
        """Only the pairs in which no trial diverged."""
        return self._of(lambda s: s not in self.diverged)

    def _of(self, wanted: Callable[[int], bool]) -> Pairs:
        kept = [i for i, seed in enumerate(self.seeds) if wanted(seed)]
        columns = ("seeds", "tickets", "others", "tickets_censored", "others_censored")
        cut: dict[str, Any] = {name: tuple(getattr(self, name)[i] for i in kept) for name in columns}
        return Pairs(
            **cut, images=None if self.images is None else self.images[kept],
            broken={seed: reason for seed, reason in self.broken.items() if wanted(seed)},
            diverged=frozenset(filter(wanted, self.diverged)), unfinished=frozenset(filter(wanted, self.unfinished)),
        )  # fmt: skip

    @property
    def why_broken(self) -> str | None:
        """The reasons with their seeds, such as "ticket failed (seed 3); no dense trial (seeds 5, 6)", or None."""
        return self._listed(self.broken)

    @property
    def why_unfinished(self) -> str | None:
        """The same for the planned trials that have no outcome yet."""
        return self._listed({seed: self.broken[seed] for seed in self.unfinished})

    def _listed(self, broken: Mapping[int, str]) -> str | None:
        by_reason: dict[str, list[int]] = defaultdict(list)
        for seed, reason in sorted(broken.items()):
            by_reason[reason].append(seed)
        listed = [
            f"{reason} ({number_of(len(seeds), 'seed')} {', '.join(map(str, seeds))})"
            for reason, seeds in by_reason.items()
        ]
        return "; ".join(listed) or None


def find_groups(trials: Iterable[Row]) -> list[Group]:
    """The groups of tickets, by ladder in order of first appearance, and within it from the least sparse on."""
    shared = [name for name in SPEC_FIELDS if name not in SEEDS]
    members: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in with_own_splits(trials):
        if row["control"] == "none":
            members[values_of(row, shared)].append(row)
    groups = [_group(rows, shared) for rows in members.values()]
    ladders = {ladder: i for i, ladder in enumerate(dict.fromkeys(ladder_key(group) for group in groups))}
    return sorted(groups, key=lambda group: (ladders[ladder_key(group)], group.target))


def ladder_key(group: Group) -> tuple[Any, ...]:
    """Equal for two groups of one ladder: every field of their spec but the target sparsity."""
    return tuple(value for name, value in group.spec.items() if name != "target_sparsity_pct")


def pair_up(
    tickets: Iterable[Row],
    others: Iterable[Row],
    column: str,
    other: str,
    other_column: str | None = None,
    ticket: str = "ticket",
) -> Pairs:
    """Pairs by seed: `column` of the tickets with `other_column` of the others (None: the same column).

    A seed forms no pair if a trial of either side is neither done nor diverged, or has no value, or if the two saw
    different data. A diverged trial counts at chance. Trials of one seed with several order seeds share their
    initialisation, so they are one replicate: their mean counts. ticket, other: names of the two sides, for the
    reasons.
    """
    ours, theirs = _by_seed(tickets), _by_seed(others)
    columns = column, other_column or column
    chance = _chance(row for rows in (*ours.values(), *theirs.values()) for row in rows)
    ours, theirs = _with_outcomes(ours, columns[0], chance), _with_outcomes(theirs, columns[1], chance)
    broken = {seed: _break(ours[seed], theirs.get(seed, ()), columns, (ticket, other)) for seed in sorted(ours)}
    whole = [seed for seed, reason in broken.items() if reason is None]
    x, y = [_mean(ours[seed], columns[0]) for seed in whole], [_mean(theirs[seed], columns[1]) for seed in whole]
    return Pairs(
        seeds=tuple(whole), tickets=tuple(value for value, _ in x), others=tuple(value for value, _ in y),
        tickets_censored=tuple(censored for _, censored in x), others_censored=tuple(censored for _, censored in y),
        broken={seed: reason for seed, reason in broken.items() if reason is not None},
        diverged=frozenset(seed for seed in whole if _has((DIVERGED,), ours[seed], theirs[seed])),
        unfinished=frozenset(
            seed for seed, reason in broken.items() if reason and _has(NOT_FINISHED, ours[seed], theirs.get(seed, ()))
        ),
        images=outcomes(ours, theirs, whole, column) if columns[0] == columns[1] else None,
    )  # fmt: skip


def _has(statuses: Collection[str], *sides: Sequence[Row]) -> bool:
    return any(row["status"] in statuses for rows in sides for row in rows)


def _chance(rows: Iterable[Row]) -> float | None:
    """Accuracy of guessing, 1 / number of classes, as the records of these trials have it."""
    return next((row["chance_accuracy"] for row in rows if row.get("chance_accuracy") is not None), None)


def _with_outcomes(
    by_seed: Mapping[int, Sequence[Row]], column: str, chance: float | None
) -> Mapping[int, Sequence[Row]]:
    """The trials by seed, the diverged ones with an outcome: at chance; an early stop that never comes."""
    if column in CONSTANTS:
        return by_seed
    flag = CENSORED.get(column)
    outcome: Row = {column: math.inf, flag: True} if flag else {column: chance}
    return {
        seed: [{**row, **outcome} if row["status"] == DIVERGED else row for row in rows]
        for seed, rows in by_seed.items()
    }


def values_of(row: Row, names: Iterable[str]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in names)


def _group(rows: Sequence[Row], shared: Sequence[str]) -> Group:
    return Group(
        name=rows[0]["group"], ladder=rows[0]["ladder"], spec={field: rows[0][field] for field in shared},
        members=tuple(rows),
        role=BASELINE if all(row.get("role") == BASELINE for row in rows) else TICKET,
    )  # fmt: skip


def _by_seed(rows: Iterable[Row]) -> Mapping[int, Sequence[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["seed"]].append(row)
    return found


def _break(ours: Sequence[Row], theirs: Sequence[Row], columns: tuple[str, str], sides: tuple[str, str]) -> str | None:
    """Why the trials of one seed form no pair; None if they form one."""
    for side, rows in zip(sides, (ours, theirs), strict=True):
        for row in rows:
            if row["status"] not in ("done", DIVERGED):
                return f"{side} {row['status']}"
    if not theirs:
        return f"no {sides[1]} trial"
    for rows, name in zip((ours, theirs), columns, strict=True):
        if any(row.get(name) is None for row in rows):
            return f"no {name}"
    return "other data" if len({row["data_digest"] for row in (*ours, *theirs)}) > 1 else None


def _mean(rows: Sequence[Row], column: str) -> tuple[float, bool]:
    """Mean of the column, and whether any of the values is censored."""
    flag = CENSORED.get(column)
    return float(sum(row[column] for row in rows)) / len(rows), any(bool(row.get(flag)) for row in rows if flag)
