"""What a group of tickets is compared with: dense networks, a small dense network, controls, other methods.

A *candidate* is a group together with all of its baselines. Pure functions of rows of the trials table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.labels import control_name
from analysis.tables.roles import is_dense_again, is_dense_network
from analysis.tables.schema import SPEC_FIELDS, Row
from analysis.verdicts.groups import BASELINE, SEEDS, TICKET, Group, find_groups, values_of
from analysis.verdicts.splits import with_own_splits
from lth_trainable.spec.values import OF_CONTROLS, usual_order

# Fields that both specs have but that may differ between a ticket and its dense baseline: the replicate, what makes a
# trial a ticket, and the budget and width, which are compared on purpose.
FREE_OF_DENSE = (*SEEDS, "control", "epochs", "layers", "reset_end", "width_pct")
DENSE_KINDS = ("dense", "dense_stretched", "dense_restarts", "dense_other")
SMALL_DENSE = "small_dense"
METHODS = ("omp", "lr_rewinding", "fine_tuning")  # as in `--baselines`
LEVELS = ("imp", "omp")  # schedules that prune only after T epochs of training
_HOW_PRUNED = ("schedule", "prune_rate_pct", "output_prune_rate_pct")
_HOW_REWOUND = ("rewind_epoch", "rewind_step", "rewind_optimizer")
_HOW_RETRAINED = ("retrain", "retrain_order", "fine_tuning_lr_fraction")
_FREE_OF_METHODS = (*SEEDS, *_HOW_PRUNED, *_HOW_REWOUND, *_HOW_RETRAINED, "prune_steps", "start_pct", "end_pct")
_SHARED_BY_METHODS = [name for name in SPEC_FIELDS if name not in _FREE_OF_METHODS]
SAME_SIZE = 0.1  # a small dense network may have up to this fraction more or fewer weights than the ticket


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Trials that a group is compared with.

    kind: "dense" (as many epochs as the group), "dense_stretched" (as many as all levels of a ticket together),
    "dense_other" (any other number), "dense_restarts", "small_dense", one of `METHODS`, or the name of a control.
    name: the kind; for plain dense networks "dense-e" and the number of epochs, such as "dense-e20".
    group: name of the group of these trials; None if there are none.
    words: what a sentence calls it; None for the words that follow from its name.
    """

    name: str
    kind: str
    group: str | None
    rows: tuple[Row, ...] = ()
    words: str | None = None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A group and its baselines. The first is the dense network of as many epochs, even if it has no trials.

    again: the trials of this dense network in another order of the data.
    """

    group: Group
    baselines: tuple[Baseline, ...]
    again: tuple[Row, ...] = ()

    def of(self, *kinds: str) -> list[Baseline]:
        """Its baselines of these kinds."""
        return [baseline for baseline in self.baselines if baseline.kind in kinds]

    @property
    def dense(self) -> Baseline:
        """The primary baseline."""
        return self.baselines[0]

    @property
    def controls(self) -> list[Baseline]:
        """Its controls: branches of the ticket that are neither dense networks nor tickets of another method."""
        return [baseline for baseline in self.baselines if baseline.kind not in (*DENSE_KINDS, SMALL_DENSE, *METHODS)]


def find_candidates(trials: Iterable[Row], tuned: bool = False) -> list[Candidate]:
    """Every group with its baselines, ladder by ladder, the least sparse first.

    Dense trials are a baseline of a group if they agree in every spec field that acts in a dense trial (data, model,
    optimisation, precision). Dense trials that are as long as the total budget of some groups belong only to these
    groups; but baselines that are judged like tickets never claim a dense trial for themselves. A control, and
    `dense_restarts`, agrees with its ticket in every field but `control`. tuned: whether the learning rates of tickets
    and dense networks were each tuned, so that they may differ.
    """
    rows = with_own_splits(trials)
    groups = find_groups(rows)
    budgets = {role: {_total_epochs(group) for group in groups if group.role in (role, TICKET)} for role in _ROLES}
    dense = [row for row in rows if is_dense_network(row)]
    fields = [name for name in _acting_fields(dense) if not (tuned and name == "lr")]
    by_setting = _gather(dense, fields)
    again = _gather(filter(is_dense_again, rows), [*fields, "epochs"])
    branches = _gather((row for row in rows if row["control"] not in ("none", "dense")), _SHARED)
    return [
        Candidate(
            group=group,
            baselines=(
                *_dense(group, by_setting.get(values_of(group.spec, fields), []), budgets[group.role]),
                *_branches(branches.get(values_of(group.spec, _SHARED), [])),
                *(_baseline(name, name, other.members) for name, other in methods_of(group, groups)),
            ),
            again=tuple(again.get(values_of(group.spec, [*fields, "epochs"]), ())),
        )
        for group in groups
    ]


def nearest_dense(candidate: Candidate, trials: Iterable[Row]) -> tuple[Row, Row, tuple[str, ...]] | None:
    """A ticket without its dense network, the dense trial of its seed that is nearest, and the fields that differ.

    None if every ticket has its dense network, or no dense trial has the seed of one that lacks it.
    """
    dense = [row for row in with_own_splits(trials) if is_dense_network(row) and row.get("width_pct") is None]
    fields = [*_acting_fields(dense), "epochs"]
    paired = {row["seed"] for row in candidate.dense.rows}
    found = [
        (ticket, row, tuple(name for name in fields if ticket.get(name) != row.get(name)))
        for ticket in candidate.group.members
        if ticket["seed"] not in paired
        for row in dense
        if row["seed"] == ticket["seed"]
    ]
    return min(found, key=lambda each: len(each[2]), default=None)


_ROLES = (TICKET, BASELINE)
_SHARED = [name for name in SPEC_FIELDS if name not in (*SEEDS, *OF_CONTROLS, "control")]


def _gather(rows: Iterable[Row], fields: Sequence[str]) -> Mapping[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[values_of(row, fields)].append(row)
    return found


def _acting_fields(dense: Sequence[Row]) -> list[str]:
    """Spec fields that act in dense trials, so must agree: those that are not null in at least one dense trial."""
    return [
        name for name in SPEC_FIELDS
        if name not in FREE_OF_DENSE and any(row[name] is not None for row in dense)
    ]  # fmt: skip


def _total_epochs(group: Group) -> int | None:
    """Epochs of all levels of one of its tickets; None if no ticket has a record."""
    return next((row["epochs_total"] for row in group.done if row.get("epochs_total") is not None), None)


def _dense(group: Group, rows: Sequence[Row], budgets: Collection[int | None]) -> list[Baseline]:
    by_epochs: dict[int, list[Row]] = {group.spec["epochs"]: []}
    for row in rows:
        if row.get("width_pct") is None:
            by_epochs.setdefault(row["epochs"], []).append(row)
    kinds = {_total_epochs(group): "dense_stretched", group.spec["epochs"]: "dense"}
    by_epochs = {epochs: trials for epochs, trials in by_epochs.items() if epochs in kinds or epochs not in budgets}
    found = [
        _baseline(f"dense-e{epochs}", kinds.get(epochs, "dense_other"), trials) for epochs, trials in by_epochs.items()
    ]
    small = _small(group, [row for row in rows if row.get("width_pct") is not None])
    return [*found, _baseline(SMALL_DENSE, SMALL_DENSE, small)] if small else found


def _small(group: Group, rows: Iterable[Row]) -> list[Row]:
    """The narrow dense trials with as many epochs as the group and about as many weights as its tickets keep."""
    kept = [row["n_kept"] for row in group.done if row["n_kept"]]
    by_width: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        if row["epochs"] == group.spec["epochs"]:
            by_width[row["width_pct"]].append(row)
    off = {
        width: abs(row["n_weights"] * len(kept) / sum(kept) - 1)
        for width, trials in by_width.items()
        for row in trials
        if row["n_weights"] and kept
    }
    nearest = min(off, key=off.__getitem__, default=None)
    return by_width[nearest] if nearest is not None and off[nearest] <= SAME_SIZE else []


def _branches(rows: Iterable[Row]) -> list[Baseline]:
    by_control: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_control[control_name(row)].append(row)
    return [_baseline(name, trials[0]["control"], trials) for name, trials in by_control.items()]


def _baseline(name: str, kind: str, rows: Sequence[Row]) -> Baseline:
    return Baseline(name=name, kind=kind, group=rows[0]["group"] if rows else None, rows=tuple(rows))


# -- tickets of another method: compared with the dense network like tickets, but in separate families


def methods_of(ticket: Group, groups: Iterable[Group]) -> list[tuple[str, Group]]:
    """The groups that find this ticket by another method, with the method's name, in the order of `METHODS`.

    A baseline has none itself. A group that the run also has as a ticket counts as a ticket, not as a baseline. Of
    several groups of one method that with the ticket's own data order counts, and of fine-tuning that with a learning
    rate of its own: a run that was begun under version 0.4.0 may have both.
    """
    if ticket.role != TICKET or ticket.spec["reset_end"]:
        return []
    found: dict[str, Group] = {}
    for other in sorted(groups, key=lambda group: _fairness(ticket.spec, group.spec)):
        alike = other.role == BASELINE and values_of(other.spec, _SHARED_BY_METHODS) == values_of(
            ticket.spec, _SHARED_BY_METHODS
        )
        name = _method(ticket.spec, other.spec) if alike else None
        if name is not None:
            found.setdefault(name, other)
    return [(name, found[name]) for name in METHODS if name in found]


def _fairness(ticket: Row, other: Row) -> tuple[bool, bool]:
    orders = [row["retrain_order"] or usual_order(row["retrain"]) for row in (ticket, other)]
    return orders[0] != orders[1], other["fine_tuning_lr_fraction"] is None


def _are_alike(ticket: Row, other: Row) -> bool:
    return values_of(ticket, _SHARED_BY_METHODS) == values_of(other, _SHARED_BY_METHODS)


def _method(ticket: Row, other: Row) -> str | None:
    """The method by which `other` finds the ticket; None if it is the baseline of another ticket.

    If the ticket is pruned in levels, a baseline differs in one thing: the schedule, or what returns after a prune. If
    it is pruned within one fit, its baselines prune once after T and rewind to its k, or to 0
    (`sweeps.experiments.baselines`).
    """
    retrain = str(other["retrain"])
    if ticket["schedule"] in LEVELS and retrain != ticket["retrain"]:
        return retrain if values_of(other, _HOW_PRUNED) == values_of(ticket, _HOW_PRUNED) else None
    if other["schedule"] != "omp" or ticket["schedule"] == "omp":
        return None
    if ticket["schedule"] in LEVELS:
        return "omp" if values_of(other, _HOW_REWOUND) == values_of(ticket, _HOW_REWOUND) else None
    k = ticket["rewind_epoch"] or 0
    return {"weight_rewinding": "omp" if other["rewind_epoch"] == k else None}.get(retrain, retrain)
