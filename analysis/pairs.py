"""Which tickets are compared with which dense trials: groups, ladders, baselines, pairs. Pure functions of rows.

A *group* is the tickets that are equal in every spec field but their seeds; a *ladder* the groups that are equal also
but for the target sparsity. A ticket is paired with the dense trial of its seed, the replicate.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.schema import SPEC_FIELDS, Row
from analysis.stats import Values, paired_differences_pp

SEEDS = ("seed", "order_seed")
# What may differ between a ticket and its baseline although it stands in both specs: the replicate, what makes the one
# a ticket, and the budget, which is a comparison of its own.
FREE_OF_BASELINE = (*SEEDS, "control", "epochs", "layers", "reset_end")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Tickets that differ in their seeds only. `spec`: the fields that they share, seeds left out."""

    name: str
    ladder: str
    spec: Row
    members: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A group against the dense trials of one number of epochs.

    `tickets` and `dense` are endpoint fractions of the pairs, in the order of `seeds`; `n_unpaired` counts the group's
    seeds that form no pair. `baseline_group` is None where the run has no such dense trials.
    """

    group: Group
    baseline: str
    baseline_group: str | None
    primary: bool
    seeds: tuple[int, ...]
    tickets: tuple[float, ...]
    dense: tuple[float, ...]
    n_unpaired: int

    @property
    def differences_pp(self) -> Values:
        """Ticket minus dense, percentage points, in the order of `seeds`."""
        return paired_differences_pp(self.tickets, self.dense)

    @property
    def n_pairs(self) -> int:
        return len(self.seeds)


def group_name(trial: str) -> str:
    """A trial's name without its seeds: `digits-lenet-imp-s64-r0-seed3` -> `digits-lenet-imp-s64-r0`."""
    parts = trial.split("-")
    return "-".join(part for i, part in enumerate(parts) if i < 2 or not re.fullmatch(r"(seed|order)\d+", part))


def ladder_name(group: str) -> str:
    """A group's name without its target sparsity: `digits-lenet-imp-s64-r0` -> `digits-lenet-imp-r0`."""
    parts = group.split("-")
    return "-".join(part for i, part in enumerate(parts) if i != 3 or not re.fullmatch(r"s[\d.]+", part))


def compare(trials: Iterable[Row], endpoint: str) -> list[Comparison]:
    """Every group of tickets against every baseline that it may be compared with.

    A baseline is the dense trials that equal the group in every spec field that acts in a dense trial (data, model,
    optimisation, precision), whatever their number of epochs. The one with the group's own number of epochs is the
    primary one and always listed, without pairs where the run has no such trials, so that no group is left out.
    Groups come ladder by ladder, in order of first appearance, the least sparse first.
    """
    rows = list(trials)
    dense = [row for row in rows if row["control"] == "dense"]
    fields = _acting_fields(dense)
    by_setting: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in dense:
        by_setting[_values(row, fields)].append(row)
    return [
        comparison
        for group in find_groups(rows)
        for comparison in _against(group, by_setting.get(_values(group.spec, fields), []), endpoint)
    ]


def find_groups(trials: Iterable[Row]) -> list[Group]:
    """The groups of tickets, ladder by ladder in order of first appearance, the least sparse first."""
    shared = [name for name in SPEC_FIELDS if name not in SEEDS]
    members: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in trials:
        if row["control"] == "none":
            members[_values(row, shared)].append(row)
    groups = [_group(rows, shared) for rows in members.values()]
    ladders = {ladder: i for i, ladder in enumerate(dict.fromkeys(ladder_key(group) for group in groups))}
    return sorted(groups, key=lambda group: (ladders[ladder_key(group)], group.spec["target_sparsity_pct"]))


def ladder_key(group: Group) -> tuple[Any, ...]:
    """What two groups of one ladder have in common: every shared field but the target."""
    return tuple(value for name, value in group.spec.items() if name != "target_sparsity_pct")


def _group(rows: Sequence[Row], shared: Sequence[str]) -> Group:
    name = group_name(rows[0]["trial"])
    return Group(
        name=name, ladder=ladder_name(name), spec={field: rows[0][field] for field in shared}, members=tuple(rows)
    )


def _acting_fields(dense: Sequence[Row]) -> list[str]:
    """Spec fields that act in a dense trial, so must agree: those that are not null in every one of them."""
    return [
        name for name in SPEC_FIELDS
        if name not in FREE_OF_BASELINE and any(row[name] is not None for row in dense)
    ]  # fmt: skip


def _against(group: Group, dense: Sequence[Row], endpoint: str) -> list[Comparison]:
    by_epochs: dict[int, list[Row]] = {group.spec["epochs"]: []}
    for row in dense:
        by_epochs.setdefault(row["epochs"], []).append(row)
    return [_comparison(group, epochs, rows, endpoint) for epochs, rows in by_epochs.items()]


def _comparison(group: Group, epochs: int, dense: Sequence[Row], endpoint: str) -> Comparison:
    tickets, baselines = _by_seed(group.members), _by_seed(dense)
    pairs = {seed: _pair(tickets[seed], baselines.get(seed, ()), endpoint) for seed in sorted(tickets)}
    whole = {seed: pair for seed, pair in pairs.items() if pair is not None}
    return Comparison(
        group=group,
        baseline=f"dense-e{epochs}",
        baseline_group=group_name(dense[0]["trial"]) if dense else None,
        primary=epochs == group.spec["epochs"],
        seeds=tuple(whole),
        tickets=tuple(ticket for ticket, _ in whole.values()),
        dense=tuple(baseline for _, baseline in whole.values()),
        n_unpaired=len(pairs) - len(whole),
    )


def _by_seed(rows: Iterable[Row]) -> Mapping[int, Sequence[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["seed"]].append(row)
    return found


def _pair(tickets: Sequence[Row], dense: Sequence[Row], endpoint: str) -> tuple[float, float] | None:
    """Endpoints of one seed, None for a broken pair: a trial of either side that is not done, or other data.

    Trials of one seed (several order seeds) share their initialisation, so they are one replicate: their mean.
    """
    both = [*tickets, *dense]
    if not dense or any(row["status"] != "done" or row[endpoint] is None for row in both):
        return None
    if len({row["data_digest"] for row in both}) > 1:
        return None
    return _mean(tickets, endpoint), _mean(dense, endpoint)


def _mean(rows: Sequence[Row], column: str) -> float:
    return float(sum(row[column] for row in rows)) / len(rows)


def _values(row: Row, names: Iterable[str]) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)
