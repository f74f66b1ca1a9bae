"""How much of a network its tickets prune: of all its weights, and not of the prunable ones alone."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.tables.parquet import Frames
from analysis.tables.schema import Row
from analysis.text import percent
from analysis.verdicts.groups import TICKET

LITTLE_PCT = 50  # a prunable share below this is said
_COLUMNS = [
    "model", "role", "n_weights", "n_kept", "n_all_weights", "prunable_pct", "pruned_of_all_pct", "not_pruned",
    "n_dead_filters",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Said:
    """A sentence about a network. is_little: less than half of its weights is prunable."""

    text: str
    is_little: bool


def weights_said(frames: Frames) -> list[Said]:
    """A sentence for each network of the tickets; none for trials of an older version, which did not count."""
    trials = frames.tables["trials"]
    if not set(_COLUMNS) <= set(trials.column_names):
        return []
    networks: dict[tuple[str, int, int, str], list[Row]] = {}
    for row in trials.select(_COLUMNS).to_pylist():
        if row["role"] == TICKET and row["n_all_weights"] is not None:
            key = row["model"], row["n_all_weights"], row["n_weights"], row["not_pruned"]
            networks.setdefault(key, []).append(row)
    return [_said(*network, rows) for network, rows in networks.items()]


def _said(model: str, n_all: int, n_weights: int, not_pruned: str, rows: list[Row]) -> Said:
    most = max(rows, key=lambda row: row["n_weights"] - row["n_kept"])
    text = (
        f"{model}: {n_weights:,} of {n_all:,} weights ({percent(most['prunable_pct'])} %) are prunable; at most"
        f" {n_weights - most['n_kept']:,} of {n_all:,} ({percent(most['pruned_of_all_pct'])} %) are pruned"
    )
    is_little = most["prunable_pct"] < LITTLE_PCT
    if is_little:
        text += f". That is less than half of the network, and sparsities count these alone. Not pruned: {not_pruned}"
    dead = max(row["n_dead_filters"] or 0 for row in rows)
    if dead:
        text += f". Up to {dead:,} depthwise filters have no weight left"
    return Said(text=text, is_little=is_little)
