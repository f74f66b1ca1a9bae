"""What all lines have in common: how they are measured, and a job, which is all lines of one network.

A line is stored below RUN/barriers as soon as it is finished, so a rerun repeats nothing.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from analysis.barriers.stored import Given, Kind, is_sealed, read_line, unseal
from analysis.barriers.targets import Finished
from analysis.tables.schema import Row
from lth_trainable.errors import UserError, bad_value, too_large
from lth_trainable.spec.draft import MOST_SEED
from lth_trainable.store.store import Store

if TYPE_CHECKING:  # torch takes seconds to import
    from lth_trainable.training.execution import Execution
    from lth_trainable.training.instability import Start

MOST_POINTS = 10_000  # networks on a line
SeedPair = tuple[int, int]
Ends = TypeVar("Ends")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How lines are measured. order_seeds: one copy each; every pair gives a line. n_points: networks on a line.

    The default order seeds are not those of a sweep: a mask was found with the data order of its trial, so that order
    would not be independent of it. device: "cpu" or "cuda"; None for the device of the trial.
    """

    order_seeds: tuple[int, ...] = (1001, 1002)
    n_points: int = 30
    data_root: Path | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if len(set(self.order_seeds)) < len(self.order_seeds) or len(self.order_seeds) < 2 or min(self.order_seeds) < 0:
            raise bad_value("order-seeds", list(self.order_seeds), "two or more different whole numbers of at least 0")
        if max(self.order_seeds) > MOST_SEED:
            raise too_large("order-seeds", max(self.order_seeds), MOST_SEED)
        if self.n_points < 3:
            raise bad_value("points", self.n_points, "at least 3: the two ends and one between them")
        if self.n_points > MOST_POINTS:
            raise too_large("points", self.n_points, MOST_POINTS)

    @property
    def pairs(self) -> tuple[SeedPair, ...]:
        return tuple(itertools.combinations(sorted(self.order_seeds), 2))


class LineJob(ABC, Generic[Ends]):
    """The lines of one network. Ends: what names the two ends of a line.

    kind: where lines are stored. trial: the trial on whose data and network they are measured. ticket: the trial that
    stored the states they start from. given: what their rows have from the run.
    """

    kind: Kind

    def __init__(self, store: Store, trial: Finished, ticket: Finished, settings: Settings, given: Given) -> None:
        self.store, self.trial, self.ticket, self.settings, self.given = store, trial, ticket, settings, given
        self.trained_under: Mapping[str, Any] = ticket.record["fingerprint"]
        self.execution: Execution
        self.execution, self.fingerprint = here(trial, self.trained_under, settings.data_root, settings.device)

    @property
    def run(self) -> str:
        return self.given.run

    @property
    @abstractmethod
    def pairs(self) -> Sequence[Ends]:
        """The ends of each line."""

    @abstractmethod
    def path(self, pair: Ends) -> str:
        """Where a line is stored; the name is a hash of everything that its content depends on."""

    @property
    def pairs_left(self) -> list[Ends]:
        """The ends of the lines that are not stored."""
        return [pair for pair in self.pairs if not is_sealed(self.store, self.path(pair))]

    @property
    def seconds_per_epoch(self) -> float:
        return median(row["seconds"] for row in self.ticket.record["epochs"])

    # -- work --------------------------------------------------------------------------------------------------------

    def do(self) -> list[Row]:
        """The rows of all lines; lines that are not stored are measured first, and networks trained for them."""
        from lth_trainable.training.execution import release

        try:
            return [row for pair in self.pairs for row in self._line(pair)]
        finally:
            self.__dict__.pop("start", None)  # frees the network and its data
            release(self.execution)

    @cached_property
    def start(self) -> Start:
        """The network and its data."""
        return self._load()

    def _line(self, pair: Ends) -> list[Row]:
        from lth_trainable.training.execution import prepared

        path = self.path(pair)
        rows = read_line(self.store, path, self.kind, self.given)
        if rows:
            return rows
        unseal(self.store, path)
        with prepared(self.execution, self.trial.spec.precision):
            self._measure(path, pair)
        return read_line(self.store, path, self.kind, self.given)

    @abstractmethod
    def _load(self) -> Start:
        """Load the network and its data."""

    @abstractmethod
    def _measure(self, path: str, pair: Ends) -> None:
        """Measure a line and store it; networks at its ends that are not stored are trained."""


def here(
    trial: Finished, trained_under: Mapping[str, Any], data_root: Path | None, device: str | None
) -> tuple[Execution, dict[str, Any]]:
    """The execution on this machine that is like the one of a trial, and the trial's fingerprint there.

    device: None for the kind of device that trained it. Raises `UserError`.
    """
    from lth_trainable.training.execution import execution_like, fingerprint

    execution = execution_like(trained_under, data_root)
    execution = replace(execution, device=device or execution.device)
    try:
        return execution, fingerprint(execution, trial.spec)
    except UserError as error:
        raise UserError(f"{trial.name}: {error}; here: --device cpu") from error
