"""Rows of barriers.parquet: the error along the line between two copies of a network, and how high it rises. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.barriers.targets import Target
from analysis.tables.schema import Row
from analysis.verdicts.groups import group_name, ladder_name

STABLE_PP = 2.0  # a network with a lower barrier is stable to SGD noise (arXiv 1912.05671, section 3)
DONE, DIVERGED = "done", "diverged"


def about(target: Target, step: int, pair: tuple[int, int], device: str) -> dict[str, Any]:
    """What all rows of one line have in common but the run. step: updates before the start."""
    group = group_name(target.trial.name)
    return {
        "trial": target.trial.name, "group": group,
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
