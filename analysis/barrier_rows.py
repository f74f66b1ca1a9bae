"""Rows of barriers.parquet: the error along the line between two copies of a network, and how high it rises. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from analysis.barrier_targets import Target
from analysis.pairs import group_name, ladder_name
from analysis.schema import Row

TABLE = "barriers"
STABLE_PP = 2.0  # a network with a lower barrier is stable to SGD noise (arXiv 1912.05671, section 3)
DONE, DIVERGED = "done", "diverged"


def _field(name: str, kind: pa.DataType, unit: str, source: str, description: str, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable, {"unit": unit, "source": source, "description": description})


_TEXT, _INT, _FLOAT, _PER_CENT = pa.string(), pa.int64(), pa.float64(), "per cent (0..100)"
_FLOATS = pa.list_(pa.field("element", _FLOAT))  # named as it comes back from a file

BARRIERS = pa.schema(
    [
        _field("run", _TEXT, "name", "folder of the run", "name of the run", nullable=False),
        _field("trial", _TEXT, "name", "plan.json: name", "ticket or dense trial that copies were trained of",
               nullable=False),
        _field("group", _TEXT, "name", "computed from trial", "the trial's name without its seeds", nullable=False),
        _field("ladder", _TEXT, "name", "computed from trial", "the group's name without its target sparsity; null: "
               "dense"),
        _field("baseline_group", _TEXT, "name", "computed", "group of the dense trial of its seed; null: none"),
        _field("key", _TEXT, "SHA-256 (hex)", "record.json: key", "identity of the trial"),
        _field("seed", _INT, "number", "spec.seed", "the replicate"),
        _field("sparsity_pct", _FLOAT, _PER_CENT, "record.json: result.sparsity_pct", "measured; 0: dense"),
        _field("target_sparsity_pct", _FLOAT, _PER_CENT, "spec.target_sparsity_pct", "sparsity asked for; null: dense"),
        _field("rewound_to", _TEXT, "epoch, or iteration and it", "spec.rewind_epoch, spec.rewind_step",
               "where the copies set out, such as 1 or 500it", nullable=False),
        _field("rewound_to_step", _INT, "updates", "computed", "updates before that point"),
        _field("epochs", _INT, "epochs", "computed", "epochs that each copy was trained; a part of one counts"),
        _field("order_seed_a", _INT, "number", "computed", "seed of the one copy's SGD noise: order of the data, "
               "augmentation, dropout", nullable=False),
        _field("order_seed_b", _INT, "number", "computed", "seed of the other's", nullable=False),
        _field("part", _TEXT, "name", "computed", "part of the data: train or test", nullable=False),
        _field("batch_norm", _TEXT, "name", "computed", "running statistics on the line: raw (interpolated as all "
               "else) or recomputed (on training data); equal without BatchNorm", nullable=False),
        _field("n_points", _INT, "points", "computed", "networks on the line, ends included", nullable=False),
        _field("status", _TEXT, "name", "computed", f"{DONE}, or {DIVERGED}: a copy's loss was not finite",
               nullable=False),
        _field("error_a_pct", _FLOAT, _PER_CENT, "computed", "error of the one copy"),
        _field("error_b_pct", _FLOAT, _PER_CENT, "computed", "error of the other"),
        _field("error_max_pct", _FLOAT, _PER_CENT, "computed", "largest error on the line"),
        _field("at_max", _FLOAT, "part (0..1)", "computed", "where that is: 0 at a, 1 at b; the first where several"),
        _field("barrier_pp", _FLOAT, "percentage points", "computed", "error_max_pct minus the mean of error_a_pct and "
               "error_b_pct (arXiv 1912.05671, section 2)"),
        _field("stable", pa.bool_(), "true or false", "computed", f"barrier_pp is below {STABLE_PP:g}"),
        _field("alphas", _FLOATS, "part (0..1)", "computed", "places on the line: (1 - alpha) a + alpha b"),
        _field("errors_pct", _FLOATS, _PER_CENT, "computed", "error at each of them"),
        _field("device", _TEXT, "text", "fingerprint.device", "device that trained the copies"),
    ],
    metadata={
        "table": TABLE, "format": "1",
        "rows": "one row a network, pair of order seeds, part of the data and kind of BatchNorm statistics",
    },
)  # fmt: skip


def table(rows: Iterable[Row]) -> pa.Table:
    """Rows as the table `barriers`."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=BARRIERS)


def about(run: str, target: Target, step: int, pair: tuple[int, int], device: str) -> dict[str, Any]:
    """What all rows of one line have in common. step: updates before the start."""
    group = group_name(target.trial.name)
    return {
        "run": run, "trial": target.trial.name, "group": group,
        "ladder": None if target.is_dense else ladder_name(group),
        "baseline_group": None if target.dense is None else group_name(target.dense),
        "key": target.trial.record["key"], "seed": target.trial.spec.seed,
        "sparsity_pct": target.trial.record["result"]["sparsity_pct"],
        "target_sparsity_pct": target.trial.spec.target_sparsity_pct,
        "rewound_to": target.rewound_to, "rewound_to_step": step, "epochs": target.epochs,
        "order_seed_a": pair[0], "order_seed_b": pair[1], "device": device,
    }  # fmt: skip


def line_rows(
    common: Row, alphas: Sequence[float], curves: Mapping[tuple[str, str], Sequence[float] | None]
) -> list[dict[str, Any]]:
    """A row for each part and kind of statistics; a None curve is that of copies of which one diverged."""
    return [
        {
            **common, "part": part, "batch_norm": batch_norm, "n_points": len(alphas), "alphas": list(alphas),
            **(barrier_of(errors, alphas) if errors is not None else {"status": DIVERGED}),
        }
        for (part, batch_norm), errors in curves.items()
    ]  # fmt: skip


def barrier_of(errors: Sequence[float], alphas: Sequence[float]) -> dict[str, Any]:
    """The columns that errors, per cent, at `alphas` give."""
    highest = max(errors)
    barrier = highest - (errors[0] + errors[-1]) / 2
    return {
        "status": DONE, "error_a_pct": errors[0], "error_b_pct": errors[-1], "error_max_pct": highest,
        "at_max": alphas[list(errors).index(highest)], "barrier_pp": barrier, "stable": barrier < STABLE_PP,
        "errors_pct": list(errors),
    }  # fmt: skip
