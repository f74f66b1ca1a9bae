"""What the supermasks of a run say: for each way to find a mask its best sparsity, and the accuracy there.

The best sparsity has the highest mean validation accuracy over seeds; what is told is the accuracy on the test images.
So the choice among many sparsities does not flatter the accuracy. Pure functions of rows of supermasks.parquet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from analysis.stats.paired import Interval, superiority, t_interval
from analysis.tables.schema import Row

RANDOM = "random"
ARM = ("dataset", "model", "found", "criterion", "weights")  # columns that tell ways to find a mask apart


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Untrained networks under masks of one kind, at their best sparsity.

    found: how the masks were found, "one_shot" or "rounds". weights: "initial" or "signed_constants". round: of the
    best sparsity. rows: of the networks there, one a seed. random_pp: mean difference to random masks of equal layer
    densities and equally treated weights, percentage points; None if they are not measured. p: one-sided, paired by
    seed, that this difference is above zero; None below 2 seeds.
    """

    dataset: str
    model: str
    found: str
    criterion: str
    weights: str
    round: int
    rows: tuple[Row, ...]
    random_pp: float | None
    p: float | None

    @property
    def n(self) -> int:
        return len(self.rows)

    @property
    def weights_left_pct(self) -> float:
        return fmean(row["weights_left_pct"] for row in self.rows)

    @property
    def accuracy_pct(self) -> float:
        """Mean test accuracy over seeds."""
        return 100 * fmean(row["test_accuracy"] for row in self.rows)

    @property
    def interval(self) -> Interval | None:
        """The 95 % t-interval over seeds, percent; None below 2 seeds."""
        return t_interval([100 * row["test_accuracy"] for row in self.rows])

    @property
    def majority_pct(self) -> float | None:
        """Test accuracy of always answering the commonest class; None if it is not known."""
        known = [row["majority_class_accuracy"] for row in self.rows if row["majority_class_accuracy"] is not None]
        return 100 * fmean(known) if known else None


def arms(rows: Sequence[Row]) -> list[Arm]:
    """Every way to find a mask, the most accurate first within a network and its treatment of weights."""
    grouped: dict[tuple[str, ...], dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        grouped[tuple(row[name] for name in ARM)][row["round"]].append(row)
    random = {
        (row["model"], row["seed"], row["weights"], row["n_kept"]): row
        for row in rows if row["criterion"] == RANDOM
    }  # fmt: skip
    found = [_best(dict(zip(ARM, key, strict=True)), by_round, random) for key, by_round in grouped.items()]
    return sorted(found, key=lambda arm: (arm.dataset, arm.model, arm.weights, -arm.accuracy_pct))


def _best(about: Row, by_round: Mapping[int, list[Row]], random: Mapping[tuple[Any, ...], Row]) -> Arm:
    seeds = max(len(group) for group in by_round.values())
    whole = {n: group for n, group in by_round.items() if len(group) == seeds}
    best = max(whole, key=lambda n: (fmean(row["valid_accuracy"] for row in whole[n]), -n))
    chosen = sorted(whole[best], key=lambda row: int(row["seed"]))
    others = [random.get((row["model"], row["seed"], row["weights"], row["n_kept"])) for row in chosen]
    ahead = [
        100 * (row["test_accuracy"] - other["test_accuracy"])
        for row, other in zip(chosen, others, strict=True) if other is not None
    ]  # fmt: skip
    is_random = about["criterion"] == RANDOM or len(ahead) < len(chosen)
    return Arm(
        **about, round=best, rows=tuple(chosen), random_pp=None if is_random else fmean(ahead),
        p=None if is_random or len(ahead) < 2 else superiority(ahead).p,
    )  # fmt: skip
