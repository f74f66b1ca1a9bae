"""Trials whose tickets differ from their dense networks by exact percentage points, and the verdicts on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.tables.run_plan import Rule
from analysis.verdicts.claims import verdicts
from analysis.verdicts.headlines import headlines
from tests.support.records import dense, ladder, paired, trial_rows, without_early_stop

RULE = Rule(margin_pp=1.0, alpha=0.05)
UP = [1.5, 1.8, 1.6, 1.9, 1.7]
SAME = [0.1, -0.2, 0.3, -0.1, 0.0]
BELOW = [-2.9, -3.1, -3.0, -3.2, -2.8]
VAGUE = [-3.0, 2.0, -1.0, 1.5, -2.0]
SLIGHTLY_LOWER = [-0.5, -0.3, -0.6, -0.4, -0.5]
SLIGHTLY_BELOW = [-1.9, -0.4, -1.6, -0.7, -1.3]
NEARLY_UP = [0.9, -0.4, 0.5, -0.2, 0.6]
Rows = list[dict[str, Any]]


def trials(differences: dict[float | None, Sequence[float]], seeds: int = 5, **fields: Any) -> Rows:
    """One ladder with exactly these differences (pp, by seed), and its dense trials."""
    specs = [*dense(seeds, **fields), *ladder(*(t for t in differences if t), seeds=seeds, schedule="omp", **fields)]
    return without_early_stop(trial_rows(specs, paired(95.0, differences)))


def judge(differences: dict[float | None, Sequence[float]], rule: Rule = RULE, seeds: int = 5) -> Rows:
    return verdicts(trials(differences, seeds), rule)


def of(rows: Rows, claim: str, kind: str = "dense") -> Rows:
    return [row for row in rows if (row["claim"], row["kind"]) == (claim, kind)]


def answers(rows: Rows) -> list[str]:
    return [row["verdict"] for row in rows]


def words(rows: Rows) -> list[str]:
    return [row["verdict"] for row in headlines(rows)]
