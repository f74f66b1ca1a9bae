"""Barriers for the terminal: a table of means over seeds, and from which point on each network is stable."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.table import Table

from analysis.barriers.networks import DONE, STABLE_PP
from analysis.labels import common_label, short_labels
from analysis.tables.schema import Row

RAW, RECOMPUTED = "raw", "recomputed"


@dataclass(frozen=True, kw_only=True)
class Network:
    """The rows of one group of tickets, or of the dense network beside them, from one point.

    ladder: of the tickets. label: "dense", or the target sparsity.
    """

    ladder: str
    label: str
    rows: tuple[Row, ...]

    @property
    def step(self) -> int:
        return int(self.rows[0]["rewound_to_step"])

    @property
    def point(self) -> str:
        return point_label(self.rows[0]["rewound_to"])

    @property
    def n_seeds(self) -> int:
        return len({row["seed"] for row in self.rows})

    @property
    def n_diverged(self) -> int:
        """Lines without an error, as a copy diverged."""
        return len({_line(row) for row in self.rows if row["status"] != DONE})

    def barriers(self, part: str, batch_norm: str) -> list[float]:
        return [
            row["barrier_pp"] for row in self.rows
            if row["part"] == part and row["batch_norm"] == batch_norm and row["status"] == DONE
        ]  # fmt: skip

    def is_stable(self, batch_norm: str) -> bool | None:
        """Whether the mean barrier on the test part is below the threshold; None where every line lacks it."""
        barriers = self.barriers("test", batch_norm)
        return fmean(barriers) < STABLE_PP if barriers else None


def networks(rows: Sequence[Row]) -> list[Network]:
    """Ladder by ladder the dense network, then the tickets, the least sparse first.

    Dense rows without tickets beside them come last, as a ladder of their own group.
    """
    dense: dict[tuple[str, str], list[Row]] = defaultdict(list)
    tickets: dict[tuple[str, str], dict[float, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["ladder"] is None:
            dense[row["group"], row["rewound_to"]].append(row)
        else:
            tickets[row["ladder"], row["rewound_to"]][row["target_sparsity_pct"]].append(row)
    found, beside = [], set()
    for (ladder, rewound_to), by_target in tickets.items():
        keys = {(row["baseline_group"], rewound_to) for group in by_target.values() for row in group} & set(dense)
        beside |= keys
        found += [Network(ladder=ladder, label="dense", rows=tuple(dense[key])) for key in sorted(keys)]
        found += [Network(ladder=ladder, label=f"{t:g} %", rows=tuple(by_target[t])) for t in sorted(by_target)]
    alone = {key: group for key, group in dense.items() if key not in beside}
    found += [Network(ladder=f"{name}-r{to}", label="dense", rows=tuple(g)) for (name, to), g in alone.items()]
    order = {ladder: i for i, ladder in enumerate(dict.fromkeys(_course(network.ladder) for network in found))}
    return sorted(found, key=lambda network: (order[_course(network.ladder)], network.step))


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
        courses[_course(network.ladder)].append(network)
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


def shared_label(found: Sequence[Network]) -> str:
    """Data set, model and whatever else all ladders share."""
    return common_label([network.ladder for network in found])


def ladder_labels(found: Sequence[Network]) -> dict[str, str]:
    """Ladders in the words that tell them apart, such as "rewind epoch 1"; of a single one the point."""
    labels = short_labels([network.ladder for network in found])
    return labels if len(labels) > 1 else {network.ladder: f"rewind {network.point}" for network in found}


def has_batch_norm(rows: Iterable[Row]) -> bool:
    """Whether the kind of statistics makes a difference anywhere."""
    errors: dict[tuple[object, ...], dict[str, object]] = defaultdict(dict)
    for row in rows:
        errors[*_line(row), row["part"]][row["batch_norm"]] = row.get("errors_pct")
    return any(kinds[RAW] != kinds[RECOMPUTED] for kinds in errors.values())


def point_label(rewound_to: str) -> str:
    """ "1" -> "epoch 1", "500it" -> "iteration 500"."""
    return f"iteration {rewound_to[:-2]}" if rewound_to.endswith("it") else f"epoch {rewound_to}"


def _line(row: Row) -> tuple[object, ...]:
    return tuple(
        row[name] for name in ("trial", "rewound_to", "order_seed_a", "order_seed_b", "n_points", "device")
    )  # fmt: skip


def _course(ladder: str) -> str:
    """A ladder's name without its rewind point."""
    parts = ladder.split("-")
    return "-".join(part for i, part in enumerate(parts) if i < 2 or not re.fullmatch(r"r\d+(it)?", part))


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
    lines = "line" if network.n_diverged == 1 else "lines"
    return word + (f"; {network.n_diverged} {lines} diverged" if network.n_diverged else "")
