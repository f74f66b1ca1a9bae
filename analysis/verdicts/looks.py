"""Where a group-sequential run stands: which looks are taken, what they settled, which one is next. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from analysis.tables.schema import Row
from analysis.verdicts.groups import TICKET


def looks_taken(trials: Iterable[Row], looks: Sequence[int]) -> tuple[int, ...]:
    """The looks whose seeds have all been tried: planned, and no ticket or dense trial of them missing.

    A look of n seeds is that of seeds 0 to n - 1; trials: rows of trials.parquet. The question of the looks is that of
    tickets and dense networks: controls and baselines, which a later command may leave out, do not hold it up.
    """
    status: dict[int, set[str]] = defaultdict(set)
    for row in trials:
        if row.get("role") not in ("control", "baseline"):
            status[row["seed"]].add(row["status"])
    tried = next((n for n in range(max(looks, default=0)) if not status[n] or "missing" in status[n]), None)
    return tuple(n for n in looks if tried is None or n <= tried)


def settled(verdicts: Iterable[Row]) -> dict[str, bool]:
    """Of each ladder of tickets whether its primary matching question is decided, from rows of verdicts.parquet.

    It is once every rung down to the first that falls short is shown to match: behind that one no rung can be.
    Baselines are not waited for.
    """
    ladders: dict[str, list[str]] = defaultdict(list)
    for row in verdicts:
        if row["claim"] == "matches" and row["primary"] and row["role"] == TICKET:
            ladders[row["ladder"]].append(row["verdict"])
    return {ladder: next((v for v in rungs if v != "yes"), "no") == "no" for ladder, rungs in ladders.items()}


def next_look(verdicts: Sequence[Row], looks: Sequence[int]) -> int | None:
    """Seeds of the look to take now; None where all ladders are settled or all looks are taken."""
    taken = max((row["look"] for row in verdicts if row["look"] is not None), default=0)
    if taken and all(settled(verdicts).values()):
        return None
    return next((n for n in looks if n > taken), None)
