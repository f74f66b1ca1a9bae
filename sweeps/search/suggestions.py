"""Train the suggestions of a study: each as trials on all seeds, scored when they are done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from analysis.tables.suggestions import DIVERGED
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import DataKey, TrialSpec
from lth_trainable.store.store import Damaged
from sweeps.experiments.expand import expand
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import Facts, PlannedTrial, make_plan
from sweeps.running.progress import Board
from sweeps.runs.ledger import Ledger
from sweeps.search.axes import Range
from sweeps.search.searches import GRID, Search
from sweeps.search.study import Asked, Study

POLICY = "levels"  # which states are kept: all levels', since any later suggestion may continue from one
MOST_REFUSED = 200  # most suggestions in a row that are not valid trials
FactsOf = Callable[[TrialSpec], Facts]


@dataclass(kw_only=True)
class Suggestion:
    """A suggestion in training. stages: its trials by stage of successive halving (one without); stage: the current."""

    asked: Asked
    stages: list[list[TrialSpec]]
    stage: int = 0

    @property
    def trials(self) -> list[TrialSpec]:
        return self.stages[self.stage]


class Suggestions:
    """Asks the study for suggestions, adds their trials to the plan, and tells the study their results.

    A `Source` for the searcher. command: for the run's plan file. board: for the live view; None for no view. retry:
    train trials again that failed before.
    """

    def __init__(
        self, study: Study, search: Search, ledger: Ledger, facts_of: FactsOf, command: Sequence[str],
        board: Board | None = None, retry: bool = False,
    ) -> None:  # fmt: skip
        self.study, self.search, self.ledger, self.facts_of = study, search, ledger, facts_of
        self.board, self.command, self.retry = board, command, retry
        self.open: list[Suggestion] = []
        self.rank: dict[str, int] = {}
        self.specs: dict[TrialSpec, None] = {}
        self.facts: dict[DataKey, Facts] = {}
        self.notes: list[str] = []
        self._show()

    # -- called by the searcher ---------------------------------------------------------------------------------------

    def add_to(self, dispatcher: Dispatcher) -> bool:
        """Add one more suggestion, or the next stage of one. False if enough are open.

        With replicas, add all that can be trained at the same time, so that those of one shape make a cohort.
        """
        is_more = self._add_one(dispatcher)
        while is_more and dispatcher.replicas > 1 and self._add_one(dispatcher):
            pass
        return is_more

    def _add_one(self, dispatcher: Dispatcher) -> bool:
        if self._settle(dispatcher):
            return True
        if self._are_enough_open(dispatcher) or not (self.study.has_waiting or self._wants_more):
            return False
        suggestion = self._ask()
        self.open.append(suggestion)
        self._plan(suggestion, dispatcher)
        return True

    def _are_enough_open(self, dispatcher: Dispatcher) -> bool:
        """Whether as many suggestions are open as are trained at the same time: one a worker, or those of a cohort."""
        if dispatcher.replicas == 1:
            return len(self.open) >= dispatcher.slots
        together = max(1, dispatcher.replicas // len(self.search.sweep.seeds))
        return sum(not suggestion.asked.on_way for suggestion in self.open) >= together * dispatcher.slots

    def is_over(self, dispatcher: Dispatcher) -> bool:
        """Whether every suggestion is closed."""
        self._settle(dispatcher)
        return not (self.open or self.study.has_waiting or self._wants_more)

    @property
    def _wants_more(self) -> bool:
        if self.study.is_exhausted:
            return False
        new = sum(not suggestion.asked.on_way for suggestion in self.open)
        return self.study.n_told + new < self.search.suggestions

    # -- asking ------------------------------------------------------------------------------------------------------

    def _ask(self) -> Suggestion:
        for _ in range(MOST_REFUSED):
            asked = self.study.ask()
            try:
                suggestion = Suggestion(asked=asked, stages=self._stages(asked))
                for spec in suggestion.stages[-1]:
                    self.facts_of(spec)
                return suggestion
            except UserError as error:  # a combination that is not a valid trial: a rewind after the first prune, ...
                refusal = error
                self.study.fail(asked.number, str(error))
        raise UserError(f"search: {MOST_REFUSED} suggestions in a row were not valid trials; the last: {refusal}")

    def _stages(self, asked: Asked) -> list[list[TrialSpec]]:
        """The trials of a suggestion by stage: with successive halving up to a third, two thirds, ... of its levels."""
        sweep = replace(self.search.sweep, base={**self.search.sweep.base, **asked.point})
        whole = list(expand(sweep).trials)
        if self.search.reduction is None or asked.on_way:
            return [whole]
        ticket = next(spec for spec in whole if not spec.is_dense)
        if ticket.schedule != "imp":
            return [whole]
        levels, rungs = len(ticket.level_sparsities), self.search.rungs
        ends = [-(-levels * rung // rungs) for rung in range(1, rungs + 1)]
        return [[_at_level(spec, end) for spec in whole] for end in ends]

    def _plan(self, suggestion: Suggestion, dispatcher: Dispatcher) -> None:
        """Add the trials of its stage to the plan; to the plan file first, so that `storage gc` keeps their states."""
        new = [spec for spec in suggestion.trials if spec not in self.specs]
        for spec in new:
            self.specs[spec] = None
            self.rank.setdefault(spec.name, suggestion.asked.number)
            self.facts[spec.data_key] = self.facts_of(spec)
        plan = make_plan(self.specs, self.facts, POLICY)
        ledger = replace(
            self.ledger, plan=replace(plan, trials=tuple(t for t in plan.trials if t.spec in new)), facts=self.facts
        )
        ledger.write_plan(self.search.sweep, self.command)
        stock = ledger.take_stock(repair=True)
        self.notes += stock.reports
        dispatcher.done |= set(stock.done) | (set() if self.retry else set(stock.failed))
        dispatcher.extend(plan)
        if self.board is not None:
            self.board.planned = len(plan.trials)
            self.board.skipped += len(stock.done)
        keys = {trial.name: trial.key for trial in plan.trials}
        names = [spec.name for spec in suggestion.trials]
        self.study.note(suggestion.asked.number, trials=names, keys=[keys[name] for name in names])
        self._show()

    def rank_of(self, trial: PlannedTrial) -> int:
        """Trials of earlier suggestions first."""
        return self.rank[trial.name]

    # -- telling -----------------------------------------------------------------------------------------------------

    def _settle(self, dispatcher: Dispatcher) -> bool:
        """Close suggestions whose trials are done. Returns whether one of them continues with its next stage."""
        over = dispatcher.done - dispatcher.stopped
        for suggestion in [s for s in self.open if all(spec.name in over for spec in s.trials)]:
            if self._goes_on(suggestion):
                suggestion.stage += 1
                self._plan(suggestion, dispatcher)
                return True
            self.open.remove(suggestion)
            self._show()
        return False

    def _goes_on(self, suggestion: Suggestion) -> bool:
        number, records = suggestion.asked.number, {spec: self._record(spec) for spec in suggestion.trials}
        lost = sorted(spec.name for spec, record in records.items() if record is None)
        if lost:
            self.study.fail(number, f"without a result: {', '.join(lost)}")
            return False
        values = objectives(self.search, {spec: record for spec, record in records.items() if record is not None})
        self.study.note(number, **values)
        last = suggestion.stage + 1 == len(suggestion.stages)
        is_good = last or self.study.is_worth_going_on(number, suggestion.stage, values["accuracy"])
        if not last and is_good and not _has_diverged(records):
            return True
        if last:
            self._ask_on_way(suggestion)
            self.study.tell(number, {name: values[name] for name in self.search.objectives})
        else:
            self.study.stop(number)
        return False

    def _ask_on_way(self, suggestion: Suggestion) -> None:
        """Queue the less sparse levels of an iterative ticket: they are tickets of the search, too, trained already."""
        name, ticket = "target_sparsity_pct", next(spec for spec in suggestion.trials if not spec.is_dense)
        axis = self.search.axes.get(name)
        if ticket.schedule != "imp" or not isinstance(axis, Range) or suggestion.asked.on_way:
            return
        if self.search.sampler == GRID:  # they are none of its points
            return
        known = self.study.trained
        for level in range(len(ticket.level_sparsities) - 1, 0, -1):
            rung = _at_level(ticket, level)
            target = rung.target_sparsity_pct
            if target is not None and axis.low <= target <= axis.high and rung.name not in known:
                self.study.ask_on_way(suggestion.asked.number, {**suggestion.asked.point, name: target})

    def _record(self, spec: TrialSpec) -> dict[str, Any] | None:
        try:
            return self.ledger.read_record(spec.name)
        except Damaged:
            return None

    def _show(self) -> None:
        if self.board is not None:
            self.board.suggestions = (self.study.n_told, self.search.suggestions)


def objectives(search: Search, records: dict[TrialSpec, dict[str, Any]]) -> dict[str, float]:
    """The objectives of a suggestion, from the records of its trials: accuracy, sparsity and epochs.

    accuracy: on the validation split, mean over the tickets (0..1), or for a paired search the mean difference from the
    dense trial of the same seed (percentage points). A ticket that diverged counts as chance level. sparsity: measured,
    percent. epochs: that a ticket needs if trained alone.
    """
    tickets = [spec for spec in records if spec.control == "none"]
    accuracy = {spec: _accuracy(record) for spec, record in records.items()}
    if search.score == "paired":
        dense = {spec.seed: accuracy[spec] for spec in records if spec.is_dense and spec.epochs == tickets[0].epochs}
        score = fmean(100 * (accuracy[spec] - dense[spec.seed]) for spec in tickets)
    else:
        score = fmean(accuracy[spec] for spec in tickets)
    return {
        "accuracy": score, "sparsity": fmean(records[spec]["result"]["sparsity_pct"] for spec in tickets),
        "epochs": fmean(spec.epochs_alone() for spec in tickets),
    }  # fmt: skip


def _has_diverged(records: Mapping[TrialSpec, dict[str, Any] | None]) -> bool:
    """Whether a ticket diverged, so that more levels of it cannot be trained."""
    return any(
        record is not None and record["status"] == DIVERGED for spec, record in records.items() if not spec.is_dense
    )


def _accuracy(record: dict[str, Any]) -> float:
    accuracy = record["result"]["valid_accuracy"]
    return 1 / record["data"]["n_classes"] if accuracy is None else accuracy


def _at_level(spec: TrialSpec, level: int) -> TrialSpec:
    """The same trial, but ending at this level. A dense trial is returned unchanged."""
    if spec.is_dense:
        return spec
    return replace(spec, target_sparsity_pct=float(100 * spec.level_sparsities[level - 1]))
