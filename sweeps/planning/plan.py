"""Turn TrialSpecs into a Plan: a tree of all their training in which each distinct piece occurs once. Pure; no Ray.

A node is a piece of training that ends in a stored state: where chains of training branch, where a trial ends, or where
a ticket will be rewound to. A trial is the path from a root to the node in which it ends. Two trials share a node iff
their state keys there are equal, so whichever trial trains the node trains it for both.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lth_trainable.spec.segments import Segment, rewind_key, segments
from lth_trainable.spec.trial_spec import DataKey, TrialSpec

KEEP_STATES = ("needed", "levels", "none")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a plan must know about a data set: its digest and its number of training images.

    in_memory: whether its images are; those of a user's own loaders are not.
    """

    digest: str
    n_train: int
    in_memory: bool = True

    def steps_of(self, spec: TrialSpec) -> int:
        """Optimiser steps in an epoch of this trial."""
        return -(-self.n_train // spec.batch_size)


@dataclass(kw_only=True, eq=False)
class Node:
    """A piece of training and the state in which it ends.

    key: of that state. parts: segment, first epoch and end of each part, in order; more than one if the node spans
    levels whose states no trial needs. level: of the last part. above: epochs of the nodes before it on its chain.
    trials: those that end here. waits_for: the node whose state is needed for the rewind at the start of this node.
    """

    key: str
    parts: list[tuple[Segment, int, int]]
    level: int
    above: int
    parent: Node | None
    epochs: int
    children: list[Node] = field(default_factory=list)
    trials: list[PlannedTrial] = field(default_factory=list)
    waits_for: Node | None = None

    def path(self) -> list[Node]:
        """The nodes from the root to this one."""
        nodes: list[Node] = []
        node: Node | None = self
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class MidEpochPoint:
    """A rewind point within an epoch of the dense network.

    key: of its state. line: the dense training. node: the one that contains it. epochs_done, epochs_started: how many
    epochs have ended, and how many have started, when training reaches it.
    """

    key: str
    line: Segment
    node: Node
    epochs_done: int
    epochs_started: int

    def epochs_to_retrain(self, nodes: Collection[Node], stored: Collection[str]) -> int:
        """Epochs to train again to get its state, if `nodes` are trained anyway; none if they pass it."""
        end = self.node.above + self.node.epochs
        is_passed = any(self.line.key_at(epoch) in stored for epoch in range(self.epochs_done + 1, end + 1))
        if self.key in stored or (self.node in nodes and not is_passed):
            return 0
        before = (epoch for epoch in range(self.epochs_done, 0, -1) if self.line.key_at(epoch) in stored)
        return self.epochs_started - next(before, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class PlannedTrial:
    """A trial and its path in the tree.

    key: its identity. end: the node in which it ends. rewind, mid_epoch_point: where its rewinds return to, if it has
    any: the end of a node, or a point within an epoch. copy: the task of a copy for the analysis of barriers, which is
    stored there and has no record; None for a trial of a run.
    """

    spec: TrialSpec
    name: str
    key: str
    chain: tuple[Segment, ...]
    end: Node
    rewind: Node | None
    mid_epoch_point: MidEpochPoint | None
    copy: Mapping[str, Any] | None = None

    @property
    def is_end_of_node(self) -> bool:
        """Whether the trial ends with the state of its last node; a supermask still resets its weights after it."""
        return self.chain[-1].key == self.end.key


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The trials of a sweep as a tree.

    mid_epoch_points: by node key, the rewind points within its epochs: state key by iteration. policy: which states are
    stored, one of `KEEP_STATES`.
    """

    trials: tuple[PlannedTrial, ...]
    nodes: tuple[Node, ...]
    mid_epoch_points: Mapping[str, Mapping[int, str]]
    policy: str

    @property
    def roots(self) -> list[Node]:
        return [node for node in self.nodes if node.parent is None]

    @property
    def epochs_requested(self) -> int:
        """Epochs of all trials if each were trained alone."""
        return sum(trial.end.above + trial.end.epochs for trial in self.trials)

    @property
    def epochs_distinct(self) -> int:
        """Epochs of the whole tree: the cost of the sweep, with each piece trained once."""
        return sum(node.epochs for node in self.nodes)

    def for_seeds(self, seeds: Collection[int]) -> Plan:
        """The plan of the trials with these seeds, exactly as `make_plan` makes it: no two seeds share training."""
        trials = tuple(trial for trial in self.trials if trial.spec.seed in seeds)
        kept = {id(node) for trial in trials for node in trial.end.path()}
        nodes = tuple(node for node in self.nodes if id(node) in kept)
        keys = {node.key for node in nodes}
        points = {key: found for key, found in self.mid_epoch_points.items() if key in keys}
        return replace(self, trials=trials, nodes=nodes, mid_epoch_points=points)

    def by_key(self) -> dict[str, Node]:
        return {node.key: node for node in self.nodes}

    def keep(self, trial: PlannedTrial) -> dict[str, bool]:
        """Keys of the states that the trial must store; True if a trial ends there, so that it is evaluated too."""
        if self.policy == "none":
            return {}
        keys = {node.key: any(other.is_end_of_node for other in node.trials) for node in trial.end.path()}
        if self.policy == "levels":
            keys = {segment.key: False for segment in trial.chain if segment.kind == "train"} | keys
        return keys

    def rewind_steps(self, trial: PlannedTrial) -> dict[int, str]:
        """Rewind points within an epoch that the trial passes, its own or of others: state key by iteration."""
        if self.policy == "none":
            return {}
        return {step: key for node in trial.end.path() for step, key in self.mid_epoch_points.get(node.key, {}).items()}


def make_plan(specs: Iterable[TrialSpec], facts: Mapping[DataKey, Facts], policy: str = "needed") -> Plan:
    """The plan of these trials.

    facts: by `TrialSpec.data_key`. policy: which states are stored; with "none" nothing is shared, and every trial is
    its own tree.
    """
    drafts = [_Draft.of(spec, facts[spec.data_key]) for spec in specs]
    cuts = _cuts(drafts)
    mid_epoch_points: dict[str, dict[int, str]] = defaultdict(dict)
    tree = _Tree(policy)
    for draft in drafts:
        tree.add(draft, cuts)
    nodes, trials = tree.nodes(), []
    for draft in drafts:
        end, rewind = tree.ends_of(draft)
        point = draft.mid_epoch_point(end)
        trial = PlannedTrial(
            spec=draft.spec, name=draft.spec.name, key=draft.spec.key(draft.digest), chain=draft.chain, end=end,
            rewind=rewind, mid_epoch_point=point,
        )  # fmt: skip
        end.trials.append(trial)
        trials.append(trial)
        if draft.spec.rewind_step is not None and point is not None:
            mid_epoch_points[point.node.key][draft.spec.rewind_step] = point.key
    return Plan(trials=tuple(trials), nodes=tuple(nodes), mid_epoch_points=dict(mid_epoch_points), policy=policy)


@dataclass(frozen=True, kw_only=True)
class _Draft:
    spec: TrialSpec
    digest: str
    steps_per_epoch: int
    chain: tuple[Segment, ...]
    rewind_key: str | None

    @classmethod
    def of(cls, spec: TrialSpec, facts: Facts) -> _Draft:
        steps = facts.steps_of(spec)
        chain = segments(spec, facts.digest, steps)
        return cls(
            spec=spec, digest=facts.digest, steps_per_epoch=steps, chain=chain,
            rewind_key=rewind_key(spec, chain),
        )  # fmt: skip

    @functools.cached_property
    def trained(self) -> list[Segment]:
        return [segment for segment in self.chain if segment.kind == "train"]

    def mid_epoch_point(self, end: Node) -> MidEpochPoint | None:
        """The rewind point of a trial that ends in `end`, if that point is within an epoch."""
        step, steps = self.spec.rewind_step, self.steps_per_epoch
        if step is None or self.rewind_key is None:
            return None
        done = step // steps
        where = next(
            n for n in end.path() if n.above + n.epochs > done
        )  # in the dense training at the start: no rewind yet
        return MidEpochPoint(
            key=self.rewind_key, line=self.trained[0], node=where, epochs_done=done, epochs_started=-(-step // steps)
        )


def _cuts(drafts: Sequence[_Draft]) -> dict[str, list[int]]:
    """The epochs at which trials cut each line of training into pieces: ascending, by line."""
    found: dict[str, set[int]] = defaultdict(set)
    for draft in drafts:
        for segment in draft.trained:
            found[segment.line].add(segment.end)
    return {line: sorted(ends) for line, ends in found.items()}


class _Tree:
    """Collects all pieces of training by key, then merges a piece into the next one if no trial needs its state."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.pieces: dict[str, Node] = {}
        self.kept: set[str] = set()
        self.prefix = ""

    def add(self, draft: _Draft, cuts: Mapping[str, list[int]]) -> None:
        prefix = f"{draft.spec.name}/" if self.policy == "none" else ""
        parent: Node | None = None
        for segment in draft.trained:
            start = segment.start
            for cut in cuts[segment.line]:
                if start < cut <= segment.end:
                    parent = self._piece(prefix, segment, start, cut, parent)
                    start = cut
        assert parent is not None, "every trial trains"
        self.kept.add(parent.key)
        if draft.rewind_key is not None and prefix + draft.rewind_key in self.pieces:
            self.kept.add(prefix + draft.rewind_key)

    def _piece(self, prefix: str, segment: Segment, start: int, end: int, parent: Node | None) -> Node:
        key = prefix + segment.key_at(end)
        if key not in self.pieces:
            above = parent.above + parent.epochs if parent else 0
            self.pieces[key] = Node(
                key=key, parts=[(segment, start, end)], level=segment.level, above=above, parent=parent,
                epochs=end - start,
            )  # fmt: skip
            if parent is not None:
                parent.children.append(self.pieces[key])
        return self.pieces[key]

    def nodes(self) -> list[Node]:
        """The nodes that remain after merging, parents before children."""
        kept = []
        for node in list(self.pieces.values()):
            if self.policy == "levels" or node.key in self.kept or len(node.children) != 1:
                kept.append(node)
                continue
            child = node.children[0]  # no trial needs the state between them
            child.parent, child.above, child.epochs = node.parent, node.above, child.epochs + node.epochs
            child.parts = node.parts + child.parts
            if node.parent is not None:
                node.parent.children[node.parent.children.index(node)] = child
        return kept

    def ends_of(self, draft: _Draft) -> tuple[Node, Node | None]:
        prefix = f"{draft.spec.name}/" if self.policy == "none" else ""
        last = draft.trained[-1]
        end = self.pieces[prefix + last.key_at(last.end)]
        rewind = self.pieces.get(prefix + draft.rewind_key) if draft.rewind_key else None
        if rewind is not None:
            for node in end.path():
                if node.level > 0 and (node.parent is None or node.parent.level == 0):
                    node.waits_for = rewind
        return end, rewind
