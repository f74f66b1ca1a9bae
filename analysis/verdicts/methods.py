"""Baselines that are tickets of another method: one-shot pruning, learning-rate rewinding, fine-tuning.

They are judged against the dense network as tickets are, in families of their own, and tickets are held against them.
Pure functions of groups.
"""

from __future__ import annotations

from collections.abc import Iterable

from analysis.tables.schema import SPEC_FIELDS, Row
from analysis.verdicts.groups import BASELINE, SEEDS, TICKET, Group, values_of

METHODS = ("omp", "lr_rewinding", "fine_tuning")  # as `--baselines` has them
LEVELS = ("imp", "omp")  # schedules that prune after T
_LEVELS = ("schedule", "prune_rate_pct", "output_prune_rate_pct")
_REWIND = ("rewind_epoch", "rewind_step", "rewind_optimizer")
_FREE = (*SEEDS, *_LEVELS, *_REWIND, "retrain", "prune_steps", "start_pct", "end_pct")  # what a method may differ in
_SHARED = [name for name in SPEC_FIELDS if name not in _FREE]


def methods_of(ticket: Group, groups: Iterable[Group]) -> list[tuple[str, Group]]:
    """The baselines among `groups` that are this ticket by another method, with its name, in the order of `METHODS`.

    None of what is a baseline itself. A group that the run also has as a ticket is a ticket, and no baseline.
    """
    if ticket.role != TICKET or ticket.spec["reset_end"]:
        return []
    found: dict[str, Group] = {}
    for other in groups:
        alike = other.role == BASELINE and values_of(other.spec, _SHARED) == values_of(ticket.spec, _SHARED)
        name = _method(ticket.spec, other.spec) if alike else None
        if name is not None:
            found.setdefault(name, other)
    return [(name, found[name]) for name in METHODS if name in found]


def _method(ticket: Row, other: Row) -> str | None:
    """What `other` does in the ticket's place; None where it is the baseline of another ticket.

    Of a ticket found by levels a baseline differs in one thing, the schedule or what returns after a prune. One that is
    pruned within one fit has baselines that prune once after T, rewound to its k or to 0
    (`sweeps.experiments.baselines`).
    """
    retrain = str(other["retrain"])
    if ticket["schedule"] in LEVELS and retrain != ticket["retrain"]:
        return retrain if values_of(other, _LEVELS) == values_of(ticket, _LEVELS) else None
    if other["schedule"] != "omp" or ticket["schedule"] == "omp":
        return None
    if ticket["schedule"] in LEVELS:
        return "omp" if values_of(other, _REWIND) == values_of(ticket, _REWIND) else None
    k = ticket["rewind_epoch"] or 0
    return {"weight_rewinding": "omp" if other["rewind_epoch"] == k else None}.get(retrain, retrain)
