"""What an undecided verdict still needs: how many seeds would decide it, and which interim look is next. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from analysis.stats.power import SeedsRange, seeds_range
from analysis.tables.schema import Row
from analysis.verdicts.families import Answer
from analysis.verdicts.groups import TICKET
from analysis.verdicts.questions import MIN_PAIRS, BoundTest

MOST_SEEDS = 1000  # larger numbers of seeds are not worth naming


NOT_BELOW = SeedsRange(low=None, point=None, high=None)  # more than `MOST_SEEDS`


def seeds_to_decide(answer: Answer, images: bool = True) -> SeedsRange | None:
    """Total number of seeds that would decide the claim at 80 % power; in the range, None is more than `MOST_SEEDS`.

    None without a range: not known. That is so below 2 pairs, where a trial is missing, and where values are censored:
    what is not known of a pair, more pairs do not show; longer training does. The observed means say which way it would
    be decided. The claim needs all its tests, so the largest of their numbers; behind the end of a ladder it also needs
    the rung where the ladder ended. The reverse needs one refuted test. The level is the fraction of alpha that the
    family guarantees. images: false for the number that would decide if there were images without end.
    """
    tests = answer.question.tests
    behind = answer.stopped.tests if answer.stopped else ()
    if any(test.pairs.n < 2 or test.pairs.n_censored for test in (*tests, *behind)):
        return None
    if answer.question.missing or answer.question.unfinished:
        return None
    if all(_points(test) > 0 for test in tests):
        found = [_seeds(test, 1, answer.share, answer.p is not None, images) for test in tests]
        found += [_seeds(test, 1, answer.share, True, images) for test in behind]
        return _joined(found, max)
    against = answer.share_against / len(tests)
    refuted = [_seeds(test, -1, against, answer.p_against is not None, images) for test in tests if _points(test) < 0]
    return _joined(refuted, min) if refuted else NOT_BELOW


def _joined(found: Sequence[SeedsRange], join: Callable[[Iterable[float]], float]) -> SeedsRange:
    """The range of the largest or of the least of several numbers, end by end."""

    def end(name: str) -> int | None:
        number = join(math.inf if (n := getattr(seeds, name)) is None else n for seeds in found)
        return None if number == math.inf else int(number)

    return SeedsRange(low=end("low"), point=end("point"), high=end("high"))


def _points(test: BoundTest) -> float:
    """Positive if the pairs speak for the claim, negative if they speak against it."""
    return test.sign * (float(test.differences.mean()) - test.bound)


def _seeds(test: BoundTest, direction: int, alpha: float, tested: bool, images: bool) -> SeedsRange:
    """Seeds that one test needs. tested: its present pairs were not enough, so it needs at least one more."""
    least, side = max(MIN_PAIRS, test.pairs.n + tested), direction * test.sign
    if least > MOST_SEEDS:
        return NOT_BELOW
    floor = test.floor if images else 0.0
    return seeds_range(
        side * test.differences, side * test.bound, alpha, at_most=MOST_SEEDS, at_least=least, floor=floor
    )


def lacks_images(answer: Answer, needed: SeedsRange | None) -> bool:
    """Whether no number of seeds is likely to decide with these test images, and one would with more of them."""
    if needed is None or needed.point is not None or not any(test.floor for test in answer.question.tests):
        return False
    unlimited = seeds_to_decide(answer, images=False)
    return unlimited is not None and unlimited.point is not None


# -- interim looks


def looks_taken(trials: Iterable[Row], looks: Sequence[int]) -> tuple[int, ...]:
    """The looks whose seeds have all been tried: planned, with no ticket or dense trial missing.

    The look of n seeds uses seeds 0 to n - 1. trials: rows of trials.parquet. Only tickets and dense networks count.
    Controls and baselines do not hold up a look, as a later command may leave them out.
    """
    status: dict[int, set[str]] = defaultdict(set)
    for row in trials:
        if row.get("role") not in ("control", "baseline"):
            status[row["seed"]].add(row["status"])
    tried = next((n for n in range(max(looks, default=0)) if not status[n] or "missing" in status[n]), None)
    return tuple(n for n in looks if tried is None or n <= tried)


def settled(verdicts: Iterable[Row]) -> dict[str, bool]:
    """Whether the primary "matches" question of each ladder of tickets is decided. verdicts: rows of verdicts.parquet.

    It is decided when all rungs match, or all rungs before the first one that falls short: no rung behind that one can
    be shown to match. Baselines do not count.
    """
    ladders: dict[str, list[str]] = defaultdict(list)
    for row in verdicts:
        if row["claim"] == "matches" and row["primary"] and row["role"] == TICKET:
            ladders[row["ladder"]].append(row["verdict"])
    return {ladder: next((v for v in rungs if v != "yes"), "no") == "no" for ladder, rungs in ladders.items()}


def next_look(verdicts: Sequence[Row], looks: Sequence[int]) -> int | None:
    """Number of seeds of the next look; None if all ladders are settled or all looks are taken."""
    taken = max((row["look"] for row in verdicts if row["look"] is not None), default=0)
    if taken and all(settled(verdicts).values()):
        return None
    return next((n for n in looks if n > taken), None)
