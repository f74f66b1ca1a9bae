"""What all figures share: themes, the grid of panels, axes, the key below, and writing to files.

matplotlib with the Agg backend, without pyplot. Colours are those of Okabe & Ito, which people with any colour vision
can tell apart.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.spacing import ticks
from analysis.text import percent
from lth_trainable.errors import unknown_name

WIDTH, COLUMNS, MOST_PANELS = 7.2, 2, 8  # inches: text width of a two-column page; panels side by side, and in all
NARROW_WIDTH = 3.9  # inches: a telephone, on which letters of 9 pt keep their size
LEFT, RIGHT, GAP, TOP, AXIS, KEY_LINE = (
    0.62,
    0.15,
    0.62,
    0.38,
    0.52,
    0.19,
)  # inches; AXIS: room for tick and axis labels
LETTER_PT, HANDLE_PT = 5.0, 38.0  # widths in the key: of a letter of 8.5 pt, and of the line before a label

REMAINING = "weights remaining (%, log scale)"
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)))  # line styles, for more curves than the palette has colours
STYLE = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Verdana"], "font.size": 9,
    "svg.fonttype": "none", "svg.hashsalt": "lottery-sweep", "pdf.fonttype": 42, "axes.unicode_minus": True,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Theme:
    """How a figure looks. Only PNG files have the background; SVG and PDF files are transparent.

    width: of the figure in inches. columns: at most so many panels side by side; with one, there is no room for labels
    beside a panel either, and they are in the key."""

    text: str
    muted: str
    grid: str
    background: str
    series: tuple[str, ...]
    width: float = WIDTH
    columns: int = COLUMNS


THEMES = {
    "light": Theme(
        text="#1a1a1a", muted="#5c5c5c", grid="#e3e3e3", background="#ffffff",
        series=("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b07d00", "#3f8fc4", "#7a7a7a"),
    ),
    "dark": Theme(
        text="#ececec", muted="#a8a8a8", grid="#383838", background="#16181c",
        series=("#56b4e9", "#ff8c42", "#2fc79a", "#e08fc8", "#f0c040", "#9ecbff", "#c0c0c0"),
    ),
}  # fmt: skip
COLOURS, NARROW = tuple(THEMES), "narrow"
THEMES[NARROW] = replace(THEMES["light"], width=NARROW_WIDTH, columns=1)


def theme_of(name: str) -> Theme:
    """The theme of that name. Raises `UserError` for an unknown name."""
    if name not in THEMES:
        raise unknown_name("theme", name, COLOURS)
    return THEMES[name]


def colour_and_dashes(index: int, theme: Theme) -> tuple[str, Any]:
    """Colour and line style of curve number `index`: all colours of the palette, then again with other dashes."""
    return theme.series[index % len(theme.series)], _DASHES[index // len(theme.series) % len(_DASHES)]


def canvas(count: int, height: float, key: Sequence[Line2D], theme: Theme) -> tuple[Figure, list[Any]]:
    """A figure of `count` panels, each `height` inches high, at most two side by side, with the key below."""
    columns, width = min(theme.columns, count), theme.width
    rows = math.ceil(count / columns)
    across = key_columns(key, width)
    foot = 0.1 + KEY_LINE * math.ceil(len(key) / across) if key else 0.0
    total = rows * (TOP + height + AXIS) + foot
    figure = Figure(figsize=(width, total), facecolor=theme.background)
    FigureCanvasAgg(figure)
    wide = (width - LEFT - RIGHT - GAP * (columns - 1)) / columns
    axes = []
    for index in range(count):
        row, column = divmod(index, columns)
        bottom = total - (row + 1) * (TOP + height + AXIS) + AXIS
        box = (LEFT + column * (wide + GAP)) / width, bottom / total, wide / width, height / total
        axes.append(figure.add_axes(box))
    if key:
        figure.legend(
            handles=list(key), loc="lower left", bbox_to_anchor=((LEFT - 0.08) / width, 0.06 / total), ncols=across,
            frameon=False, labelcolor=theme.muted, fontsize=8.5, borderpad=0, borderaxespad=0, handlelength=1.9,
            handletextpad=0.5, columnspacing=1.6,
        )  # fmt: skip
    return figure, axes


def key_columns(key: Sequence[Line2D], width: float = WIDTH) -> int:
    """How many entries of the key fit side by side in a figure of that width (inches)."""
    longest = max((len(str(handle.get_label())) for handle in key), default=0)
    return max(1, int((width - LEFT - RIGHT) * 72 / (HANDLE_PT + LETTER_PT * longest)))


def dress(axis: Any, title: str, x: str, y: str, theme: Theme) -> None:
    """Give a panel its title, axis labels and frame."""
    axis.set_facecolor("none")
    axis.set_title(title, loc="left", color=theme.text, fontsize=title_size(axis, title, 9.5), fontweight="bold", pad=7)
    axis.set_xlabel(x, color=theme.text)
    axis.set_ylabel(y, color=theme.text)
    frame(axis, theme)


def title_size(axis: Any, title: str, usual: float) -> float:
    """Size of a bold title in points: the usual one, or a smaller one if the title would run out of the figure."""
    room = (1 - axis.get_position().x0) * axis.figure.get_figwidth() * 72
    return min(usual, usual * room / (0.7 * usual * max(len(title), 1)))


def frame(axis: Any, theme: Theme) -> None:
    """Draw ticks, spines and faint horizontal lines, as in every figure."""
    axis.grid(axis="y", color=theme.grid, linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(colors=theme.text, length=3, width=0.8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(theme.muted)


def remaining_axis(axis: Any, values: Iterable[float]) -> None:
    """Make x the weights remaining (percent, log), from many on the left to few on the right, with ticks at values."""
    at = sorted(set(values), reverse=True)
    length = max(math.log10(at[0] / at[-1]), 0.3)
    axis.set_xscale("log")
    axis.set_xlim(at[0] * 10 ** (0.06 * length), at[-1] / 10 ** (0.06 * length))
    kept = ticks(at, 0.1 * length)
    axis.set_xticks(kept, [percent(tick) for tick in kept])
    axis.set_xticks([], minor=True)


def line(colour: str, label: str, **style: Any) -> Line2D:
    """An entry of the key."""
    return Line2D([], [], color=colour, label=label, **({"linewidth": 1.6} | style))


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG, with text as text. The same figure gives the same bytes (fixed salt, no date)."""
    return _saved(figure, "svg", transparent=True, metadata={"Date": None, "Creator": None})


def to_png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as PNG, on the background of its theme."""
    return _saved(figure, "png", dpi=dpi, metadata={"Software": None})


def to_pdf(figure: Figure) -> bytes:
    """The figure as PDF, with fonts embedded as TrueType. The same figure gives the same bytes (no dates)."""
    return _saved(figure, "pdf", transparent=True, metadata={"CreationDate": None, "Creator": None, "Producer": None})


def _saved(figure: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


WRITERS: dict[str, Callable[[Figure], bytes]] = {"pdf": to_pdf, "svg": to_svg, "png": to_png}
