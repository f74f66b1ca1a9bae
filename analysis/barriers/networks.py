"""Rows of barriers.parquet: the error along the line between two copies of a network, and how high it rises. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from analysis.barriers.targets import BarrierTarget
from analysis.labels import common_label, group_name, ladder_name, short_labels, without_fields
from analysis.tables.schema import Row

STABLE_PP = 2.0  # a network with a lower barrier is stable to SGD noise (arXiv 1912.05671, section 3)
DONE, DIVERGED = "done", "diverged"
RAW, RECOMPUTED = "raw", "recomputed"


def about_line(target: BarrierTarget, step: int, pair: tuple[int, int], device: str) -> dict[str, Any]:
    """What all rows of one line have in common but the run. step: updates before the start."""
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
        return len({_line_of(row) for row in self.rows if row["status"] != DONE})

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
    order = {
        ladder: i for i, ladder in enumerate(dict.fromkeys(ladder_without_point(network.ladder) for network in found))
    }
    return sorted(found, key=lambda network: (order[ladder_without_point(network.ladder)], network.step))


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
        errors[*_line_of(row), row["part"]][row["batch_norm"]] = row.get("errors_pct")
    return any(kinds[RAW] != kinds[RECOMPUTED] for kinds in errors.values())


def point_label(rewound_to: str) -> str:
    """ "1" -> "epoch 1", "500it" -> "iteration 500"."""
    return f"iteration {rewound_to[:-2]}" if rewound_to.endswith("it") else f"epoch {rewound_to}"


def ladder_without_point(ladder: str) -> str:
    """A ladder's name without its rewind point."""
    return without_fields(ladder, ("rewind_epoch", "rewind_step"))


def _line_of(row: Row) -> tuple[object, ...]:
    return tuple(
        row[name] for name in ("trial", "rewound_to", "order_seed_a", "order_seed_b", "n_points", "device")
    )  # fmt: skip
