"""What `python -m analysis barrier` does for one choice of networks: its jobs, their cost, and the table they fill."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from analysis.barriers.copies import BarrierJob, Cost, cost_of
from analysis.barriers.ends import LEVELS, Between, choose_ladders
from analysis.barriers.jobs import LineJob, Settings
from analysis.barriers.paths import KEEP_LEVELS, LadderJob, PathCost, only_possible, path_cost
from analysis.barriers.stored import BETWEEN_COPIES, BETWEEN_NETWORKS, Kind, given_by, write_lines
from analysis.barriers.targets import choose
from analysis.tables.run_plan import RunPlan, read_plan
from analysis.tables.schema import Row
from analysis.text import duration, plural
from lth_trainable.store.store import Store

WAYS = {"levels": "the ends of consecutive levels", "dense": "dense network and ticket"}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which networks of which run. names: trials and groups; seeds: of each group, if there are none."""

    store: Store
    run: str
    between: Literal["copies"] | Between
    names: Sequence[str]
    seeds: int
    settings: Settings

    @cached_property
    def plan(self) -> RunPlan:
        return read_plan(self.store, self.run)


class Work(ABC):
    """The lines of a choice.

    kind: where they are stored. jobs: they are done one after the other. cost: what they cost. notes: what was left
    out, and why.
    """

    kind: Kind
    choice: Choice
    jobs: Sequence[LineJob[Any]]
    cost: Cost | PathCost
    notes: tuple[str, ...]

    @property
    def n_jobs(self) -> int:
        """How often `do` calls back."""
        return len(self.jobs)

    @abstractmethod
    def cost_line(self) -> str:
        """The cost in words: networks, lines, networks to train, epochs, time."""

    def do(self, on_job: Callable[[], None]) -> list[Row]:
        """The rows of all lines; what is not stored is trained and measured first. on_job: called after each job."""
        rows: list[Row] = []
        for job in self.jobs:
            rows += job.do()
            on_job()
        return rows

    def write_table(self) -> None:
        """Write the table of all stored lines of this kind."""
        write_lines(self.choice.store, self.choice.run, self.choice.plan, self.kind)


class CopiesWork(Work):
    """Lines between copies of a network."""

    kind = BETWEEN_COPIES
    jobs: list[BarrierJob]
    cost: Cost

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        found = choose(choice.store, choice.run, choice.plan, choice.names, choice.seeds)
        self.notes = found.notes
        given = given_by(choice.run, choice.plan, self.kind)
        self.jobs = [BarrierJob(choice.store, target, choice.settings, given) for target in found.targets]
        self.cost = cost_of(self.jobs)

    def cost_line(self) -> str:
        cost = self.cost
        networks = f"{plural(cost.tickets, 'ticket')} and {plural(cost.dense, 'point')} of dense networks"
        lines = f"{plural(cost.lines, 'line')} of {self.choice.settings.n_points} points"
        trained = f"{plural(cost.copies_left, 'copy', 'copies')} to train"
        return f"{networks}: {lines}{_left(cost, trained)}"


class ConnectionsWork(Work):
    """Lines between trained networks of the run."""

    kind = BETWEEN_NETWORKS
    jobs: list[LadderJob]
    cost: PathCost

    def __init__(self, choice: Choice, between: Between) -> None:
        self.choice = choice
        found = choose_ladders(choice.store, choice.run, choice.plan, choice.names, choice.seeds, between)
        given = given_by(choice.run, choice.plan, self.kind)
        jobs = [LadderJob(choice.store, ladder, choice.settings, given) for ladder in found.ladders]
        self.jobs, notes = only_possible(jobs)
        self.cost = path_cost(choice.store, self.jobs)
        self.between = between
        self.notes = (*found.notes, *notes)
        if self.cost.networks_left:
            note = (
                f"the states of {plural(self.cost.networks_left, 'network')} of these lines are not stored, or are "
                "damaged; they are made again, by training from what is stored"
            )
            self.notes = (*self.notes, note + (f". A {KEEP_LEVELS}" if between == LEVELS else ""))

    def cost_line(self) -> str:
        cost = self.cost
        lines = f"{plural(cost.lines, 'line')} of {self.choice.settings.n_points} points"
        trained = f"{plural(cost.networks_left, 'network')} to train"
        return f"{plural(cost.tickets, 'ticket')}, {WAYS[self.between]}: {lines}{_left(cost, trained)}"


def work_of(choice: Choice) -> CopiesWork | ConnectionsWork:
    """The work of a choice. Nothing is written. Raises `UserError`."""
    return CopiesWork(choice) if choice.between == "copies" else ConnectionsWork(choice, choice.between)


def _left(cost: Cost | PathCost, trained: str) -> str:
    """What is left of it, in words."""
    if not cost.lines_left:
        return ", all of them stored"
    stored = f" ({cost.lines - cost.lines_left} of them stored)" if cost.lines_left < cost.lines else ""
    return f"{stored}; {trained}, {plural(cost.epochs, 'epoch')}, about {duration(math.ceil(cost.seconds))}"
