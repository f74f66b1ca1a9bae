"""Rows of variances.parquet: how much of the spread between trials is due to the initialisation, and to the data order.

It needs trials of several order seeds for each seed (`--seed 0 1 2 3 --order-seed 0 1 2 3`). The seed sets the
initialisation (and dropout, and the noise of random criteria and controls), the order seed the order of the images and
their augmentation. A trial without an order seed has its own seed as such.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.stats.two_way import variance_components
from analysis.tables.run_plan import Rule
from analysis.tables.schema import DIVERGED, RESTORED, Row
from analysis.verdicts.baselines import find_candidates

OF_TRIALS, OF_DIFFERENCES = "trials", "differences to dense"
Cells = Mapping[tuple[int, int], Row]  # by seed and order seed
Value = Callable[[tuple[int, int]], float | None]


def variance_rows(trials: Sequence[Row], rule: Rule) -> list[dict[str, Any]]:
    """A row for each group whose seeds and order seeds are crossed, and one for its differences to the dense network.

    A diverged trial counts at chance accuracy, as in the verdicts. Seeds of which a trial is not finished are left out.
    """
    trials = [row for row in trials if row["status"] != RESTORED]
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in trials:
        if row["seed"] is not None:
            groups[row["group"]].append(row)
    if all(len(_crossed(cells_of(rows))[1]) < 2 for rows in groups.values()):
        return []
    dense = {c.group.name: cells_of(c.dense.rows) for c in find_candidates(trials, rule.tuned)}
    found = []
    for name, rows in groups.items():
        cells, others = cells_of(rows), dense.get(name)
        own = _row(cells, functools.partial(_outcome, cells, rule.endpoint))
        found += [{**_about(rows, rule), "of": OF_TRIALS, **own}] if own else []
        if others:
            apart = _row(cells, functools.partial(_difference, cells, others, rule.endpoint))
            found += [{**_about(rows, rule), "of": OF_DIFFERENCES, **apart}] if apart else []
    return found


def cells_of(rows: Iterable[Row]) -> Cells:
    """Trials by seed and order seed."""
    return {(row["seed"], row["seed"] if row["order_seed"] is None else row["order_seed"]): row for row in rows}


def _about(rows: Sequence[Row], rule: Rule) -> dict[str, Any]:
    return {"group": rows[0]["group"], "role": rows[0]["role"], "endpoint": rule.endpoint}


def _crossed(cells: Iterable[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """The seeds with several order seeds, and the order seeds that all of these have."""
    orders: dict[int, set[int]] = defaultdict(set)
    for seed, order in cells:
        orders[seed].add(order)
    seeds = sorted(seed for seed, own in orders.items() if len(own) > 1)
    return seeds, sorted(set.intersection(*(orders[seed] for seed in seeds))) if seeds else []


def _row(cells: Cells, value: Value) -> dict[str, Any] | None:
    """The components of the crossed trials, in percentage points; None if not enough of them are there."""
    seeds, orders = _crossed(cells)
    table = {seed: [value((seed, order)) for order in orders] for seed in seeds}
    whole = {seed: values for seed, values in table.items() if None not in values}
    if len(whole) < 2 or len(orders) < 2:
        return None
    values = 100 * np.asarray(list(whole.values()), dtype=np.float64)
    found = variance_components(values)
    used = [cells[seed, order] for seed in whole for order in orders]
    parts = {"init": found.init, "order": found.order, "both": found.both}
    return {
        "n_init": len(whole), "n_order": len(orders), "n_left_out": len(list(cells)) - len(used),
        "n_diverged": sum(row["status"] == DIVERGED for row in used), "mean_pp": float(values.mean()),
        **{f"var_{name}": part for name, part in parts.items()},
        **{f"sd_{name}_pp": math.sqrt(max(0.0, part)) for name, part in parts.items()},
        **{f"share_{name}": share for name, share in zip(parts, found.shares, strict=True)},
    }  # fmt: skip


def _outcome(cells: Cells, endpoint: str, cell: tuple[int, int]) -> float | None:
    row = cells.get(cell, {})
    return row.get({"done": endpoint, DIVERGED: "chance_accuracy"}.get(row.get("status", ""), ""))


def _difference(cells: Cells, dense: Cells, endpoint: str, cell: tuple[int, int]) -> float | None:
    ours, theirs = _outcome(cells, endpoint, cell), _outcome(dense, endpoint, cell)
    return None if ours is None or theirs is None else ours - theirs
