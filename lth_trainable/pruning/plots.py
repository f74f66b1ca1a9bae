"""Two plots for a notebook: the sparsity that a schedule will follow, and the sparsity of each layer.

The colours are those of Okabe & Ito, which people with any colour vision can tell apart; shape, position or text always
says the same as the colour. matplotlib is imported when a plot is drawn. Each function returns its axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from lth_trainable.pruning.pruner import MaskedLayers
from lth_trainable.pruning.schedules import Prune, Schedule, exact

TEXT, MUTED, GRID, PALE = "#1a1a1a", "#5c5c5c", "#e3e3e3", "#ececec"
REWIND, COLLAPSED = "#d55e00", "#d55e00"
SERIES = ("#0072b2", "#009e73", "#aa4499", "#b07d00", "#3f8fc4", "#7a7a7a")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)))
FEW_EVENTS = 6  # up to this many prunes are labelled with their sparsity
WIDTH = 7.2  # inches: text width of a two-column page
_STYLE = {"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Verdana"], "font.size": 9}


def plot_schedule(
    schedule: Schedule,
    n_epochs: int,
    sparsity: float | Mapping[str, float],
    rewind_epoch: int | None = None,
    ax: Any = None,
    *,
    lth: bool = True,
    reset_end: bool = False,
) -> Any:
    """Plot the sparsity (percent) over the epochs of a fit with `SparsifyCallback`; returns the axes.

    sparsity: percent, or a dict of percents by layer name or pattern (one line each). Epoch e spans from e to e + 1;
    dots are prunes, at the start of their epoch. rewind_epoch: the epoch whose weights return; arrows lead to it from
    each prune (with `lth`) and from the end of the fit (with `reset_end`). None draws no arrows. ax: axes to draw on.
    Raises `UserError` if the schedule does not fit into the epochs.
    """
    targets = dict(sparsity) if isinstance(sparsity, Mapping) else {"": sparsity}
    plans = {name: schedule.prunes(n_epochs, exact(target) / 100) for name, target in targets.items()}
    top = max(float(event.sparsity) * 100 for plan in plans.values() for event in plan)
    import matplotlib as mpl

    figure = _figure(WIDTH, 3.1) if ax is None else None
    with mpl.rc_context(_STYLE):
        ax = figure.add_subplot() if figure else ax
        for index, (name, plan) in enumerate(plans.items()):
            colour, dashes = SERIES[index % len(SERIES)], DASHES[index // len(SERIES) % len(DASHES)]
            _draw_steps(ax, plan, n_epochs, name, colour, dashes)
            if len(plans) == 1:
                _write_sparsities(ax, plan, n_epochs, colour)
        highest = max(plans.values(), key=lambda plan: max(event.sparsity for event in plan))
        if rewind_epoch is not None and (lth or reset_end):
            _draw_rewinds(ax, highest if lth else (), rewind_epoch, n_epochs if reset_end else None)
        _dress(ax, "epoch", "sparsity (%)", "y")
        ax.set_title(_title(schedule, highest, lth and rewind_epoch is not None), **_TITLE)
        ax.set_xlim(-0.012 * n_epochs, n_epochs * 1.012)
        ax.set_ylim(-0.04 * top, 1.22 * top)
        ax.set_xticks(_epoch_ticks(n_epochs))
        if len(plans) > 1:
            ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), labelcolor=TEXT, fontsize=8.5)
    return ax


def plot_layers(masked: MaskedLayers, ax: Any = None) -> Any:
    """Plot the sparsity (percent) of each layer under the current mask, with the weights left; returns the axes.

    Layers are ordered from the input (top) to the output. The dashed line is the sparsity of all layers together. ax:
    axes to draw on; by default a new figure, as high as the layers need.
    """
    import matplotlib as mpl

    layers = masked.layers
    figure = _figure(WIDTH, 1.1 + 0.235 * len(layers)) if ax is None else None
    with mpl.rc_context(_STYLE):
        ax = figure.add_subplot() if figure else ax
        for row, layer in enumerate(layers):
            kept, n = masked.counts[layer.parameter_name], layer.weight.numel()
            _draw_layer(ax, row, kept, n)
        _dress(ax, "sparsity (%)", "", "x")
        ax.set_xlim(0, 100)
        ax.set_ylim(len(layers) - 0.4, -0.6)
        ax.set_yticks(range(len(layers)), [_label(layer.name, layer.type) for layer in layers])
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.axvline(masked.sparsity_pct, color=TEXT, linewidth=1, linestyle=(0, (4, 2)), zorder=4)
        _columns(ax, -0.95, "%", "weights left", MUTED)
        ax.set_title(f"Sparsity by layer; dashed: {masked.sparsity_pct:.2f} % of all weights", **{**_TITLE, "pad": 16})
    return ax


_TITLE: dict[str, Any] = {"loc": "left", "color": TEXT, "fontsize": 10, "fontweight": "bold", "pad": 8}


def _figure(width: float, height: float) -> Any:
    """An empty figure; sizes in inches. Call it outside `rc_context`, whose end would undo a notebook's settings."""
    from matplotlib import pyplot

    return pyplot.figure(figsize=(width, height), layout="constrained", facecolor="white")


def _draw_steps(ax: Any, plan: Sequence[Prune], n_epochs: int, name: str, colour: str, dashes: Any) -> None:
    """The line of the sparsity and a dot at each prune."""
    x = [0, *(event.epoch for event in plan), n_epochs]
    y = [0.0, *(100 * float(event.sparsity) for event in plan)]
    ax.plot(
        x, [*y, y[-1]], drawstyle="steps-post", color=colour, linewidth=1.8, linestyle=dashes, label=name, zorder=3,
        solid_joinstyle="miter",
    )  # fmt: skip
    size = 6 if len(plan) <= FEW_EVENTS else 4
    ax.plot(
        x[1:-1], y[1:], "o", color=colour, markersize=size, markeredgecolor="white", markeredgewidth=0.8, zorder=5,
        clip_on=False,
    )  # fmt: skip


def _write_sparsities(ax: Any, plan: Sequence[Prune], n_epochs: int, colour: str) -> None:
    """Label each prune with its sparsity if there are few, else only the highest and the last."""
    peak = max(plan, key=lambda event: event.sparsity)
    for event in plan if len(plan) <= FEW_EVENTS else {peak, plan[-1]}:
        late = event.epoch > 0.88 * n_epochs
        ax.annotate(
            f"{100 * float(event.sparsity):.4g} %", (event.epoch, 100 * float(event.sparsity)),
            (-4 if late else 5, 5), textcoords="offset points", ha="right" if late else "left", color=colour,
        )  # fmt: skip


def _draw_rewinds(ax: Any, plan: Sequence[Prune], rewind_epoch: int, end: int | None) -> None:
    """Arrows from the prunes, and from the end of the fit, back to the rewind epoch."""
    starts = [(event.epoch, 100 * float(event.sparsity)) for event in plan]
    if end is not None:
        starts.append((end, 1.11 * ax.dataLim.y1))
    arrow = {"arrowstyle": "-|>", "color": REWIND, "linewidth": 1, "linestyle": (0, (3, 2)), "shrinkA": 5, "shrinkB": 0}
    for x, y in starts:
        ax.annotate("", (rewind_epoch, y), (x, y), arrowprops={**arrow, "mutation_scale": 9}, zorder=2)
    ax.axvline(rewind_epoch, color=REWIND, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    x, y = starts[-1]
    ax.annotate(
        f"weights of epoch {rewind_epoch}" + (", at the end too" if plan and end is not None else ""),
        (rewind_epoch + 0.3 * (x - rewind_epoch), y), (0, 3), textcoords="offset points", ha="center", va="bottom",
        color=REWIND, fontsize=8.5,
    )  # fmt: skip


def _title(schedule: Schedule, plan: Sequence[Prune], rewinds: bool) -> str:
    before = [Fraction(0), *(event.sparsity for event in plan)]
    n_back = sum(event.sparsity < previous for event, previous in zip(plan, before, strict=False))
    n = len(plan) - n_back
    title = f"{schedule.name}: {n} prune{'s' * (n > 1)} from epoch {plan[0].epoch}"
    return title + (f", then {n_back} steps back" if n_back else "") + (", a rewind after each" if rewinds else "")


def _epoch_ticks(n_epochs: int) -> list[int]:
    """Up to eleven whole epochs, including the end."""
    step = next(s for s in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, n_epochs) if n_epochs / s <= 10)
    return [*(e for e in range(0, n_epochs, step) if n_epochs - e > step / 2), n_epochs]


def _draw_layer(ax: Any, row: int, kept: int, n: int) -> None:
    """A bar, and to its right the percent removed and the number of weights left."""
    pct, colour = 100 * (n - kept) / n, COLLAPSED if kept == 0 else SERIES[0]
    ax.barh(row, 100, height=0.66, color=PALE, linewidth=0, zorder=1)
    ax.barh(row, pct, height=0.66, color=colour, linewidth=0, zorder=2)
    _columns(ax, row, f"{pct:.2f}", f"{kept:,}" if kept else "none", TEXT if kept else COLLAPSED)


def _columns(ax: Any, row: float, sparsity: str, left: str, colour: str) -> None:
    """Two right-aligned columns outside the axes."""
    for text, at in ((sparsity, 46), (left, 118)):
        ax.annotate(
            text, (1, row), (at, 0), xycoords=ax.get_yaxis_transform(), textcoords="offset points", va="center",
            ha="right", color=colour, fontsize=8, annotation_clip=False,
        )  # fmt: skip


def _label(name: str, kind: str) -> str:
    """A layer's name, with its type if the name is just a number."""
    return f"{name} {kind}".strip() if not name or name.replace(".", "").isdecimal() else name


def _dress(ax: Any, xlabel: str, ylabel: str, grid: str) -> None:
    ax.set_xlabel(xlabel, color=TEXT)
    ax.set_ylabel(ylabel, color=TEXT)
    ax.grid(axis=grid, color=GRID, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(colors=TEXT, length=3, width=0.8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(MUTED)
