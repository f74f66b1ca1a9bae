"""Barriers for the terminal: a table of means over seeds, and from which point on each network is stable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from rich.table import Table

from analysis.barriers.networks import (
    RAW,
    RECOMPUTED,
    STABLE_PP,
    Network,
    has_batch_norm,
    ladder_labels,
    ladder_without_point,
    networks,
    shared_label,
)
from analysis.labels import short_labels
from analysis.tables.schema import Row
from analysis.text import plural


def barrier_table(rows: Sequence[Row]) -> Table:
    """Mean barrier over seeds and order seeds (the largest beside it), percentage points."""
    found = networks(rows)
    shown = {(part, norm): heading for part, norm, heading in _columns(rows)}
    labels = ladder_labels(found)
    title = f"{shared_label(found)}: error barrier, pp, mean (largest)"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("tickets", "network", "seeds", *shown.values(), "stable"):
        right = heading in ("network", "seeds")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "stable")
    before = None
    for network in found:
        cells = [_cell(network.barriers(*key)) for key in shown]
        name = "" if network.ladder == before else labels[network.ladder]
        table.add_row(name, network.label, str(network.n_seeds), *cells, _stable(network))
        before = network.ladder
    return table


def stable_sentences(rows: Sequence[Row]) -> list[str]:
    """From which point on each network is stable, ladder by ladder but for the point: one sentence each."""
    courses: dict[str, list[Network]] = defaultdict(list)
    for network in networks(rows):
        courses[ladder_without_point(network.ladder)].append(network)
    labels = short_labels(list(courses))
    kinds = [RAW, RECOMPUTED] if has_batch_norm(rows) else [RAW]
    return [
        f"Stable to SGD noise (mean barrier on test below {STABLE_PP:g} pp"
        + (f", BatchNorm statistics {kind}" if len(kinds) > 1 else "")
        + (f"; {labels[course]}" if len(courses) > 1 else "")
        + f"): {_since(found, kind)}."
        for course, found in courses.items()
        for kind in kinds
    ]


def _since(found: Iterable[Network], kind: str) -> str:
    """ "dense and 64 % from epoch 1 on; 92.22 % at none of epoch 0, epoch 1"."""
    points: dict[str, list[Network]] = defaultdict(list)
    for network in found:
        points[network.label].append(network)
    labels: dict[str, list[str]] = defaultdict(list)
    for label, group in points.items():
        labels[_from_where(group, kind)].append(label)
    return "; ".join(f"{_listed(group)} {where}" for where, group in labels.items())


def _from_where(points: Sequence[Network], kind: str) -> str:
    """The first point from which on all that were looked at are stable: "from epoch 1 on", or "not at epoch 0"."""
    stable_from, looked_at = None, sorted(points, key=lambda network: network.step)
    for network in reversed(looked_at):
        if not network.is_stable(kind):
            break
        stable_from = network.point
    if stable_from is not None:
        return f"from {stable_from} on"
    places = list(dict.fromkeys(network.point for network in looked_at))
    return f"not at {places[0]}" if len(places) == 1 else f"at none of {', '.join(places)}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _columns(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    if has_batch_norm(rows):
        return [(part, kind, f"{part}\n{kind}") for part in ("test", "train") for kind in (RAW, RECOMPUTED)]
    return [(part, RAW, part) for part in ("test", "train")]


def _cell(barriers: Sequence[float]) -> str:
    if not barriers:
        return "–"
    return f"{fmean(barriers):.2f}" + (f" ({max(barriers):.2f})" if len(barriers) > 1 else "")


def _stable(network: Network) -> str:
    found = {kind: network.is_stable(kind) for kind in (RAW, RECOMPUTED)}
    words = {(True, True): "yes", (False, False): "no", (True, False): "raw", (False, True): "recomputed"}
    word = words.get((found[RAW], found[RECOMPUTED]), "–")  # type: ignore[arg-type]
    return word + (f"; {plural(network.n_diverged, 'line')} diverged" if network.n_diverged else "")
