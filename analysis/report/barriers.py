"""Barriers for the terminal: a table of means over seeds, and the point from which each network is stable."""

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
    """Mean barrier over seeds and pairs of order seeds, and the largest in parentheses, in percentage points."""
    found = networks(rows)
    shown = {(split, kind): heading for split, kind, heading in _columns(rows)}
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
    """Sentences that say from which rewind point on each network is stable, one for ladders that share all else."""
    by_ladder: dict[str, list[Network]] = defaultdict(list)
    for network in networks(rows):
        by_ladder[ladder_without_point(network.ladder)].append(network)
    labels = short_labels(list(by_ladder))
    kinds = [RAW, RECOMPUTED] if has_batch_norm(rows) else [RAW]
    return [
        f"Stable to SGD noise (mean barrier on test below {STABLE_PP:g} pp"
        + (f", BatchNorm statistics {kind}" if len(kinds) > 1 else "")
        + (f"; {labels[ladder]}" if len(by_ladder) > 1 else "")
        + f"): {_since(found, kind)}."
        for ladder, found in by_ladder.items()
        for kind in kinds
    ]


def _since(found: Iterable[Network], kind: str) -> str:
    """Networks and points in words: "dense and 64 % from epoch 1 on; 92.22 % at none of epoch 0, epoch 1"."""
    points: dict[str, list[Network]] = defaultdict(list)
    for network in found:
        points[network.label].append(network)
    labels: dict[str, list[str]] = defaultdict(list)
    for label, group in points.items():
        labels[_from_where(group, kind)].append(label)
    return "; ".join(f"{_listed(group)} {where}" for where, group in labels.items())


def _from_where(points: Sequence[Network], kind: str) -> str:
    """The point from which the network is stable at all measured points: "from epoch 1 on", or "not at epoch 0"."""
    stable_from, measured = None, sorted(points, key=lambda network: network.step)
    for network in reversed(measured):
        if not network.is_stable(kind):
            break
        stable_from = network.point
    if stable_from is not None:
        return f"from {stable_from} on"
    names = list(dict.fromkeys(network.point for network in measured))
    return f"not at {names[0]}" if len(names) == 1 else f"at none of {', '.join(names)}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _columns(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    if has_batch_norm(rows):
        return [(split, kind, f"{split}\n{kind}") for split in ("test", "train") for kind in (RAW, RECOMPUTED)]
    return [(split, RAW, split) for split in ("test", "train")]


def _cell(barriers: Sequence[float]) -> str:
    if not barriers:
        return "–"
    return f"{fmean(barriers):.2f}" + (f" ({max(barriers):.2f})" if len(barriers) > 1 else "")


def _stable(network: Network) -> str:
    found = {kind: network.is_stable(kind) for kind in (RAW, RECOMPUTED)}
    words = {(True, True): "yes", (False, False): "no", (True, False): "raw", (False, True): "recomputed"}
    word = words.get((found[RAW], found[RECOMPUTED]), "–")  # type: ignore[arg-type]
    return word + (f"; {plural(network.n_diverged, 'line')} diverged" if network.n_diverged else "")
