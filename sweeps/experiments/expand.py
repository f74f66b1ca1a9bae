"""Expand a sweep into its trials: tickets from the product of all axes, with controls and baselines, for every seed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analysis.tables.roles import CONTROL, role_of
from lth_trainable.errors import UserError, bad_value, check_sparsity, too_large
from lth_trainable.spec.draft import MOST_SEED
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.spec.values import OF_CONTROLS
from sweeps.experiments.branches import Branches, IfNone, baselines_of, controls_of
from sweeps.experiments.precision import resolved
from sweeps.experiments.recipes import Sweep
from sweeps.experiments.split_seeds import FIELD as SPLIT
from sweeps.experiments.split_seeds import check_splits, has_own_splits, of_seed
from sweeps.experiments.tuning import Tuning

MOST_SEEDS = 100_000  # of one command
CONTEXT_OF = {"wanda": "output_row"}  # of criteria that do not rank a whole layer together


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The trials of a sweep, in the order in which they are planned.

    notes: for the user, on how the trials were chosen. roles: "ticket", "dense", "control" or "baseline", by trial
    name.
    """

    trials: tuple[TrialSpec, ...]
    notes: tuple[str, ...]
    roles: Mapping[str, str] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Requested epochs: the cost if each trial were trained alone."""
        return sum(spec.epochs_alone() for spec in self.trials)


def expand(sweep: Sweep, data_root: Path | None = None) -> Trials:
    """All trials of a sweep: seeds in order, and within a seed the longest trial first.

    With this order a sweep that is cut short still has complete pairs. A field that has no effect under a schedule,
    such as the rewind epoch of agp, does not multiply trials. data_root: folder of data sets that read files; only
    `small_dense` uses it, because its width depends on the images. Raises `UserError`.
    """
    sweep = resolved(sweep)  # where no hardware is known
    check_seeds(sweep.seeds)
    _check_repeats(sweep.axes)
    check_splits("split_seed", sweep.axes.get(SPLIT, (sweep.base[SPLIT],) if SPLIT in sweep.base else ()))
    for value in sweep.axes.get("target_sparsity_pct", ()):
        check_sparsity("sparsity", value)
    of_controls = {name: sweep.axes[name] for name in OF_CONTROLS if name in sweep.axes}
    axes = {name: values for name, values in sweep.axes.items() if name not in of_controls}
    points = [point for point in _product(axes) if sweep.selects(point, axes)]
    if not points:
        raise UserError(f"axes of {sweep.name}: {sweep.selects.__name__} leaves no ticket; expected at least one")
    fields = [_with_usual_context({**sweep.base, **point}) for point in points]
    tickets = [TrialSpec(**of_seed(values, seed)) for seed in sweep.seeds for values in fields]
    if "retrain_order" not in {**sweep.base, **sweep.axes}:
        tickets, orders = _with_one_order(tickets)
    else:
        orders = []
    notes = list(dict.fromkeys([*(note for ticket in tickets for note in ticket.notes), *orders]))
    if has_own_splits({**sweep.base, **sweep.axes}):
        notes.append("each seed has a split of the data of its own: a replicate is a seed with its split")
    if len(set(tickets)) < len(tickets):
        notes.append(
            "equal trials are counted once: some values have no effect under a schedule, or lead to the same rung"
        )
    if any(values.get("criterion") in CONTEXT_OF for values in fields) and "context" not in {
        **sweep.base,
        **sweep.axes,
    }:
        notes.append("wanda ranks the weights within each output row, as its paper does; --context local: in the layer")
    notes += [f"{name} has no effect in any trial of this sweep" for name in axes if _is_idle(name, tickets)]
    baselines = baselines_of(tickets, sweep.baselines, data_root, _if_none(sweep, "baselines"))
    settings = {name: (sweep.base[name],) for name in OF_CONTROLS if name in sweep.base} | of_controls
    has_controls = [sweep.controlled(point, axes) for point in points]
    of_controlled = [ticket for ticket, has in zip(tickets, itertools.cycle(has_controls)) if has]
    if sweep.controls and not all(has_controls):
        which = f"{sum(has_controls)} of {len(points)} tickets of a seed have controls"
        notes.append(f"{which}, as the recipe says ({sweep.controlled.__name__}); --controls gives them to all")
    controls = controls_of(of_controlled, sweep.controls, settings, _if_none(sweep, "controls"))
    for name in of_controls:
        if all(getattr(trial, name) is None for trial in controls.trials):
            notes.append(f"{name} has no effect in any trial of this sweep: it is for controls (--controls)")
    if sweep.tuning is not None:
        baselines, controls = _at_own_rates(baselines, sweep.tuning), _at_own_rates(controls, sweep.tuning)
        notes.append(sweep.tuning.sentence)
    of_trials = [note for trial in baselines.trials for note in trial.notes]
    notes += dict.fromkeys([*controls.notes, *baselines.notes, *of_trials])
    trials = list(dict.fromkeys([*baselines.trials, *tickets, *controls.trials]))
    order = {seed: i for i, seed in enumerate(sweep.seeds)}
    trials.sort(key=lambda spec: (order[spec.seed], -spec.epochs_alone()))
    _check_names(trials)
    of_product = set(tickets)
    roles = {spec.name: role_of(spec, is_ticket=spec in of_product) for spec in trials}
    again = {spec for spec in controls.trials if spec.is_dense} - set(baselines.trials)
    roles |= {spec.name: CONTROL for spec in again}
    return Trials(trials=tuple(trials), notes=tuple(notes), roles=roles)


def _if_none(sweep: Sweep, branches: str) -> IfNone:
    return IfNone.NOTE if branches in sweep.if_possible else IfNone.ERROR


def _at_own_rates(branches: Branches, tuning: Tuning) -> Branches:
    return replace(branches, trials=tuple(replace(spec, **tuning.applied(spec)) for spec in branches.trials))


def _with_usual_context(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values with the context that is usual for their criterion, if they have none.

    wanda ranks within each output row, as its paper does (Sun et al., arXiv 2306.11695, sec. 3). A spec that does not
    say the context has the default of all criteria, "local", so that the keys of stored trials stay as they are.
    """
    usual = CONTEXT_OF.get(values.get("criterion", ""))
    return {**values, "context": usual} if usual and "context" not in values else values


def _with_one_order(tickets: Sequence[TrialSpec]) -> tuple[list[TrialSpec], list[str]]:
    """The tickets with one data order after a prune, that which found the mask, and a note if some had another.

    Otherwise methods of retraining would be compared that differ in their data order too.
    """
    in_levels = [ticket for ticket in tickets if ticket.family == "levels"]
    moved = {ticket.retrain or "": None for ticket in in_levels if ticket.order_is_new}
    if not moved or all(ticket.order_is_new for ticket in in_levels):
        return list(tickets), []
    note = (
        f"a level of {' and '.join(moved)} sees the data in the order that found its mask, as one of the other tickets"
    )
    return [replace(ticket, retrain_order="same") if ticket.family == "levels" else ticket for ticket in tickets], [
        f"{note}; --retrain-order new gives all of them a new order"
    ]


def of_specs(specs: Sequence[TrialSpec]) -> Trials:
    """These trials, in the order in which `expand` would plan them. Raises `UserError` if two have the same name."""
    distinct = list(dict.fromkeys(specs))
    notes = ["equal trials are counted once"] if len(distinct) < len(specs) else []
    notes += dict.fromkeys(note for spec in distinct for note in spec.notes)
    order = {seed: i for i, seed in enumerate(dict.fromkeys(spec.seed for spec in distinct))}
    trials = sorted(distinct, key=lambda spec: (order[spec.seed], -spec.epochs_alone()))
    _check_names(trials)
    return Trials(trials=tuple(trials), notes=tuple(notes), roles={spec.name: role_of(spec) for spec in trials})


def seed_values(count: int | None, values: tuple[int, ...], default: tuple[int, ...]) -> tuple[int, ...]:
    """The seeds that `--seeds N` (0 to N-1) or `--seed A B C` ask for, else the default. Raises `UserError`."""
    if count is not None and values:
        raise UserError("--seeds and --seed: found both; expected --seeds N for 0 to N-1, or --seed with the numbers")
    if count is not None:
        if count < 1:
            raise bad_value("seeds", count, "a whole number of at least 1", "a verdict needs at least 5")
        if count > MOST_SEEDS:
            raise too_large("seeds", count, MOST_SEEDS)
        return tuple(range(count))
    return values or default


def _product(axes: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


def _is_idle(name: str, tickets: list[TrialSpec]) -> bool:
    names = ("rewind_epoch", "rewind_step") if name == "rewind_epoch" else (name,)
    return name != "order_seed" and all(getattr(ticket, n) is None for ticket in tickets for n in names)


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Raise `UserError` if there is no seed, or if one occurs twice or is too large."""
    if not seeds:
        raise bad_value("seed", [], "at least one seed")
    if max(seeds) > MOST_SEED:
        raise too_large("seed", max(seeds), MOST_SEED)
    repeated = sorted(seed for seed, count in Counter(seeds).items() if count > 1)
    if repeated:
        listed = ", ".join(map(str, repeated))
        raise bad_value(
            "seed", list(seeds), "each seed once", f"repeated: {listed}; a repeated seed is not a new replicate"
        )


def _check_repeats(axes: Mapping[str, tuple[Any, ...]]) -> None:
    for name, values in axes.items():
        if not values:
            raise bad_value(name, [], "at least one value")


def _check_names(trials: list[TrialSpec]) -> None:
    names: dict[str, TrialSpec] = {}
    for spec in trials:
        if names.setdefault(spec.name, spec) != spec:
            raise UserError(
                f"two different trials would be named {spec.name}; start them as runs of two names (--name)"
            )
