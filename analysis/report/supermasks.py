"""Supermasks for the terminal and as JSON: the ways to find a mask, each at its best sparsity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from analysis.supermasks.summary import Arm
from analysis.supermasks.words import FOUND, WEIGHTS, accuracy, network
from analysis.text import signed


def tables(found: Sequence[Arm]) -> list[Table]:
    """One table for each network and treatment of its weights, one row for each way to find a mask."""
    groups: dict[tuple[str, str], list[Arm]] = defaultdict(list)
    for arm in found:
        groups[network(arm), WEIGHTS[arm.weights]].append(arm)
    return [_table(", ".join(names), group) for names, group in groups.items()]


def _table(name: str, group: Sequence[Arm]) -> Table:
    title = f"{name}, untrained: test accuracy at the best sparsity on validation"
    shown = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("criterion", "found"):
        shown.add_column(heading, justify="left", no_wrap=True)
    for heading in ("left", "seeds", "accuracy, % (95 %)", "above random, pp"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for arm in group:
        above = "–" if arm.random_pp is None else signed(arm.random_pp)
        left = f"{arm.weights_left_pct:.1f} %"
        shown.add_row(arm.criterion, FOUND[arm.found], left, str(arm.n), accuracy(arm), above)
    return shown


def as_json(arm: Arm) -> dict[str, Any]:
    """An arm for `--json`."""
    interval = arm.interval
    return {
        "dataset": arm.dataset, "model": arm.model, "found": arm.found, "criterion": arm.criterion,
        "weights": arm.weights, "round": arm.round, "weights_left_pct": arm.weights_left_pct, "n": arm.n,
        "test_accuracy_pct": arm.accuracy_pct, "ci_low_pct": interval.low if interval else None,
        "ci_high_pct": interval.high if interval else None, "above_random_pp": arm.random_pp,
        "p_above_random": arm.p, "majority_class_pct": arm.majority_pct,
    }  # fmt: skip
