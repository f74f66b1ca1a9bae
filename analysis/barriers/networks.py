"""Networks and their barriers: rows of barriers.parquet, and rows grouped by network. Pure functions.

A barrier is how far the error rises along the straight line between two copies of a network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from analysis.barriers.targets import BarrierTarget
from analysis.labels import common_label, group_name, ladder_name, short_labels, without_fields
from analysis.tables.schema import Row
from lth_trainable.spec.rewind_point import RewindPoint

STABLE_PP = 2.0  # a network with a lower barrier is stable to SGD noise (arXiv 1912.05671, section 3)
DONE, DIVERGED = "done", "diverged"
RAW, RECOMPUTED = "raw", "recomputed"


def about_line(target: BarrierTarget, step: int, pair: tuple[int, int], device: str) -> dict[str, Any]:
    """The columns that all rows of a line share, except the run. step: number of updates before the start."""
    return {
        "trial": target.trial.name, "group": group_name(target.trial.name),
        "ladder": None if target.is_dense else ladder_name(target.trial.name),
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
    """One row for each data split and kind of BatchNorm statistics. A curve is None if a copy diverged."""
    return [
        {
            **common, "part": split, "batch_norm": batch_norm, "n_points": len(alphas), "alphas": list(alphas),
            **(barrier_of(errors, alphas) if errors is not None else {"status": DIVERGED}),
        }
        for (split, batch_norm), errors in curves.items()
    ]  # fmt: skip


def barrier_of(errors: Sequence[float], alphas: Sequence[float]) -> dict[str, Any]:
    """The barrier and related columns, from the errors (percent) at `alphas`."""
    highest = max(errors)
    barrier = highest - (errors[0] + errors[-1]) / 2
    return {
        "status": DONE, "error_a_pct": errors[0], "error_b_pct": errors[-1], "error_max_pct": highest,
        "at_max": alphas[list(errors).index(highest)], "barrier_pp": barrier, "stable": barrier < STABLE_PP,
        "errors_pct": list(errors),
    }  # fmt: skip


def barrier_between(errors: Sequence[float], alphas: Sequence[float]) -> dict[str, Any]:
    """The same for two networks that are not copies, whose errors may differ: how far the error rises above
    (1 - alpha) error_a + alpha error_b at its highest (Entezari et al., arXiv 2110.06296).

    Above the mean of the ends, as for copies, half of their difference would count as a barrier.
    """
    rises = [e - ((1 - x) * errors[0] + x * errors[-1]) for e, x in zip(errors, alphas, strict=True)]
    rises[0] = rises[-1] = 0.0  # the ends are exact
    barrier = max(rises)
    return {
        "error_a_pct": errors[0], "error_b_pct": errors[-1], "error_max_pct": max(errors),
        "at_max": alphas[rises.index(barrier)], "barrier_pp": barrier, "connected": barrier < STABLE_PP,
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Network:
    """All rows of one group of tickets, or of the dense network beside them, for one rewind point.

    ladder: that of the tickets. label: "dense", or the target sparsity.
    """

    ladder: str
    label: str
    rows: tuple[Row, ...]

    @property
    def step(self) -> int:
        return int(self.rows[0]["rewound_to_step"])

    @property
    def point(self) -> str:
        """The rewind point in words: "epoch 1", "iteration 500"."""
        return RewindPoint.parse(self.rows[0]["rewound_to"]).in_words

    @property
    def n_seeds(self) -> int:
        return len({row["seed"] for row in self.rows})

    @property
    def n_diverged(self) -> int:
        """The number of lines without errors because a copy diverged."""
        return len({_line_of(row) for row in self.rows if row["status"] != DONE})

    def barriers(self, split: str, batch_norm: str) -> list[float]:
        """The barrier of every line on the test or training data, pp."""
        return [
            row["barrier_pp"] for row in self.rows
            if row["part"] == split and row["batch_norm"] == batch_norm and row["status"] == DONE
        ]  # fmt: skip

    def is_stable(self, batch_norm: str) -> bool | None:
        """Whether the mean barrier on the test data is below the threshold; None if no line has a barrier."""
        barriers = self.barriers("test", batch_norm)
        return fmean(barriers) < STABLE_PP if barriers else None


def networks(rows: Sequence[Row]) -> list[Network]:
    """The networks, ladder by ladder: first the dense network, then the tickets from least sparse to sparsest.

    Dense networks without tickets beside them come last, each as a ladder of its own.
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
    order = {
        ladder: i for i, ladder in enumerate(dict.fromkeys(ladder_without_point(network.ladder) for network in found))
    }
    return sorted(found, key=lambda network: (order[ladder_without_point(network.ladder)], network.step))


def shared_label(found: Sequence[Network]) -> str:
    """Data set, model and everything else that all ladders have in common, in words."""
    return common_label([network.ladder for network in found])


def ladder_labels(found: Sequence[Network]) -> dict[str, str]:
    """Ladder -> what sets it apart, such as "rewind epoch 1"; the rewind point if there is only one ladder."""
    labels = short_labels([network.ladder for network in found])
    return labels if len(labels) > 1 else {network.ladder: f"rewind {network.point}" for network in found}


def has_batch_norm(rows: Iterable[Row]) -> bool:
    """Whether the kind of BatchNorm statistics makes a difference anywhere."""
    errors: dict[tuple[object, ...], dict[str, object]] = defaultdict(dict)
    for row in rows:
        errors[*_line_of(row), row["part"]][row["batch_norm"]] = row.get("errors_pct")
    return any(kinds.get(RAW) != kinds.get(RECOMPUTED) for kinds in errors.values())


def ladder_without_point(ladder: str) -> str:
    """The name of a ladder without its rewind point."""
    return without_fields(ladder, ("rewind_epoch", "rewind_step"))


_LINE = ("trial", "rewound_to", "order_seed_a", "order_seed_b", "state_a", "state_b", "n_points", "device")


def _line_of(row: Row) -> tuple[object, ...]:
    """What tells a line from others of its table."""
    return tuple(row.get(name) for name in _LINE)
