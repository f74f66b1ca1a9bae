"""Train copies of the networks of a run and measure the error on the line between them.

For `python -m analysis barrier RUN`. Every copy and line is stored below RUN/barriers as soon as it is finished:

    copies/<key>/    the weights of a trained copy
    lines/<key>/     the table rows of a line between two copies

The key is a hash of everything the content depends on. So a rerun repeats nothing, and a kill loses at most the copy
that was being trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from analysis.barriers.networks import about_line, line_rows
from analysis.barriers.stored import BETWEEN_COPIES, ROWS, is_sealed, read_line
from analysis.barriers.targets import BarrierTarget
from analysis.tables.schema import Row
from lth_trainable.errors import UserError, bad_value, too_large
from lth_trainable.spec.draft import MOST_SEED
from lth_trainable.spec.values import digest
from lth_trainable.store.store import Damaged, Store, to_json

if TYPE_CHECKING:  # torch takes seconds to import
    from lth_trainable.training.copy_task import CopyTask
    from lth_trainable.training.execution import Execution
    from lth_trainable.training.instability import Copy, Start

WEIGHTS = "weights.safetensors"
MOST_POINTS = 10_000  # networks on a line
Pair = tuple[int, int]


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
    def pairs(self) -> tuple[Pair, ...]:
        return tuple(itertools.combinations(sorted(self.order_seeds), 2))


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of the work. dense: starting points of dense trials. *_left: not stored yet. epochs, seconds: of the
    copies left."""

    tickets: int
    dense: int
    lines: int
    lines_left: int
    copies_left: int
    epochs: int
    seconds: float


def here(trial: str, trained_under: Mapping[str, Any], settings: Settings) -> tuple[Execution, dict[str, Any]]:
    """The execution on this machine that is like the one of a trial, and its fingerprint. Raises `UserError`."""
    from lth_trainable.training.execution import execution_like, fingerprint

    execution = execution_like(trained_under, settings.data_root)
    execution = replace(execution, device=settings.device or execution.device)
    try:
        return execution, fingerprint(execution)
    except UserError as error:
        raise UserError(f"{trial}: {error}; here: --device cpu") from error


class BarrierJob:
    """The copies of one network, and the lines between them."""

    def __init__(self, store: Store, run: str, target: BarrierTarget, settings: Settings) -> None:
        self.store, self.run, self.target, self.settings = store, run, target, settings
        self.ticket_fingerprint = target.ticket.record["fingerprint"]
        self.execution: Execution
        self.execution, self.fingerprint = here(target.trial.name, self.ticket_fingerprint, settings)

    # -- what is stored -----------------------------------------------------------------------------------------------

    def copy_path(self, order_seed: int) -> str:
        """Where a copy is stored; the key depends on trial, mask, start, order seed and fingerprint."""
        trial, ticket = self.target.trial, self.target.ticket
        mask = None if self.target.is_dense else ticket.record["sha256"]["masks"]
        identity = {
            "trial": trial.record["key"], "mask": mask, "start": self.target.state, "order_seed": order_seed,
            "fingerprint": self.fingerprint,
        }  # fmt: skip
        return f"{self.run}/barriers/copies/{digest(identity)}"

    def line_path(self, pair: Pair) -> str:
        ends = [self.copy_path(seed) for seed in pair]
        return BETWEEN_COPIES.path(self.run, digest({"ends": ends, "points": self.settings.n_points}))

    @property
    def lines_left(self) -> list[Pair]:
        return [pair for pair in self.settings.pairs if not is_sealed(self.store, self.line_path(pair))]

    @property
    def copies_left(self) -> list[int]:
        """Order seeds of the copies that still have to be trained for lines."""
        needed = {seed for pair in self.lines_left for seed in pair}
        return [seed for seed in sorted(needed) if not is_sealed(self.store, self.copy_path(seed))]

    @property
    def seconds_per_epoch(self) -> float:
        return median(row["seconds"] for row in self.target.ticket.record["epochs"])

    # -- work --------------------------------------------------------------------------------------------------------

    def do(self) -> list[Row]:
        """The rows of all lines; lines that are not stored are made first."""
        from lth_trainable.training.execution import prepared, release

        try:
            if not self.lines_left:
                return [row for pair in self.settings.pairs for row in self._line(pair)]
            with prepared(self.execution, self.target.trial.spec.precision):
                return [row for pair in self.settings.pairs for row in self._line(pair)]
        finally:
            self.__dict__.pop("start", None)  # frees the network and its data
            release(self.execution)

    @cached_property
    def start(self) -> Start:
        from lth_trainable.training.copy_task import start_of

        return start_of(self.store, self.task(self.settings.order_seeds[0]), self.execution)

    def task(self, order_seed: int) -> CopyTask:
        """The copy with this order seed, as a task for whichever process trains it."""
        from lth_trainable.training.copy_task import CopyTask

        target, execution = self.target, self.execution
        return CopyTask(
            path=self.copy_path(order_seed), trial=target.trial.name, key=target.trial.record["key"],
            spec=target.trial.spec.canonical(), state=target.state, trained_under=self.ticket_fingerprint,
            rewound_to=target.rewound_to, masked_by=None if target.is_dense else target.ticket.folder.path,
            order_seed=order_seed, fingerprint=self.fingerprint, device=execution.device, threads=execution.threads,
            deterministic=execution.deterministic, memory_format=execution.memory_format,
        )  # fmt: skip

    def _line(self, pair: Pair) -> list[Row]:
        path, given = self.line_path(pair), {"run": self.run}
        rows = read_line(self.store, path, BETWEEN_COPIES, given)
        if not rows:
            self._make_line(path, pair)
        return rows or read_line(self.store, path, BETWEEN_COPIES, given)

    def _make_line(self, path: str, pair: Pair) -> None:
        from lth_trainable.training.instability import BATCH_NORMS, SPLITS, alphas, errors_between

        a, b = (self._copy(seed) for seed in pair)
        points = self.settings.n_points
        curves: dict[tuple[str, str], Any] = dict.fromkeys(itertools.product(SPLITS, BATCH_NORMS))
        if not (a.diverged or b.diverged):
            curves = dict(errors_between(self.start, a.tensors, b.tensors, points))
        common = about_line(self.target, self.start.step, pair, self.fingerprint["device"])
        rows = line_rows(common, alphas(points), curves)
        about = {"kind": "line", "trial": self.target.trial.name, "copies": [self.copy_path(seed) for seed in pair]}
        self.store.seal(path, {ROWS: to_json(rows)}, about)

    def _copy(self, order_seed: int) -> Copy:
        from lth_trainable.training.copy_task import make_copy

        stored = self._stored_copy(self.copy_path(order_seed))
        return make_copy(self.store, self.task(order_seed), self.start) if stored is None else stored

    def _stored_copy(self, path: str) -> Copy | None:
        """The copy in a folder; None if it is missing, damaged, or of another network."""
        from lth_trainable.store.tensor_files import check_like, tensors_of
        from lth_trainable.training.instability import Copy

        try:
            folder = self.store.find(path)
            if folder is None:
                return None
            tensors = tensors_of(self.store, folder, WEIGHTS)
            if tensors:  # else it diverged
                check_like(folder, WEIGHTS, tensors, self.start.point.tensors)
        except Damaged:
            return None
        return Copy(tensors=tensors, evaluation=folder.manifest.get("evaluation", {}))


def cost_of(jobs: Sequence[BarrierJob]) -> Cost:
    """The cost of the jobs. Seconds are estimated from the median epoch of each ticket's own training."""
    left = [(job, len(job.copies_left)) for job in jobs]
    return Cost(
        tickets=sum(not job.target.is_dense for job in jobs), dense=sum(job.target.is_dense for job in jobs),
        lines=sum(len(job.settings.pairs) for job in jobs), lines_left=sum(len(job.lines_left) for job in jobs),
        copies_left=sum(count for _, count in left), epochs=sum(count * job.target.epochs for job, count in left),
        seconds=sum(count * job.target.epochs * job.seconds_per_epoch for job, count in left),
    )  # fmt: skip


def do_all(jobs: Sequence[BarrierJob], on_job: Callable[[], None]) -> list[Row]:
    """Do the jobs one after the other; returns their rows. on_job: called after each job."""
    rows: list[Row] = []
    for job in jobs:
        rows += job.do()
        on_job()
    return rows
