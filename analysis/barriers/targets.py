"""Choose the networks of a run whose barriers are measured, and the points of training where copies start."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.labels import group_name, replicate_fields
from analysis.tables.exclusions import read_exclusions, unknown_trial
from analysis.tables.run_plan import KEPT, RunPlan
from analysis.text import plural
from lth_trainable.errors import UserError, bad_value
from lth_trainable.pruning.controls import CONTROLS
from lth_trainable.spec.rewind_point import RewindPoint
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

    @property
    def steps_per_epoch(self) -> int:
        return -(-int(self.record["data"]["n_train"]) // self.spec.batch_size)


@dataclass(frozen=True, kw_only=True)
class BarrierTarget:
    """A network whose copies are trained.

    trial: the ticket (or control), or the dense trial beside it. ticket: the ticket whose rewind point is the start of
    both. dense: name of the dense trial of the same seed; None if the run has none.
    """

    trial: Finished
    ticket: Finished
    dense: str | None

    @property
    def is_dense(self) -> bool:
        return self.trial.spec.is_dense

    @property
    def rewind_point(self) -> RewindPoint:
        """The point of training where copies start."""
        spec = self.ticket.spec
        point = RewindPoint(epoch=0) if spec.starts_over else spec.rewind_point
        assert point is not None, "why_not refuses tickets that rewind no weights"
        return point

    @property
    def rewound_to(self) -> str:
        """The rewind point as it is stored: "1" for an epoch, "500it" for an iteration."""
        return str(self.rewind_point)

    @property
    def state(self) -> str:
        """Where the weights at the rewind point are stored."""
        states = self.ticket.folder.manifest["states"]
        return str(states["initial" if self.ticket.spec.starts_over else "rewind"])

    @property
    def epochs(self) -> int:
        """How many epochs a copy is trained. If it starts within an epoch, that epoch counts as one."""
        return self.ticket.spec.epochs - self.rewind_point.epoch_at(self.ticket.steps_per_epoch)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The targets, seed by seed, and notes about trials that were left out."""

    targets: tuple[BarrierTarget, ...]
    notes: tuple[str, ...]


def choose(store: Store, run: str, plan: RunPlan, names: Sequence[str], seeds: int) -> Targets:
    """Choose tickets, each with the dense trial of its seed from the same rewind point.

    names: trials, and groups of trials (all that are finished). Without names: the first `seeds` finished trials of
    each group of tickets, without controls. A dense trial that is named is measured from every rewind point of the
    tickets of its seed. Raises `UserError` for unknown names, for named trials that are not finished or have no rewind
    point, and if nothing is left.
    """
    trials = Trials(store, run, plan, why_not)
    tickets, dense = trials.named(names) if names else (trials.first(seeds), [])
    found = [target for ticket in tickets for target in trials.from_the_point_of(ticket)]
    found += [target for trial in dense for target in trials.from_all_points(trial)]
    if not found:
        reasons = "; ".join(trials.notes()) or "none is finished"
        raise UserError(f"{run}: found no ticket to measure ({reasons}); expected finished tickets of imp or omp")
    targets: dict[tuple[str, str], BarrierTarget] = {}
    for target in found:  # tickets of several sparsities share a dense network
        targets.setdefault((target.trial.name, target.rewound_to), target)
    order = {seed: number for number, seed in enumerate(dict.fromkeys(spec.seed for spec in trials.specs.values()))}
    by_seed = sorted(targets.values(), key=lambda t: (order[t.trial.spec.seed], not t.is_dense))
    return Targets(targets=tuple(by_seed), notes=() if names else trials.notes())


def why_not(spec: TrialSpec) -> str | None:
    """Why no barrier can be measured for a trial, in a few words; None if one can."""
    if spec.is_dense:
        return None
    if (reason := why_no_ticket(spec)) is not None:
        return reason
    if spec.control in CONTROLS and CONTROLS[spec.control].weights is not None:
        return f"{spec.control} starts from weights of its own, which are not stored"
    if spec.family == "fit":
        return f"{spec.schedule} prunes within one fit: optimiser and learning rate are not reset with the weights"
    if spec.retrain != "weight_rewinding" and not spec.starts_over:
        return f"{spec.retrain} rewinds no weights"
    return None


def why_no_ticket(spec: TrialSpec) -> str | None:
    """Why a trial other than a dense one ends with no network that was trained under a mask; None if it does."""
    if spec.restarts:
        return "dense_restarts prunes nothing"
    return "a supermask is not trained" if spec.reset_end else None


class Trials:
    """The planned trials of a run. Records are read when they are needed.

    why_not: why nothing can be measured for a trial, in a few words; None if it can. expected: trials for which it can.
    Raises `UserError` for kept results, which have no weights.
    """

    def __init__(
        self, store: Store, run: str, plan: RunPlan, why_not: Callable[[TrialSpec], str | None],
        expected: str = "a ticket of imp or omp with weight_rewinding, or a dense trial",
    ) -> None:  # fmt: skip
        if store.exists(f"{run}/{KEPT}"):
            raise UserError(
                f"{run}: found kept results ({KEPT}), which have no weights; expected the folder of the run that was "
                "trained; what was measured before they were kept is in their tables"
            )
        self.store, self.run, self.excluded = store, run, read_exclusions(store, run)
        self.why_not, self.expected = why_not, expected
        self.specs = {spec.name: spec for spec in (spec_from_dict(trial.spec) for trial in plan.trials)}
        self.replicate = replicate_fields(self.specs)
        self.found: dict[str, Finished | None] = {}
        self.left_out: Counter[str] = Counter()  # reason -> number of tickets

    def group(self, spec: TrialSpec) -> str:
        """The trial's name without the fields that make a replicate in this run."""
        return group_name(spec.name, self.replicate)

    def finished(self, spec: TrialSpec | None) -> Finished | None:
        """The finished trial; None if it is not finished, diverged or is excluded."""
        if spec is None or spec.name in self.excluded:
            return None
        if spec.name not in self.found:
            self.found[spec.name] = self._read(spec)
        return self.found[spec.name]

    def dense_of(self, ticket: TrialSpec) -> TrialSpec | None:
        """The dense trial that equals the ticket in every setting they share, including the number of epochs."""
        dense = (spec for spec in self.specs.values() if spec.is_dense and spec.seed == ticket.seed)
        return next((d for d in dense if replace(ticket, control="dense", layers=d.layers) == d), None)

    def first(self, seeds: int) -> list[Finished]:
        """The first finished trials (`seeds` of them) of each group of tickets."""
        chosen: dict[str, list[Finished]] = defaultdict(list)
        for spec in self.specs.values():
            if spec.control != "none" or len(chosen[self.group(spec)]) == seeds:
                continue
            reason = self.why_not(spec)
            trial = None if reason else self.finished(spec)
            if trial is None:
                self.left_out[reason or "not finished, or excluded"] += 1
            else:
                chosen[self.group(spec)].append(trial)
        return [trial for trials in chosen.values() for trial in trials]

    def named(self, names: Sequence[str]) -> tuple[list[Finished], list[Finished]]:
        """The tickets and the dense trials with these names. Raises `UserError`."""
        found: dict[str, Finished] = {}
        for name in names:
            members = [spec for spec in self.specs.values() if name in (spec.name, self.group(spec))]
            if not members:
                valid = {value for spec in self.specs.values() for value in (spec.name, self.group(spec))}
                raise unknown_trial("TRIAL", name, valid, "a trial of the run, or a group: a name without its seed")
            trials = [trial for spec in members if (trial := self._usable(spec)) is not None]
            if not trials:
                advice = "python -m sweeps.status says why"
                raise bad_value(f"TRIAL {name}", "none that is finished and not excluded", "at least one", advice)
            found |= {trial.name: trial for trial in trials}
        both = list(found.values())
        return [t for t in both if not t.spec.is_dense], [t for t in both if t.spec.is_dense]

    def from_the_point_of(self, ticket: Finished) -> list[BarrierTarget]:
        """The ticket, and before it the finished dense trial of its seed, unless they start from different weights."""
        planned = self.dense_of(ticket.spec)
        target = BarrierTarget(trial=ticket, ticket=ticket, dense=planned.name if planned else None)
        is_elsewhere = ticket.spec.starts_over or (ticket.spec.ticket_id is not None and ticket.spec.ticket_id.masked)
        dense = None if is_elsewhere else self.finished(planned)  # the dense trial starts from other weights
        return [replace(target, trial=dense), target] if dense else [target]

    def from_all_points(self, dense: Finished) -> list[BarrierTarget]:
        """The dense trial from every rewind point of the tickets beside it. Raises `UserError` if there is none."""
        tickets = [spec for spec in self.specs.values() if spec.control == "none" and why_not(spec) is None]
        beside = [self.finished(spec) for spec in tickets if self.dense_of(spec) == dense.spec]
        targets = [
            BarrierTarget(trial=dense, ticket=ticket, dense=dense.name) for ticket in beside if ticket is not None
        ]
        if not targets:
            raise UserError(
                f"TRIAL {dense.name}: found no finished ticket that is rewound to its training; expected at least one, "
                "as barriers are measured from the rewind points of tickets"
            )
        return targets

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{plural(count, 'trial')} left out: {why}" for why, count in self.left_out.items())

    def _usable(self, spec: TrialSpec) -> Finished | None:
        reason = self.why_not(spec)
        if reason is not None:
            raise bad_value("TRIAL", spec.name, self.expected, reason)
        return self.finished(spec)

    def _read(self, spec: TrialSpec) -> Finished | None:
        try:
            folder = self.store.find(self.store.trial(self.run, spec.name))
            record = read_record(self.store, folder) if folder is not None else None
        except Damaged as damage:
            raise UserError(f"{damage}; rerun the sweep's command to repair it") from damage
        if folder is None or record is None or record["status"] != "done":
            return None
        if not folder.manifest["states"]:
            raise UserError(
                f"{folder.path}: found a record without weights, as an unpacked archive has it; expected the folder of "
                "the run that was trained"
            )
        return Finished(spec=spec, folder=folder, record=record)
