"""Show a Plan as text: the tree of its training, with equal seeds shown once, and a table of its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from analysis.text import duration, human_bytes, plural
from lth_trainable.spec.words import field_words
from sweeps.planning.outline import (
    DONE,
    NOT_REWOUND,
    STORED,
    TO_TRAIN,
    NodeStatus,
    Strand,
    Tree,
    factor,
    percents,
    trees,
)
from sweeps.planning.plan import Node, Plan, PlannedTrial
from sweeps.planning.work import Work

T = TypeVar("T")
MOST_LINES, LINES_OF_ALL, FEWEST_LINES = 40, 120, 12
_ALL = 1 << 30
# The most nodes of a strand and branches at a node to show. Tried in this order until a tree has few enough lines.
_FOLDS = ((_ALL, _ALL), (6, _ALL), (6, 24), (6, 12), (6, 6), (4, 4), (3, 3), (3, 2))
_MARKS = {TO_TRAIN: ("●", "bold cyan"), STORED: ("○", "dim"), DONE: ("✓", "green"), "": ("◐", "yellow")}


def plan_tree(plan: Plan, work: Work, done: Collection[str], stored: Collection[str]) -> RenderableType:
    """The trees of a plan as text: about 40 lines for each distinct tree and 120 in all, at most.

    done: names of recorded trials. stored: keys of stored states.
    """
    shown, others = trees(plan)
    status = NodeStatus.of(work, done, stored)
    most = max(FEWEST_LINES, min(MOST_LINES, LINES_OF_ALL // max(1, len(shown))))
    parts: list[RenderableType] = []
    for tree in shown:
        parts += [_title(tree), _Fitting(tree=tree, status=status, most=most), Text()]
    if others:
        parts += [Text(f"… {others:,} more distinct trees", style="dim"), Text()]
    return Group(*parts, _legend())


def plan_summary(
    plan: Plan, work: Work, done: Collection[str], *, seconds: float | None, slots: int | None, bytes_: int | None
) -> RenderableType:
    """The numbers of a plan. seconds: wall time that is left. bytes_: what the run will store. None: unknown."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right", style="bold")
    table.add_column(style="dim")
    asked, once = plan.epochs_requested, plan.epochs_distinct
    recorded = sum(trial.name in done for trial in plan.trials)
    table.add_row("trials", f"{len(plan.trials):,}", f"{recorded:,} done")
    table.add_row("segments", f"{len(plan.nodes):,}", f"{len(work.nodes):,} to train")
    table.add_row("epochs requested", f"{asked:,}", "each trial alone")
    table.add_row("epochs to train", f"{work.epochs:,}", "" if work.epochs == once else f"of {once:,}, each once")
    table.add_row("saved", f"{asked - once:,}", f"{factor(plan)} times less, by sharing" if asked > once else "")
    table.add_row("critical path", f"{work.critical_path:,}", "epochs that must run one after another")
    table.add_row("disk", "unknown" if bytes_ is None else human_bytes(bytes_), "")
    table.add_row("time", "unknown" if seconds is None else duration(seconds), f"{slots:,} at a time" if slots else "")
    return table


# -- as text -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A line of the text. guide: the lines that join it to its parent. nodes: those it shows, several if folded."""

    guide: str
    text: str
    nodes: tuple[Node, ...]
    folded: bool = False


def _title(tree: Tree) -> Text:
    title = Text.assemble((tree.what, "bold"), " · ", (tree.seeds_text, "bold"))
    return title.append(f" {plural(len(tree.trials), 'trial')}, {tree.epochs:,} epochs")


@dataclass(frozen=True, kw_only=True)
class _Fitting:
    """The lines of a tree, with the names of trials if it has one seed and the terminal is wide enough."""

    tree: Tree
    status: NodeStatus
    most: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = _table(self.tree, self.status, self.most, names=len(self.tree.seeds) == 1)
        fits = Measurement.get(console, options.update_width(1000), table).maximum <= options.max_width
        yield table if fits else _table(self.tree, self.status, self.most, names=False)


def _table(tree: Tree, status: NodeStatus, most: int, *, names: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("training")  # the column that is cut in a narrow terminal
    table.add_column("epochs", justify="right", no_wrap=True)
    for heading in ("ends here", "", "name"):
        table.add_column(heading, no_wrap=True)
    rows = _few_rows(tree, most)
    for row in rows[:most]:
        table.add_row(*_cells(tree, status, row, names))
    if len(rows) > most:
        table.add_row(Text(f"… {len(rows) - most:,} more lines", style="dim"), "", "", "", "")
    table.columns = [column for column in table.columns if any(map(str, column.cells))]
    return table


def _cells(tree: Tree, status: NodeStatus, row: _Row, names: bool) -> list[Text]:
    count = status.count(tree, row.nodes)
    mark, style = _MARKS[next(iter(count)) if len(count) == 1 else ""]
    trials = [trial for node in row.nodes for trial in node.trials]
    return [
        Text.assemble(
            (row.guide, "dim"), (mark, style), " ", (row.text, "dim" if row.folded else ""),
            no_wrap=True, overflow="ellipsis",
        ),
        Text(f"{sum(node.epochs for node in row.nodes):,}"),
        _ends(tree, trials, row.folded),
        Text(_counted(count, "" if row.folded else " seeds"), style="yellow"),
        Text(", ".join(trial.name for trial in trials) if names and not row.folded else "", style="dim"),
    ]  # fmt: skip


def _ends(tree: Tree, trials: Sequence[PlannedTrial], folded: bool) -> Text:
    """What ends in a line: labels of at most two trials, or the ticket if all trials are controls of one."""
    labels = [tree.labels[trial.name] for trial in trials]
    parents = {trial.spec.parent for trial in trials}
    ticket = parents.pop() if folded and len(parents) == 1 else None
    if ticket is not None:
        return Text(f"controls of {tree.labels.get(ticket, ticket)}", style="dim")
    if folded:
        return Text(plural(len(trials), "trial") if trials else "", style="dim")
    more = f", {len(labels) - 1} more" if len(labels) > 2 else ""
    return Text(", ".join(labels[: 1 if more else 2]) + more)


def _few_rows(tree: Tree, most: int) -> list[_Row]:
    """The lines of a tree, folded until they are few enough."""
    rows: list[_Row] = []
    for most_nodes, most_sides in _FOLDS:
        rows = list(_rows(tree.strand, "", "", most_nodes, most_sides))
        if len(rows) <= most:
            break
    return rows


def _rows(strand: Strand, first: str, rest: str, most_nodes: int, most_sides: int) -> Iterator[_Row]:
    """The lines of a strand and its branches. first: prefix of its first line; rest: prefix of all other lines."""
    pruned = next((node for node, _ in strand.path if node.level), None)  # its line says how the strand retrains
    for number, group in enumerate(_shortened(strand.path, most_nodes)):
        guide = rest if number else first
        (node, sides), last = group[0], group[-1][0]
        if len(group) > 1:
            inside = Strand(branch_label="", mode="", path=tuple(group)).nodes()
            reached = f"{percents(last.parts[-1][0].sparsity)} %" if last.level else f"epoch {last.parts[-1][2]}"
            text = f"… {len(group)} more, to {reached}"
            yield _Row(guide=guide, text=text, nodes=tuple(inside), folded=True)
            continue
        yield _Row(guide=guide, text=_what(node, strand if node is pruned else None), nodes=(node,))
        groups = _shortened(_families(sides), most_sides, keep_last=False)
        for place, families in enumerate(groups):
            closes = place == len(groups) - 1 and node is strand.path[-1][0]
            joint, below = (rest + "└─", rest + "  ") if closes else (rest + "├─", rest + "│ ")
            some = [side for family in families for side in family]
            nodes = tuple(inner for side in some for inner in side.nodes())
            if len(families) > 1:
                yield _Row(guide=joint, text=f"… {len(some)} more branches", nodes=nodes, folded=True)
            elif len(some) > 1:
                names = [field_words("control", trial.spec.control) for node in nodes for trial in node.trials]
                text = ", ".join(dict.fromkeys(names))
                yield _Row(guide=joint, text=text, nodes=nodes, folded=True)
            else:
                yield from _rows(some[0], joint, below, most_nodes, most_sides)


def _families(sides: Sequence[Strand]) -> list[list[Strand]]:
    """Group the branches at a node: the controls of one ticket together, each other branch alone."""
    families: dict[object, list[Strand]] = {}
    for side in sides:
        families.setdefault(side.parents or id(side), []).append(side)
    return list(families.values())


def _shortened(items: Sequence[T], most: int, keep_last: bool = True) -> list[Sequence[T]]:
    """The items, each alone; if there are more than `most`, the later ones are grouped together."""
    alone: list[Sequence[T]] = [items[i : i + 1] for i in range(len(items))]
    if len(items) <= most:
        return alone
    head, tail = most - 1 - keep_last, len(items) - keep_last
    return [*alone[:head], items[head:tail], *alone[tail:]]


def _what(node: Node, strand: Strand | None) -> str:
    """What happens in a node, in words. strand: its strand if it is the first pruned node, to say how all retrain."""
    level, reached, at = node.parent.level if node.parent else 0, [], []
    words = [f"dense to epoch {end}" for segment, _, end in node.parts if segment.level == 0][-1:]
    for segment, start, _ in node.parts:
        if segment.level > level:
            level = segment.level
            reached.append(percents(segment.sparsity))
            at.append(start)
    end = node.parts[-1][2]
    if not reached:
        return ", ".join(words) or f"to epoch {end}"
    levels = f" ({len(reached)} levels)" if len(reached) > 3 else ""
    verb = "imported mask," if any(trial.spec.ticket_id for trial in node.trials) else "prune →"
    if not node.parts[-1][0].sparsity:
        words.append(f"restart{f' {len(reached)} times' * (len(reached) > 1)}, nothing pruned")
    else:
        words.append(f"{verb} {' → '.join([reached[0], '…', reached[-1]] if levels else reached)} %{levels}")
    if strand is None:
        return ", ".join(words)
    words += [strand.mode] if strand.mode else []
    within_fit = at[0] != node.parts[-1][1] or strand.mode == NOT_REWOUND
    words.append((f"from epoch {at[0]} on" if at[0] else "") if within_fit else f"retrain to {end}")
    return (f"{strand.branch_label}: " if strand.branch_label else "") + ", ".join(word for word in words if word)


def _counted(count: Counter[str], noun: str) -> str:
    """A count such as "done in 3 of 8 seeds"; empty if all nodes have one status."""
    if len(count) < 2:
        return ""
    states = [state for state in (DONE, STORED) if count[state]]
    parts = [f"{state} in {count[state]}" if noun else f"{count[state]} {state}" for state in states]
    return f"{', '.join(parts)} of {count.total()}{noun}"


def _legend() -> Text:
    legend = Text()
    for state in (TO_TRAIN, STORED, DONE):
        legend.append(*_MARKS[state]).append(f" {state}   ", style="dim")
    return legend.append(*_MARKS[""]).append(" some of each", style="dim")
