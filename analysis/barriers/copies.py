"""Train copies of the networks of a run and measure the error on the line between them.

For `python -m analysis barrier RUN`. Every copy and line is stored below RUN/barriers as soon as it is finished:

    copies/<key>/    the weights of a trained copy
    lines/<key>/     the table rows of a line between two copies

The key is a hash of everything the content depends on. So a rerun repeats nothing, and a kill loses at most the copy
that was being trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.barriers.jobs import LineJob, SeedPair, Settings
from analysis.barriers.networks import about_line, line_rows
from analysis.barriers.stored import BETWEEN_COPIES, ROWS, Given, is_sealed, unseal
from analysis.barriers.targets import BarrierTarget
from lth_trainable.spec.values import digest
from lth_trainable.store.store import WEIGHTS, Damaged, Store, to_json

if TYPE_CHECKING:  # torch takes seconds to import
    from lth_trainable.training.copy_task import CopyTask
    from lth_trainable.training.instability import Copy, Start


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


class BarrierJob(LineJob[SeedPair]):
    """The copies of one network, and the lines between them."""

    kind = BETWEEN_COPIES

    def __init__(self, store: Store, target: BarrierTarget, settings: Settings, given: Given) -> None:
        super().__init__(store, target.trial, target.ticket, settings, given)
        self.target = target

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

    @property
    def pairs(self) -> Sequence[SeedPair]:
        return self.settings.pairs

    def path(self, pair: SeedPair) -> str:
        ends = [self.copy_path(seed) for seed in pair]
        return self.kind.path(self.run, digest({"ends": ends, "points": self.settings.n_points}))

    @property
    def copies_left(self) -> list[int]:
        """Order seeds of the copies that still have to be trained for lines."""
        needed = {seed for pair in self.pairs_left for seed in pair}
        return [seed for seed in sorted(needed) if not is_sealed(self.store, self.copy_path(seed))]

    # -- work --------------------------------------------------------------------------------------------------------

    def _load(self) -> Start:
        from lth_trainable.training.copy_task import start_of

        return start_of(self.store, self.task(self.settings.order_seeds[0]), self.execution)

    def task(self, order_seed: int) -> CopyTask:
        """The copy with this order seed, as a task for whichever process trains it."""
        from lth_trainable.training.copy_task import CopyTask

        target, execution = self.target, self.execution
        return CopyTask(
            path=self.copy_path(order_seed), trial=target.trial.name, key=target.trial.record["key"],
            spec=target.trial.spec.canonical(), state=target.state, trained_under=self.trained_under,
            rewound_to=target.rewound_to, masked_by=None if target.is_dense else target.ticket.folder.path,
            order_seed=order_seed, fingerprint=self.fingerprint, device=execution.device, threads=execution.threads,
            deterministic=execution.deterministic, memory_format=execution.memory_format,
            compile=execution.compile, replicas=execution.replicas,
        )  # fmt: skip

    def _measure(self, path: str, pair: SeedPair) -> None:
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
            unseal(self.store, path)
            return None
        return Copy(tensors=tensors, evaluation=folder.manifest.get("evaluation", {}))


def cost_of(jobs: Sequence[BarrierJob]) -> Cost:
    """The cost of the jobs. Seconds are estimated from the median epoch of each ticket's own training."""
    left = [(job, len(job.copies_left)) for job in jobs]
    return Cost(
        tickets=sum(not job.target.is_dense for job in jobs), dense=sum(job.target.is_dense for job in jobs),
        lines=sum(len(job.pairs) for job in jobs), lines_left=sum(len(job.pairs_left) for job in jobs),
        copies_left=sum(count for _, count in left), epochs=sum(count * job.target.epochs for job, count in left),
        seconds=sum(count * job.target.epochs * job.seconds_per_epoch for job, count in left),
    )  # fmt: skip
