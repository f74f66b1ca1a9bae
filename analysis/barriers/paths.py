"""Measure the error on the line between two trained networks of a run (`ends.py`); networks not stored are trained.

Every line is stored below RUN/barriers/connections as soon as it is finished, named by its ends, its points
and what they are between. A network that is trained for it is stored among the states, where a sweep would store it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from analysis.barriers.ends import DENSE, LEVELS, Between, End, Ladder, Pair, missing_ends
from analysis.barriers.jobs import LineJob, Settings
from analysis.barriers.networks import barrier_between
from analysis.barriers.stored import BETWEEN_NETWORKS, ROWS, Given
from analysis.labels import group_name, ladder_name
from analysis.tables.schema import Row
from analysis.text import plural
from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.spec.values import digest
from lth_trainable.store.store import Damaged, Store, to_json

if TYPE_CHECKING:  # torch takes seconds to import
    from lth_trainable.training.instability import Start

KEEP_LEVELS = "sweep with --keep-states levels stores the end of every level"
LOST: dict[Between, str] = {LEVELS: f"a {KEEP_LEVELS}", DENSE: "rerun the sweep's command where it ran"}  # what helps


@dataclass(frozen=True, kw_only=True)
class PathCost:
    """The cost of the work. *_left: not stored yet. epochs, seconds: of the networks that have to be trained."""

    tickets: int
    lines: int
    lines_left: int
    networks_left: int
    epochs: int
    seconds: float


class LadderJob(LineJob[Pair]):
    """The lines of one ticket."""

    kind = BETWEEN_NETWORKS

    def __init__(self, store: Store, ladder: Ladder, settings: Settings, given: Given) -> None:
        super().__init__(store, ladder.ticket, ladder.ticket, settings, given)
        self.ladder = ladder

    @property
    def pairs(self) -> Sequence[Pair]:
        return self.ladder.pairs

    def path(self, pair: Pair) -> str:
        """Where a line is stored; the states' folders name their keys and fingerprints."""
        ends, between = [pair.a.state, pair.b.state], self.ladder.between
        return self.kind.path(self.run, digest({"ends": ends, "between": between, "points": self.settings.n_points}))

    @property
    def left(self) -> Ladder:
        """The ladder with only those pairs whose lines are not stored."""
        return replace(self.ladder, pairs=tuple(self.pairs_left))

    def why_not_trainable(self, end: End) -> str | None:
        """Why a network that is not stored cannot be trained again here; None if it can."""
        if end.spec is None:
            return "no sparsity of two decimals names its level"
        if self.fingerprint != self.trained_under:
            differ = [name for name, value in self.trained_under.items() if self.fingerprint.get(name) != value]
            return f"it would not be the same network: {', '.join(differ)} differ here"
        return None

    def only_possible(self) -> tuple[LadderJob | None, list[str]]:
        """The job without the lines that cannot be measured here, and why they cannot."""
        missing = {end.state: self.why_not_trainable(end) for _, end in missing_ends(self.store, [self.left])}
        reasons = {state: why for state, why in missing.items() if why is not None}
        lost = [pair for pair in self.pairs_left if {pair.a.state, pair.b.state} & reasons.keys()]
        kept = tuple(pair for pair in self.ladder.pairs if pair not in lost)
        whys = [next(reasons[end.state] for end in (p.a, p.b) if end.state in reasons) for p in lost]
        job = LadderJob(self.store, replace(self.ladder, pairs=kept), self.settings, self.given) if kept else None
        return job, whys

    # -- work --------------------------------------------------------------------------------------------------------

    def do(self) -> list[Row]:
        for _, end in missing_ends(self.store, [self.left]):
            self._train(end)
        return super().do()

    def _train(self, end: End) -> None:
        from lth_trainable.training.run import train_state

        assert end.spec is not None, "only_possible leaves such pairs out"
        train_state(end.spec, self.store, self.execution)

    def _load(self) -> Start:
        from lth_trainable.training.copy_task import check_same
        from lth_trainable.training.instability import network_of

        spec, record = self.ladder.ticket.spec, self.ladder.ticket.record
        data = load_dataset(spec.dataset, self.execution.data_root, spec.split_seed, spec.image_size)
        check_same(spec, data.digest, record["key"])
        return network_of(spec, data, self.execution)

    def _measure(self, path: str, pair: Pair) -> None:
        from lth_trainable.training.instability import alphas, errors_between

        a, b = (self._tensors(end) for end in (pair.a, pair.b))
        points = self.settings.n_points
        curves = errors_between(self.start, a, b, points)
        common = about_pair(self.ladder, pair, self.fingerprint["device"])
        rows = [
            {
                **common, "part": part, "batch_norm": kind, "n_points": points, "alphas": list(alphas(points)),
                "errors_pct": list(errors), **barrier_between(errors, alphas(points)),
            }
            for (part, kind), errors in curves.items()
        ]  # fmt: skip
        self.store.seal(path, {ROWS: to_json(rows)}, {"kind": "connection", "trial": self.ladder.ticket.name})

    def _tensors(self, end: End) -> Any:
        """The network at an end; trained again if its file is damaged."""
        from lth_trainable.training.instability import stored_tensors

        try:
            return stored_tensors(self.store, end.state, self.start)
        except Damaged as damage:
            why = self.why_not_trainable(end)
            if why is not None:
                raise UserError(f"{damage}; it cannot be trained again here ({why}); restore it") from damage
            self._train(end)
            return stored_tensors(self.store, end.state, self.start)


def about_pair(ladder: Ladder, pair: Pair, device: str) -> Row:
    """The columns that all rows of a line share, except those that come from the run."""
    ticket = ladder.ticket
    return {
        "trial": ticket.name, "group": group_name(ticket.name), "ladder": ladder_name(ticket.name),
        "key": ticket.record["key"], "seed": ticket.spec.seed, "between": ladder.between,
        "level_a": pair.a.level, "level_b": pair.b.level, "sparsity_a_pct": pair.a.sparsity_pct,
        "sparsity_b_pct": pair.b.sparsity_pct, "state_a": pair.a.state, "state_b": pair.b.state, "device": device,
    }  # fmt: skip


def only_possible(jobs: Sequence[LadderJob]) -> tuple[list[LadderJob], list[str]]:
    """The jobs without lines that cannot be measured here, and notes that say why and what to do.

    Raises `UserError` if nothing is left.
    """
    found = [job.only_possible() for job in jobs]
    reasons = [(why, LOST[job.ladder.between]) for job, (_, whys) in zip(jobs, found, strict=True) for why in whys]
    notes = [
        f"{plural(reasons.count((why, advice)), 'line')} left out: a network at an end is not stored ({why}); {advice}"
        for why, advice in dict.fromkeys(reasons)
    ]
    kept = [job for job, _ in found if job is not None]
    if not kept:
        raise UserError(f"{jobs[0].run}: found no line that can be measured; {'; '.join(notes)}")
    return kept, notes


def path_cost(store: Store, jobs: Sequence[LadderJob]) -> PathCost:
    """The cost of the jobs. Seconds are estimated from the median epoch of each ticket's own training."""
    by_ticket = {id(job.ladder.ticket): job for job in jobs}
    missing = missing_ends(store, [job.left for job in jobs])
    epochs = [(by_ticket[id(ladder.ticket)], _epochs_of(end)) for ladder, end in missing]
    return PathCost(
        tickets=len(jobs), lines=sum(len(job.ladder.pairs) for job in jobs),
        lines_left=sum(len(job.pairs_left) for job in jobs), networks_left=len(missing),
        epochs=sum(n for _, n in epochs), seconds=sum(n * job.seconds_per_epoch for job, n in epochs),
    )  # fmt: skip


def _epochs_of(end: End) -> int:
    """Epochs of the last level of a trial, which are all that is left if the level before is stored."""
    spec = end.spec
    if spec is None or end.level == 0 or spec.retrain != "weight_rewinding":
        return spec.epochs if spec is not None else 0
    return spec.epochs - (spec.rewind_epoch or 0)
