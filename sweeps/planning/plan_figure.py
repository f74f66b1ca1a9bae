"""Draw a Plan as a figure: a panel for each distinct tree, epochs on the horizontal axis, and a row for each branch.

The strands come from `sweeps/planning/outline.py`. A strand that branches off later lies closer to its parent, so no
lines cross. Colours, and how a figure is written, are those of `analysis/figures/accuracy.py`.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import THEMES, to_png, to_svg
from lth_trainable.errors import UserError, bad_value
from sweeps.planning.outline import TO_TRAIN, NodeStatus, Strand, Tree, factor, percents, trees
from sweeps.planning.plan import Node, Plan
from sweeps.planning.work import Work

WIDTH = 7.2  # inches: text width of a two-column page
ROW, ABOVE, BELOW = 0.33, 0.42, 0.5  # inches: height of a strand, of a panel's title, of its axis
HEAD, FOOT = 0.42, 0.34  # inches: height of the figure's title and key
MOST_PANELS, MOST_ROWS = 6, 30
BAR, DOT_PT, GAP_PT, LETTER_PT = 0.26, 4.6, 3.0, 4.9  # height of a bar in rows; width of a letter of 8 pt
SUFFIXES = (".svg", ".pdf", ".png")
_THEME = THEMES["light"]
_BLUE, _GREY = _THEME.series[0], "#b9b9b9"


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A strand and its row, 0 at the top. parent_row: row of the strand from which it branches off; None at a root."""

    strand: Strand
    row: int
    parent_row: int | None


def draw_plan(plan: Plan, work: Work, done: Collection[str], stored: Collection[str], path: str) -> None:
    """Write the figure of a plan as SVG, PDF or PNG, depending on the suffix.

    done: names of recorded trials. stored: keys of stored states. Raises `UserError` for another suffix, or if the path
    cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise bad_value("plan_figure", path, f"a file name that ends in {', '.join(SUFFIXES)}")
    figure = plan_figure(plan, work, done, stored)
    content = {".svg": to_svg, ".png": to_png, ".pdf": _to_pdf}[suffix](figure)
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise UserError(f"plan_figure: cannot write {path}: {error.strerror}; choose a folder that exists") from error


def plan_figure(plan: Plan, work: Work, done: Collection[str], stored: Collection[str]) -> Figure:
    """The figure of a plan: at most six panels, one for each distinct tree, with at most 30 strands each."""
    shown, others = trees(plan, MOST_PANELS)
    layouts = [place(tree.strand) for tree in shown]
    rows = [min(MOST_ROWS, len(layout)) + (len(layout) > MOST_ROWS) for layout in layouts]
    heights = [ABOVE + ROW * (count + 0.5) + BELOW for count in rows]
    total = HEAD + sum(heights) + FOOT + (0.22 if others else 0)
    figure = Figure(figsize=(WIDTH, total), facecolor=_THEME.background)
    FigureCanvasAgg(figure)
    _text(figure, 0.18 / WIDTH, 1 - 0.2 / total, _headline(plan), size=10.5, weight="bold", va="top")
    status, top = NodeStatus.of(work, done, stored), total - HEAD
    for tree, layout, count, height in zip(shown, layouts, rows, heights, strict=True):
        bottom = top - height + BELOW
        axis = figure.add_axes((0.18 / WIDTH, bottom / total, 1 - 0.36 / WIDTH, ROW * (count + 0.5) / total))
        _draw(axis, tree, layout, count, status)
        top -= height
    _key(figure, shown, status, total, others)
    return figure


def place(strand: Strand) -> list[Placed]:
    """Give each strand a row, from the top, so that the lines down to them do not cross."""
    placed: list[Placed] = []

    def add(strand: Strand, parent_row: int | None) -> None:
        placed.append(Placed(strand=strand, row=len(placed), parent_row=parent_row))
        row = placed[-1].row
        for _, sides in reversed(strand.path):
            for side in sides:
                add(side, row)

    add(strand, None)
    return placed


def _headline(plan: Plan) -> str:
    asked = f"{len(plan.trials):,} trials, {plan.epochs_requested:,} epochs requested"
    if plan.epochs_requested == plan.epochs_distinct:
        return f"{asked}, none of them shared"
    return f"{asked}, {plan.epochs_distinct:,} trained once: {factor(plan)} times"


def _draw(axis: Any, tree: Tree, layout: Sequence[Placed], count: int, status: NodeStatus) -> None:
    length = max(node.above + node.epochs for node in tree.strand.nodes())
    shown = [placed for placed in layout if placed.row < MOST_ROWS]
    letters = max((len(placed.strand.label) for placed in shown), default=0)
    points = (WIDTH - 0.36) * 72
    right = min(0.4 * points, letters * LETTER_PT + 14)
    per_point = length / (points - right - 4)  # epochs
    axis.set_xlim(-4 * per_point, length + right * per_point)
    axis.set_ylim(count - 0.3, -0.8)
    downs = {(placed.parent_row, placed.strand.path[0][0].above): placed.row for placed in shown}  # each to its lowest
    for (row, at), lowest in downs.items():
        if row is not None:
            axis.plot([at] * 2, [row, lowest], color=_THEME.muted, linewidth=0.8, zorder=1)
    for placed in shown:
        _draw_strand(axis, tree, placed, status, per_point)
    if len(layout) > MOST_ROWS:
        axis.text(0, MOST_ROWS, f"… {len(layout) - MOST_ROWS:,} more branches", fontsize=8, va="center",
                  color=_THEME.muted)  # fmt: skip
    _dress(axis, tree, length)


def _draw_strand(axis: Any, tree: Tree, placed: Placed, status: NodeStatus, per_point: float) -> None:
    y, strand = placed.row, placed.strand
    last = strand.path[-1][0]
    ends: list[tuple[int, str]] = []
    for node, _ in strand.path:
        _draw_bar(axis, tree, node, y, status, per_point)
        names = dict.fromkeys(_dot_label(node) for _ in node.trials)
        ends += [(node.above + node.epochs, ", ".join(names))] if names else []
    for at, _ in ends:
        axis.plot([at], [y], marker="o", markersize=DOT_PT, color=_THEME.text, markeredgecolor=_THEME.background,
                  markeredgewidth=0.8, zorder=5, clip_on=False)  # fmt: skip
    clear = strand.path[0][0].above + 1.5 * per_point  # lines that go further down are all to its left
    free = float("inf")
    for at, text in reversed(ends):  # always the last one; the others if there is room
        half = len(text) * LETTER_PT * 0.9 / 2 * per_point
        middle = max(at, clear + half)
        if middle + half <= free:
            axis.text(middle, y - 0.22, text, fontsize=7.5, ha="center", va="bottom", color=_THEME.text)
            free = middle - half - GAP_PT * per_point
    axis.text(last.above + last.epochs + 7 * per_point, y, strand.label, fontsize=8, va="center", color=_THEME.muted)


def _dot_label(node: Node) -> str:
    sparsity = node.parts[-1][0].sparsity
    return f"{percents(sparsity)} %" if sparsity else "dense"


def _draw_bar(axis: Any, tree: Tree, node: Node, y: float, status: NodeStatus, per_point: float) -> None:
    """Draw a bar: the blue part from below is the fraction of seeds that train it; cuts show where it is pruned."""
    count = status.count(tree, [node])
    blue = BAR * count[TO_TRAIN] / count.total()
    for low, high, colour in ((y + BAR / 2 - blue, blue, _BLUE), (y - BAR / 2, BAR - blue, _GREY)):
        if high:
            axis.add_patch(Rectangle((node.above, low), node.epochs, high, facecolor=colour, linewidth=0, zorder=2))
    at, level, cuts = node.above, node.parts[0][0].level, [node.above] if node.parent else []
    for segment, start, end in node.parts:
        cuts += [at] if segment.level > level else []
        at, level = at + end - start, segment.level
    widest = max(1, len(cuts)) * GAP_PT * per_point
    if widest <= node.epochs and (node.parent is None or GAP_PT * per_point <= node.parent.epochs):
        for cut in cuts:
            axis.plot([cut] * 2, [y - BAR / 2, y + BAR / 2], color=_THEME.background, linewidth=0.9, zorder=3,
                      solid_capstyle="butt")  # fmt: skip


def _dress(axis: Any, tree: Tree, length: int) -> None:
    axis.set_facecolor("none")
    seeds = tree.seeds_text.replace("each:", "each").replace(":", ",")
    title = f"{tree.what} · {seeds} {tree.epochs:,} epochs"
    axis.set_title(title, loc="left", color=_THEME.text, fontsize=9, pad=6)
    axis.set_yticks([])
    locator = MaxNLocator(nbins=6, integer=True, steps=[1, 2, 4, 5, 10])
    axis.set_xticks([tick for tick in locator.tick_values(0, length) if 0 <= tick <= length])
    axis.tick_params(colors=_THEME.text, length=3, width=0.8, labelsize=8)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.set_xlabel("epochs from initialisation", color=_THEME.text, fontsize=8.5, loc="left")
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_bounds(0, length)
    axis.spines["bottom"].set_color(_THEME.muted)


def _key(figure: Any, shown: Sequence[Tree], status: NodeStatus, total: float, others: int) -> None:
    """Explain the colours that occur, below the panels."""
    found = {state for tree in shown for state in status.count(tree, tree.strand.nodes())}
    handles: list[Any] = [Patch(color=_BLUE, label="to train")] if TO_TRAIN in found else []
    handles += [Patch(color=_GREY, label="stored or done")] if found - {TO_TRAIN} else []
    handles.append(Line2D([], [], marker="o", markersize=DOT_PT, color=_THEME.text, linestyle="none",
                          label="a trial ends (sparsity)"))  # fmt: skip
    cut = "a cut: a prune, or a stored state"
    handles.append(Line2D([], [], marker="|", markersize=7, color=_THEME.muted, linestyle="none", label=cut))
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.18 / WIDTH, 0.06 / total), ncols=4, frameon=False,
        labelcolor=_THEME.muted, fontsize=8, handlelength=1.4, columnspacing=1.6, borderpad=0, borderaxespad=0,
    )  # fmt: skip
    if others:
        text = f"… {others:,} more distinct trees"
        _text(figure, 0.18 / WIDTH, 0.3 / total, text, size=8, color=_THEME.muted)


def _text(figure: Any, x: float, y: float, text: str, *, size: float, color: str = _THEME.text, **options: Any) -> None:
    figure.text(x, y, text, fontsize=size, color=color, **options)


def _to_pdf(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return buffer.getvalue()
