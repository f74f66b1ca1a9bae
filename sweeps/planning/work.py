"""What is left to train of a plan, given the finished trials and the stored states, and how many epochs that takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sweeps.planning.plan import Node, Plan, PlannedTrial


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is left to train of a plan.

    epochs: in total, each counted once. critical_path: epochs of the trial that has the most left. nodes: to train;
    epochs trained again for a rewind point within an epoch are in none of them. of_trial: epochs left for each
    unfinished trial, by name.
    """

    epochs: int
    critical_path: int
    nodes: tuple[Node, ...]
    of_trial: Mapping[str, int]


def work_left(plan: Plan, done: Collection[str], stored: Collection[str]) -> Work:
    """What is left to train.

    done: names of recorded trials. stored: keys of states from which training can continue. A state within a node, left
    by a trial that was killed there, counts too.
    """
    todo = [trial for trial in plan.trials if trial.name not in done]
    of_trial: dict[str, int] = {}
    needed: dict[int, Node] = {}
    costs: dict[int, int] = {}
    for trial in todo:
        nodes = needed_by(trial, stored)
        for node in nodes:
            if id(node) not in costs:
                costs[id(node)], needed[id(node)] = epochs_of(node, stored), node
        of_trial[trial.name] = sum(costs[id(node)] for node in nodes)
    to_train, remade = frozenset(needed.values()), {}
    for trial in todo:
        if trial.mid_epoch_point is not None:
            remade[trial.mid_epoch_point.key] = trial.mid_epoch_point.epochs_to_retrain(to_train, stored)
            of_trial[trial.name] += remade[trial.mid_epoch_point.key]
    return Work(
        epochs=sum(costs.values()) + sum(remade.values()), critical_path=max(of_trial.values(), default=0),
        nodes=tuple(needed.values()), of_trial=of_trial,
    )  # fmt: skip


def needed_by(trial: PlannedTrial, stored: Collection[str]) -> list[Node]:
    """The nodes to train for this trial: those after its deepest stored state, and those up to its rewind point."""
    nodes = missing(trial.end, stored)
    if trial.rewind is not None and nodes and trial.rewind not in nodes:
        nodes = missing(trial.rewind, stored) + nodes
    return nodes


def missing(end: Node, stored: Collection[str]) -> list[Node]:
    """Nodes on the path to `end` after the deepest stored one, in order of training."""
    nodes, node = [], end
    while node.key not in stored:
        nodes.append(node)
        if node.parent is None:
            break
        node = node.parent
    return nodes[::-1]


def epochs_of(node: Node, stored: Collection[str]) -> int:
    """Epochs of a node that are left to train: those after the last one whose state is stored."""
    left = 0
    for segment, start, end in reversed(node.parts) if stored else ():
        for epoch in range(end, start, -1):
            if segment.key_at(epoch) in stored:
                return left
            left += 1
    return node.epochs


def as_json(plan: Plan, work: Work) -> dict[str, Any]:
    """The numbers of a plan as a JSON object."""
    return {
        "trials": len(plan.trials), "segments": len(plan.nodes), "epochs_requested": plan.epochs_requested,
        "epochs_distinct": plan.epochs_distinct, "epochs_to_train": work.epochs,
        "segments_to_train": len(work.nodes), "critical_path_epochs": work.critical_path,
    }  # fmt: skip
