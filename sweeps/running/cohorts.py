"""Which trials a Ray trial trains together, as a cohort, and what becomes of those whose worker has died."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.stacking.shape import stack_shape
from sweeps.planning.dispatch import Dispatcher, Shape
from sweeps.planning.plan import PlannedTrial
from sweeps.runs.ledger import Ledger

FEWER = 4  # times fewer trials are together in a cohort after each death of its worker but the first


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a trial is started in Ray.

    others: members of its cohort. attempt: how many Ray trials it had before, each with a folder of its own. recorded:
    whether its record is there, so that it is only to be listed in Ray's results. number: of the cohort.
    """

    others: tuple[PlannedTrial, ...] = ()
    attempt: int = 0
    recorded: bool = False
    number: int = 0


ALONE = Start()


def shapes_of(ledger: Ledger) -> Shape:
    """What says which trials can be trained as one."""

    @functools.cache
    def shape(spec: TrialSpec) -> Hashable | None:
        facts = ledger.facts.get(spec.data_key)
        return stack_shape(spec, in_memory=facts is None or facts.in_memory)

    return lambda trial: None if trial.copy is not None else shape(trial.spec)


class Cohorts:
    """Makes the cohorts of a launch. replicas: most members of one; 1: every trial trains alone. shape_of: see `Shape`.

    A worker that dies may have been killed from outside, or by one of its trials, and nobody knows which. So its trials
    go on in smaller cohorts from the second death on, at last alone: then it is known, and the others are done.
    """

    def __init__(self, replicas: int = 1, shape_of: Shape = lambda trial: None) -> None:
        self.replicas, self.shape_of = replicas, shape_of
        self.number = 0
        self.notes: list[str] = []
        self._unstackable: set[Hashable] = set()
        self._deaths: Counter[str] = Counter()
        self._begun: Counter[str] = Counter()

    def start(self, dispatcher: Dispatcher, trial: PlannedTrial) -> Start:
        """How to start this trial, with the others that train with it; the dispatcher takes note of them."""
        others: list[PlannedTrial] = []
        if self.replicas > 1 and trial.end.key not in dispatcher.stored:
            others = dispatcher.more_like(trial, self._most(trial) - 1, self._alike)
        self.number += bool(others)
        return Start(others=tuple(others), attempt=self._attempt(trial), number=self.number if others else 0)

    def list_only(self, trial: PlannedTrial) -> Start:
        """How to start a trial whose record is there."""
        return Start(recorded=True, attempt=self._attempt(trial))

    def lost(self, trial: PlannedTrial, reason: str) -> None:
        """A trial has ended because its cohort broke."""
        self._deaths[trial.name] += 1
        note = f"a cohort of trials broke, and they were handed out again ({reason or 'its worker died'})"
        if note not in self.notes:
            self.notes.append(note)

    def refuse(self, trial: PlannedTrial) -> None:
        """Networks of this trial's shape cannot be stacked: from here on they train alone, in all slots at once."""
        self._unstackable.add(self.shape_of(trial))

    def _attempt(self, trial: PlannedTrial) -> int:
        if self.replicas == 1:  # then the place on a GPU counts them
            return 0
        self._begun[trial.name] += 1
        return self._begun[trial.name] - 1

    def _most(self, trial: PlannedTrial) -> int:
        """Members of a cohort with this trial."""
        deaths = self._deaths[trial.name]
        return max(1, self.replicas // FEWER ** max(0, deaths - 1))

    def _alike(self, trial: PlannedTrial) -> Hashable | None:
        shape = self.shape_of(trial)
        return None if shape is None or shape in self._unstackable else (shape, self._most(trial))
