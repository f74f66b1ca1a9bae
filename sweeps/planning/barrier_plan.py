"""What the analysis of barriers has to train, as a plan: copies of networks, or levels that are not stored. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from analysis.barriers.copies import BarrierJob
from analysis.barriers.ends import missing_ends
from analysis.barriers.paths import LadderJob
from lth_trainable.spec.segments import Segment
from lth_trainable.spec.trial_spec import DataKey
from sweeps.planning.plan import Facts, Node, Plan, PlannedTrial, make_plan

Job = BarrierJob | LadderJob


def plan_of(jobs: Sequence[Job]) -> tuple[Plan, dict[DataKey, Facts]]:
    """The plan of what these jobs lack, and the facts about its data. No trial of it belongs to a run."""
    copies = [trial for job in jobs if isinstance(job, BarrierJob) for trial in _copies(job)]
    if copies:
        nodes = tuple(trial.end for trial in copies)
        return Plan(trials=tuple(copies), nodes=nodes, mid_epoch_points={}, policy="none"), {}
    return _levels([job for job in jobs if isinstance(job, LadderJob)])


def _copies(job: BarrierJob) -> Iterable[PlannedTrial]:
    """A tree of one node for each copy: copies share no training."""
    target = job.target
    for order_seed in job.copies_left:
        task = job.task(order_seed)
        start, key = target.trial.spec.epochs - target.epochs, task.path.rpartition("/")[2]
        segment = Segment(
            kind="train", level=0, start=start, end=target.trial.spec.epochs, sparsity=Fraction(0), key=key, line=key
        )
        node = Node(
            key=key, parts=[(segment, segment.start, segment.end)], level=0, above=0, parent=None,
            epochs=segment.epochs,
        )  # fmt: skip
        trial = PlannedTrial(
            spec=target.trial.spec, name=f"{target.trial.name}-from{target.rewound_to}-order{order_seed}", key=task.key,
            chain=(segment,), end=node, rewind=None, mid_epoch_point=None, copy=task.as_json(),
        )  # fmt: skip
        node.trials.append(trial)
        yield trial


def _levels(jobs: Sequence[LadderJob]) -> tuple[Plan, dict[DataKey, Facts]]:
    """The trials that end where the missing levels end. Every level is stored, so none is trained twice."""
    missing = missing_ends(jobs[0].store, [job.left for job in jobs]) if jobs else []
    specs = {end.spec.name: end.spec for _, end in missing if end.spec is not None}
    facts = {ladder.ticket.spec.data_key: _facts(ladder.ticket.record["data"]) for ladder, _ in missing}
    return make_plan(specs.values(), facts, "levels"), facts


def _facts(data: Mapping[str, Any]) -> Facts:
    return Facts(digest=data["digest"], n_train=data["n_train"])
