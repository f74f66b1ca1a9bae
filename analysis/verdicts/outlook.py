"""What an open verdict still needs: seeds that would decide it, and where a run with interim looks stands. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from analysis.stats.paired import standard_deviation
from analysis.stats.power import seeds_needed, seeds_needed_by_sign
from analysis.tables.schema import Row
from analysis.verdicts.families import Answer
from analysis.verdicts.groups import TICKET
from analysis.verdicts.questions import MIN_PAIRS, BoundTest

MOST_SEEDS = 1000  # beyond this, a number of seeds is no plan


def seeds_to_decide(answer: Answer) -> int | None:
    """Seeds in all at which the claim would be decided at 80 % power; None beyond `MOST_SEEDS`, or below 2 pairs.

    Decided the way that the means point to: the claim needs all its parts, so the largest number of them, and for the
    rungs behind the end of a ladder also that of the rung where it ended; its reverse needs one refuted part. The level
    is the part of alpha that the family leaves at the worst. It takes observed means and deviations for the true ones.
    """
    tests = answer.question.tests
    if any(test.pairs.n < 2 for test in tests) or answer.question.missing:
        return None
    if all(_points(test) > 0 for test in tests):
        behind = answer.stopped.tests if answer.stopped else ()
        found = [_seeds(test, 1, answer.share, answer.p is not None) for test in tests]
        found += [_seeds(test, 1, answer.share, True) if test.pairs.n > 1 else None for test in behind]
        return None if None in found else max(n for n in found if n is not None)
    against = answer.share_against / len(tests)
    known = [_seeds(test, -1, against, answer.p_against is not None) for test in tests if _points(test) < 0]
    return min((n for n in known if n is not None), default=None)


def _points(test: BoundTest) -> float:
    """Above 0 where the pairs speak for the claim, below where they speak against it."""
    if test.pairs.n_censored:
        return test.share(test.sign) - test.share(-test.sign)
    return test.sign * (float(test.differences.mean()) - test.bound)


def _seeds(test: BoundTest, direction: int, alpha: float, tested: bool) -> int | None:
    """At least one more than have not been enough."""
    least = max(MIN_PAIRS, test.pairs.n + tested)
    if least > MOST_SEEDS:
        return None
    if test.pairs.n_censored:
        return seeds_needed_by_sign(test.share(direction * test.sign), alpha, at_most=MOST_SEEDS, at_least=least)
    delta = direction * test.sign * (float(test.differences.mean()) - test.bound)
    return seeds_needed(delta, standard_deviation(test.differences), alpha, at_most=MOST_SEEDS, at_least=least)


# -- interim looks


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
