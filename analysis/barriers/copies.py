"""Train copies of the networks of a run and measure the error on the line between them.

For `python -m analysis barrier RUN`. Every copy and line is stored below RUN/barriers as soon as it is finished:

    copies/<key>/    the weights of a trained copy
    lines/<key>/     the table rows of a line between two copies

The key is a hash of everything the content depends on. So a rerun repeats nothing, and a kill loses at most the copy
that was being trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from analysis.barriers.networks import DONE, about_line, line_rows
from analysis.barriers.targets import BarrierTarget
from analysis.tables import schema
from analysis.tables.index import write_noted
from analysis.tables.run_plan import RunPlan
from analysis.tables.schema import Row
from lth_trainable.errors import UserError, bad_value, too_large
from lth_trainable.spec.draft import MOST_SEED
from lth_trainable.spec.values import digest
from lth_trainable.store.json_files import from_json
from lth_trainable.store.layout import Odd, readable
from lth_trainable.store.store import Damaged, Store, to_json
from lth_trainable.store.trials import load_masks

if TYPE_CHECKING:  # torch takes seconds to import
    from lth_trainable.training.execution import Execution
    from lth_trainable.training.instability import Copy, Start

MEASURED = {"error_a_pct", "error_b_pct", "error_max_pct", "at_max", "barrier_pp", "stable", "errors_pct"}
WEIGHTS, ROWS = "weights.safetensors", "rows.json"
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


class BarrierJob:
    """The copies of one network, and the lines between them."""

    def __init__(self, store: Store, run: str, target: BarrierTarget, settings: Settings) -> None:
        from lth_trainable.training.execution import execution_like

        self.store, self.run, self.target, self.settings = store, run, target, settings
        self.ticket_fingerprint = target.ticket.record["fingerprint"]
        execution = execution_like(self.ticket_fingerprint, settings.data_root)
        self.execution: Execution = replace(execution, device=settings.device or execution.device)
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> dict[str, Any]:
        from lth_trainable.training.execution import fingerprint

        try:
            return fingerprint(self.execution)
        except UserError as error:
            raise UserError(f"{self.target.trial.name}: {error}; here: --device cpu") from error

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
        return f"{self.run}/barriers/lines/{digest({'ends': ends, 'points': self.settings.n_points})}"

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
        from lth_trainable.data.datasets import load_dataset
        from lth_trainable.training.instability import start_at

        target, spec = self.target, self.target.trial.spec
        data = load_dataset(spec.dataset, self.execution.data_root, spec.split_seed, spec.image_size)
        if spec.key(data.digest) != target.trial.record["key"]:
            raise UserError(
                f"{target.trial.name}: its data, or its plug-in code, is not what it was trained with; expected the "
                "same; restore it, or rerun the sweep under another --name"
            )
        levels = {} if target.is_dense else load_masks(self.store, target.ticket.folder)
        return start_at(
            spec, data, self.execution, store=self.store, state=target.state, fingerprint=self.ticket_fingerprint,
            rewound_to=target.rewind_point, masks=levels[max(levels)] if levels else {},
        )  # fmt: skip

    def _line(self, pair: Pair) -> list[Row]:
        path = self.line_path(pair)
        rows = read_line(self.store, self.run, path)
        if not rows:
            self._make_line(path, pair)
        return rows or read_line(self.store, self.run, path)

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
        from lth_trainable.training.instability import pack_tensors, train_copy

        path = self.copy_path(order_seed)
        stored = self._stored_copy(path)
        if stored is not None:
            return stored
        copy = train_copy(self.start, order_seed)
        about = {
            "kind": "copy", "trial": self.target.trial.name, "key": self.target.trial.record["key"],
            "start": self.target.state, "rewound_to": self.target.rewound_to, "order_seed": order_seed,
            "fingerprint": self.fingerprint, "evaluation": dict(copy.evaluation),
        }  # fmt: skip
        self.store.seal(path, {WEIGHTS: pack_tensors(copy.tensors)}, about)
        return copy

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


def write_barriers(store: Store, run: str, plan: RunPlan) -> None:
    """Write RUN/analysis/barriers.parquet from all stored lines of the trials in the plan."""
    order = {trial.name: number for number, trial in enumerate(plan.trials)}
    keys = {(trial.name, trial.key) for trial in plan.trials}
    paths = (f"{run}/barriers/lines/{name}" for name in store.folders(f"{run}/barriers/lines"))
    lines = [read_line(store, run, path) for path in paths]
    current = [rows for rows in lines if rows and (rows[0]["trial"], rows[0]["key"]) in keys]
    columns = ("rewound_to_step", "order_seed_a", "order_seed_b", "n_points", "device")
    current.sort(key=lambda rows: (order[rows[0]["trial"]], *(rows[0][name] for name in columns)))
    write_noted(store, run, "barriers", schema.table("barriers", (row for rows in current for row in rows)))


def read_line(store: Store, run: str, path: str) -> list[Row]:
    """The rows of a stored line; empty if it is missing or damaged."""
    content = read(store, path, ROWS)
    if content is None:
        return []
    try:
        with readable(ROWS):
            rows: list[Row] = [{"run": run, **row} for row in from_json(content)]
            schema.table("barriers", rows)  # raises if a value has another type
            return rows if all(map(_is_whole, rows)) else []
    except Odd:
        return []


def _is_whole(row: Row) -> bool:
    """Whether a row has a value in every column that must have one."""
    missing = {field.name for field in schema.TABLES["barriers"] if not field.nullable and row.get(field.name) is None}
    needed = set(schema.TABLES["barriers"].names) - (MEASURED if row.get("status") != DONE else set())
    return not missing and needed <= row.keys()


def is_sealed(store: Store, path: str) -> bool:
    """Whether the folder exists and is complete, judging by the sizes of its files."""
    try:
        return store.find(path) is not None
    except Damaged:
        return False


def read(store: Store, path: str, name: str) -> bytes | None:
    """The content of a file in a sealed folder; None if it is missing or damaged."""
    try:
        folder = store.find(path)
        return store.content(folder, name) if folder is not None else None
    except Damaged:
        return None
