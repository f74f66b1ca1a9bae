"""Outline a Plan for display: trees that differ only in the seed become one, and branches and trials get short labels.

A tree is drawn as *strands*. A strand is a sequence of nodes on one line, with the strands that branch off from it.
`sweeps/planning/plan_text.py` shows the outline as text, `sweeps/planning/plan_figure.py` as a figure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lth_trainable.pruning.controls import CONTROLS
from lth_trainable.spec.trial_spec import TrialSpec
from lth_trainable.spec.words import field_words
from sweeps.planning.plan import Node, Plan, PlannedTrial
from sweeps.planning.work import Work

TO_TRAIN, STORED, DONE = "to train", "stored", "done"
MOST_TREES = 8
NOT_REWOUND = field_words("retrain", "none")  # mode of a strand whose weights stay as they are
_MIXED = object()  # stands for a field in which trials differ
_FIRST = ("control", "target_sparsity_pct", "schedule", "mode")
# Default values that are not shown, as in names of trials
_USUAL = {name: getattr(TrialSpec(), name) for name in ("criterion", "granularity", "context", "layers")}


@dataclass(frozen=True, kw_only=True)
class Strand:
    """A sequence of nodes that is drawn on one line.

    path: its nodes, each with the strands that branch off at its end. mode: how it retrains after a prune, such as
    "rewind to 0". branch_label: how else it differs from the strands next to it.
    """

    branch_label: str
    mode: str
    path: tuple[tuple[Node, tuple[Strand, ...]], ...]

    @property
    def label(self) -> str:
        return " · ".join(text for text in (self.branch_label, self.mode) if text)

    @property
    def parents(self) -> tuple[str | None, ...]:
        """Names of the tickets of which this strand is a control; empty if it is not just the end of controls."""
        if len(self.path) > 1 or self.path[0][1]:
            return ()
        specs = [trial.spec for trial in self.path[0][0].trials]
        return tuple(spec.parent for spec in specs) if all(spec.control in CONTROLS for spec in specs) else ()

    def nodes(self) -> list[Node]:
        return [n for node, sides in self.path for n in (node, *(m for side in sides for m in side.nodes()))]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Trees that differ only in the seed, shown as one.

    what: its title. trials, strand: those of the first tree. labels: short labels by trial name. alike: by id of a
    node, the nodes in the same position, one for each seed.
    """

    what: str
    seeds: tuple[int, ...]
    trials: tuple[PlannedTrial, ...]
    strand: Strand
    labels: Mapping[str, str]
    alike: Mapping[int, tuple[Node, ...]]

    @property
    def seeds_text(self) -> str:
        return f"seed {self.seeds[0]}:" if len(self.seeds) == 1 else f"seeds {_ranges(self.seeds)}, each:"

    @property
    def epochs(self) -> int:
        return sum(node.epochs for node in self.strand.nodes())


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """Whether a node is still to be trained, stored or done."""

    training: frozenset[int]
    done: Collection[str]
    stored: Collection[str]

    @classmethod
    def of(cls, work: Work, done: Collection[str], stored: Collection[str]) -> NodeStatus:
        return cls(training=frozenset(map(id, work.nodes)), done=frozenset(done), stored=frozenset(stored))

    def count(self, tree: Tree, nodes: Iterable[Node]) -> Counter[str]:
        """How many of these nodes are to be trained, stored or done, over all seeds of the tree."""
        return Counter(self._of(alike) for node in nodes for alike in tree.alike[id(node)])

    def _of(self, node: Node) -> str:
        if id(node) in self.training:
            return TO_TRAIN
        finished = bool(node.trials) and all(trial.name in self.done for trial in node.trials)
        return STORED if node.key in self.stored and not finished else DONE  # done: no node below needs it


# -- trees of one shape ------------------------------------------------------------------------------------------------


def trees(plan: Plan, most: int = MOST_TREES) -> tuple[list[Tree], int]:
    """Up to `most` trees of a plan, and the number of further trees. Trees that differ only in the seed are one."""
    by_root: dict[int, list[tuple[PlannedTrial, dict[str, Any]]]] = defaultdict(list)
    for trial in plan.trials:
        by_root[id(trial.end.path()[0])].append((trial, _facts(trial.spec)))
    common = {root: _merged(facts for _, facts in found) for root, found in by_root.items()}
    differing = _differing(list(common.values()))
    shapes: dict[Any, list[dict[Any, PlannedTrial]]] = defaultdict(list)
    titles: dict[Any, str] = {}
    for root, found in by_root.items():
        trials = {tuple(facts.items()): trial for trial, facts in found}
        shapes[frozenset(trials)].append(trials)
        titles.setdefault(frozenset(trials), _in_words(common[root], ["dataset", "model", *differing, "width_pct"]))
    shown = [_tree(titles[shape], group) for shape, group in list(shapes.items())[:most]]
    return shown, max(0, len(shapes) - most)


def _tree(what: str, group: Sequence[Mapping[Any, PlannedTrial]]) -> Tree:
    alike: dict[int, dict[int, Node]] = defaultdict(dict)
    for identity, trial in group[0].items():
        for like in group:
            for node, other in zip(trial.end.path(), like[identity].end.path(), strict=True):
                alike[id(node)][id(other)] = other
    trials = tuple(group[0].values())
    root = trials[0].end.path()[0]
    return Tree(
        what=what, seeds=tuple(sorted(next(iter(found.values())).spec.seed for found in group)), trials=trials,
        strand=_strand(root, "", _subtree_facts(root)), labels=_labels(trials),
        alike={node: tuple(found.values()) for node, found in alike.items()},
    )  # fmt: skip


def _labels(trials: Sequence[PlannedTrial]) -> dict[str, str]:
    """Short labels by trial name, such as "dense" or "64 % · rewind 0": only the fields in which the trials differ."""
    facts = {trial.name: _facts(trial.spec) for trial in trials}
    several = sum(trial.spec.is_dense for trial in trials) > 1
    tickets = [facts[trial.name] for trial in trials if not trial.spec.is_dense]
    differing = ["target_sparsity_pct", *(name for name in _differing(tickets) if name != "target_sparsity_pct")]
    return {
        trial.name: ("dense" + f", {trial.spec.epochs} epochs" * several)
        if trial.spec.is_dense
        else _in_words(facts[trial.name], [*differing, "reset_end"]).replace("rewind to", "rewind")
        for trial in trials
    }


def _strand(node: Node, branch_label: str, facts: Mapping[int, Mapping[str, Any]]) -> Strand:
    """The strand that starts with a node. It follows the node's training line, or the levels of its tickets.

    A control branches off at the level of its ticket.
    """
    path, at = list[tuple[Node, tuple[Strand, ...]]](), node
    while True:
        line = at.parts[-1][0].line
        on = next((child for child in at.children if child.parts[0][0].line == line), None)
        if on is None and at.level:
            next_ones = [child for child in at.children if facts[id(child)]["control"] not in CONTROLS] or at.children
            on = next_ones[0] if len(next_ones) == 1 else None
        branches = [child for child in at.children if child is not on]
        # the sparsity is shown at the nodes, and the mode beside the branch label
        differing = [
            t for t in _differing([facts[id(c)] for c in branches], without=("target_sparsity_pct",)) if t != "mode"
        ]
        path.append((at, tuple(_strand(c, _branch_label(facts[id(c)], differing), facts) for c in branches)))
        if on is None:
            pruned = next((node for node, _ in path if node.level), None)
            mode = _in_words(facts[id(pruned)], ["mode"]) if pruned and not _starts_over(facts[id(pruned)]) else ""
            return Strand(branch_label=branch_label, mode=mode, path=tuple(path))
        at = on


def _branch_label(facts: Mapping[str, Any], differing: Sequence[str]) -> str:
    """How a branch differs from those next to it; a control is named even if there is no other branch."""
    return _in_words(facts, ["control", *differing] if facts["control"] in CONTROLS else differing)


# -- words -------------------------------------------------------------------------------------------------------------


def _facts(spec: TrialSpec) -> dict[str, Any]:
    """The fields of a trial without its seed; how it retrains is one field in words, "mode"."""
    facts = {name: value for name, value in spec.canonical().items() if name != "seed"}
    for name in ("rewind_epoch", "rewind_step"):
        facts.pop(name, None)
    retrain, point = facts.pop("retrain"), spec.rewind_point
    return facts | {"mode": f"rewind to {point}" if point is not None else field_words("retrain", retrain)}


def _starts_over(facts: Mapping[str, Any]) -> bool:
    """Whether all trials of a branch start over from a new initialisation, so that no rewind is shown."""
    control = CONTROLS.get(facts["control"])
    return control is not None and control.starts_over


def _merged(many: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields that all share; `_MIXED` where they differ."""
    merged: dict[str, Any] | None = None
    for facts in many:
        if merged is None:
            merged = dict(facts)
        for name in merged.keys() | facts.keys():
            if merged.get(name) != facts.get(name):
                merged[name] = _MIXED
    return merged or {}


def _subtree_facts(root: Node) -> dict[int, dict[str, Any]]:
    """By id of a node: the fields shared by all trials that end in it or below it."""
    nodes = [root]
    for node in nodes:  # grows while it is read, so parents come before children
        nodes += node.children
    facts: dict[int, dict[str, Any]] = {}
    for node in reversed(nodes):
        below = [facts[id(child)] for child in node.children]
        facts[id(node)] = _merged([*(_facts(trial.spec) for trial in node.trials), *below])
    return facts


def _differing(many: Sequence[Mapping[str, Any]], without: Collection[str] = ()) -> list[str]:
    """Names of the fields that tell these apart: each separates some that those before it do not. without: skipped."""
    if len(many) < 2:
        return []
    groups, differing = [0] * len(many), list[str]()
    for name in dict.fromkeys([*_FIRST, *(name for facts in many for name in facts)]):
        if name in without:
            continue
        split = [(group, facts.get(name)) for group, facts in zip(groups, many, strict=True)]
        numbers = {pair: number for number, pair in enumerate(dict.fromkeys(split))}
        if len(numbers) > len(set(groups)):
            groups, differing = [numbers[pair] for pair in split], [*differing, name]
    return differing


def _in_words(facts: Mapping[str, Any], names: Iterable[str]) -> str:
    words = (_word(name, facts.get(name)) for name in dict.fromkeys(names))
    return " · ".join(word for word in words if word)


def _word(name: str, value: Any) -> str:
    if value is _MIXED or _USUAL.get(name) == value:
        return ""
    return str(value) if name == "mode" else field_words(name, value)


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers as text: 0, 1, 2, 5 -> "0 to 2, 5"; a long list is shortened and counted."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(texts) if len(texts) <= 6 else f"{texts[0]}, … {texts[-1]} ({len(numbers)})"


def factor(plan: Plan) -> str:
    """Requested epochs divided by the epochs that are trained, as text."""
    return f"{plan.epochs_requested / max(1, plan.epochs_distinct):.2f}"


def percents(value: Fraction) -> str:
    """A fraction in percent, with at most two decimals: 0.922240 -> "92.22"."""
    return f"{round(float(100 * value), 2):g}"
