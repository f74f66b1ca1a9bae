"""Which networks of a run are looked at for a barrier, and from which point of their training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.labels import group_name
from analysis.tables.exclusions import read_exclusions, unknown_trial
from analysis.tables.run_plan import RunPlan
from analysis.text import plural
from lth_trainable.errors import UserError, bad_value
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.store.store import Damaged, Sealed, Store
from lth_trainable.store.trials import read_record


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished trial: its spec, its folder in the store, its record."""

    spec: TrialSpec
    folder: Sealed
    record: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.spec.name


@dataclass(frozen=True, kw_only=True)
class BarrierTarget:
    """A network that copies are trained of.

    trial: the ticket (or control), or the dense trial beside it. ticket: the one whose point is the start of both.
    dense: name of the dense trial of its seed; None where the run has none.
    """

    trial: Finished
    ticket: Finished
    dense: str | None

    @property
    def is_dense(self) -> bool:
        return self.trial.spec.is_dense

    @property
    def rewound_to(self) -> str:
        """The epoch or iteration of the start, such as "1" or "500it"."""
        spec = self.ticket.spec
        if spec.starts_over:
            return "0"
        return f"{spec.rewind_step}it" if spec.rewind_step is not None else str(spec.rewind_epoch)

    @property
    def state(self) -> str:
        """Where the start is stored."""
        states = self.ticket.folder.manifest["states"]
        return str(states["initial" if self.ticket.spec.starts_over else "rewind"])

    @property
    def epochs(self) -> int:
        """Epochs that a copy is trained; the one in which an iteration lies counts as one."""
        spec = self.ticket.spec
        if spec.starts_over:
            return spec.epochs
        steps = -(-self.ticket.record["data"]["n_train"] // spec.batch_size)
        return spec.epochs - spec.retrained_from(steps)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Targets, seed by seed, and what a person should know of those that were left out."""

    targets: tuple[BarrierTarget, ...]
    notes: tuple[str, ...]


def choose(store: Store, run: str, plan: RunPlan, names: Sequence[str], seeds: int) -> Choice:
    """The tickets to look at, and with each the dense trial of its seed from the same point.

    names: trials and groups of them (all that are finished); none: the first `seeds` finished trials of each group of
    tickets, without controls. A dense trial that is named is looked at from every point that tickets of its seed are
    rewound to. Raises `UserError` for unknown names, named trials that are not finished or have no such point, and
    where nothing is left.
    """
    trials = _Trials(store, run, [spec_from_dict(trial.spec) for trial in plan.trials], read_exclusions(store, run))
    tickets, dense = trials.named(names) if names else (trials.first(seeds), [])
    found = [target for ticket in tickets for target in trials.from_the_point_of(ticket)]
    found += [target for trial in dense for target in trials.from_all_points(trial)]
    if not found:
        reasons = "; ".join(trials.notes()) or "none is finished"
        raise UserError(f"{run}: found no ticket to look at ({reasons}); expected finished tickets of imp or omp")
    targets: dict[tuple[str, str], BarrierTarget] = {}
    for target in found:  # tickets of several sparsities bring the same dense network from the same point
        targets.setdefault((target.trial.name, target.rewound_to), target)
    order = {seed: number for number, seed in enumerate(dict.fromkeys(spec.seed for spec in trials.specs.values()))}
    by_seed = sorted(targets.values(), key=lambda t: (order[t.trial.spec.seed], not t.is_dense))
    return Choice(targets=tuple(by_seed), notes=() if names else trials.notes())


def why_not(spec: TrialSpec) -> str | None:
    """Why a trial has no point from which its ticket alone is trained, in a clause; None where it has one."""
    if spec.is_dense:
        return None
    if spec.restarts:
        return "dense_restarts is the dense network"
    if spec.reset_end:
        return "a supermask is not trained"
    if spec.family == "fit":
        return f"{spec.schedule} prunes within one fit, where optimiser and learning rate run on through a reset"
    if spec.retrain != "weight_rewinding" and not spec.starts_over:
        return f"{spec.retrain} rewinds no weights"
    return None


class _Trials:
    """The planned trials of a run; records are read as they are asked for."""

    def __init__(self, store: Store, run: str, specs: Iterable[TrialSpec], excluded: Collection[str]) -> None:
        self.store, self.run, self.excluded = store, run, excluded
        self.specs = {spec.name: spec for spec in specs}
        self.found: dict[str, Finished | None] = {}
        self.left_out: Counter[str] = Counter()  # tickets by reason

    def finished(self, spec: TrialSpec | None) -> Finished | None:
        """None for a trial that is not finished, diverged or is excluded."""
        if spec is None or spec.name in self.excluded:
            return None
        if spec.name not in self.found:
            self.found[spec.name] = self._read(spec)
        return self.found[spec.name]

    def dense_of(self, ticket: TrialSpec) -> TrialSpec | None:
        """The dense trial that is equal to the ticket in all that acts in both, its number of epochs included."""
        dense = (spec for spec in self.specs.values() if spec.is_dense and spec.seed == ticket.seed)
        return next((d for d in dense if replace(ticket, control="dense", layers=d.layers) == d), None)

    def first(self, seeds: int) -> list[Finished]:
        """The first finished trials of each group of tickets."""
        chosen: dict[str, list[Finished]] = defaultdict(list)
        for spec in self.specs.values():
            if spec.control != "none" or len(chosen[group_name(spec.name)]) == seeds:
                continue
            reason = why_not(spec)
            trial = None if reason else self.finished(spec)
            if trial is None:
                self.left_out[reason or "not finished, or excluded"] += 1
            else:
                chosen[group_name(spec.name)].append(trial)
        return [trial for trials in chosen.values() for trial in trials]

    def named(self, names: Sequence[str]) -> tuple[list[Finished], list[Finished]]:
        """Tickets and dense trials of these names. Raises `UserError`."""
        found: dict[str, Finished] = {}
        for name in names:
            members = [spec for spec in self.specs.values() if name in (spec.name, group_name(spec.name))]
            if not members:
                valid = {value for spec in self.specs.values() for value in (spec.name, group_name(spec.name))}
                raise unknown_trial("TRIAL", name, valid, "a trial of the run, or a group: a name without its seed")
            trials = [trial for spec in members if (trial := self._usable(spec)) is not None]
            if not trials:
                advice = "python -m sweeps.status says why"
                raise bad_value(f"TRIAL {name}", "none that is finished and not excluded", "at least one", advice)
            found |= {trial.name: trial for trial in trials}
        both = list(found.values())
        return [t for t in both if not t.spec.is_dense], [t for t in both if t.spec.is_dense]

    def from_the_point_of(self, ticket: Finished) -> list[BarrierTarget]:
        """The dense trial of the ticket's seed, where it is finished, and the ticket; a new initialisation alone."""
        planned = self.dense_of(ticket.spec)
        target = BarrierTarget(trial=ticket, ticket=ticket, dense=planned.name if planned else None)
        is_elsewhere = ticket.spec.starts_over or (ticket.spec.given is not None and ticket.spec.given.masked)
        dense = None if is_elsewhere else self.finished(planned)  # it began with other weights
        return [replace(target, trial=dense), target] if dense else [target]

    def from_all_points(self, dense: Finished) -> list[BarrierTarget]:
        """The dense trial from wherever tickets beside it are rewound to. Raises `UserError` where there is none."""
        tickets = [spec for spec in self.specs.values() if spec.control == "none" and why_not(spec) is None]
        beside = [self.finished(spec) for spec in tickets if self.dense_of(spec) == dense.spec]
        targets = [
            BarrierTarget(trial=dense, ticket=ticket, dense=dense.name) for ticket in beside if ticket is not None
        ]
        if not targets:
            raise UserError(
                f"TRIAL {dense.name}: found no finished ticket rewound to a point of it; expected at least one, "
                "as the points that are looked at are those of the run's tickets"
            )
        return targets

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{plural(count, 'trial')} left out: {why}" for why, count in self.left_out.items())

    def _usable(self, spec: TrialSpec) -> Finished | None:
        reason = why_not(spec)
        if reason is not None:
            raise bad_value(
                "TRIAL", spec.name, "a ticket of imp or omp with weight_rewinding, or a dense trial", reason
            )
        return self.finished(spec)

    def _read(self, spec: TrialSpec) -> Finished | None:
        try:
            folder = self.store.find(self.store.trial(self.run, spec.name))
            record = read_record(self.store, folder) if folder is not None else None
        except Damaged as damage:
            raise UserError(f"{damage}; rerun the sweep's command to repair it") from damage
        if folder is None or record is None or record["status"] != "done":
            return None
        return Finished(spec=spec, folder=folder, record=record)
