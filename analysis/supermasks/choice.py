"""Which networks of a run have supermasks: dense trials with their final weights, and the tickets beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.barriers.targets import Finished, Trials
from analysis.tables.run_plan import RunPlan
from analysis.text import plural
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.store.store import Store


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """A finished dense trial, and the finished tickets that were found from its initialisation."""

    dense: Finished
    tickets: tuple[Finished, ...]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The networks, and notes about trials that were left out."""

    networks: tuple[Seeded, ...]
    notes: tuple[str, ...]


def choose(store: Store, run: str, plan: RunPlan) -> Chosen:
    """All finished dense trials of a run. Raises `UserError` if there is none."""
    trials = Trials(store, run, plan, lambda spec: None)
    planned = [spec for spec in trials.specs.values() if spec.is_dense and spec.width_pct is None]
    dense = {spec.name: found for spec in planned if (found := trials.finished(spec)) is not None}
    if not dense:
        raise UserError(f"{run}: found no finished dense trial; expected at least one, whose weights choose the masks")
    beside: dict[str, list[Finished]] = {name: [] for name in dense}
    alone = 0
    for spec in trials.specs.values():
        if _has_mask_of_levels(spec) and (ticket := trials.finished(spec)) is not None:
            own = trials.dense_of(spec)
            if own is None or own.name not in dense:
                alone += 1
            else:
                beside[own.name].append(ticket)
    notes = [f"{plural(alone, 'ticket')} left out: no dense trial of its seed is finished"] if alone else []
    if len(dense) < len(planned):
        notes.append(f"{plural(len(planned) - len(dense), 'dense trial')} left out: not finished, or excluded")
    return Chosen(
        networks=tuple(Seeded(dense=found, tickets=_sparsest_last(beside[name])) for name, found in dense.items()),
        notes=tuple(notes),
    )


def _has_mask_of_levels(spec: TrialSpec) -> bool:
    """Whether this is a ticket whose mask was found by rounds of training, each from the rewind point."""
    return spec.control == "none" and spec.family == "levels" and spec.retrain == "weight_rewinding"


def _sparsest_last(tickets: Sequence[Finished]) -> tuple[Finished, ...]:
    return tuple(sorted(tickets, key=lambda ticket: (str(ticket.spec.criterion), ticket.spec.target_sparsity_pct)))
