"""How many seeds would decide a question that is not decided: its power as its pairs so far have it."""

from __future__ import annotations

from analysis.stats.paired import standard_deviation
from analysis.stats.power import seeds_needed, seeds_needed_by_sign
from analysis.verdicts.families import Answer
from analysis.verdicts.questions import MIN_PAIRS, Part

MOST_SEEDS = 1000  # beyond this, a number of seeds is no plan


def seeds_to_decide(answer: Answer) -> int | None:
    """Seeds in all at which the claim would be decided at 80 % power; None beyond `MOST_SEEDS`, or below 2 pairs.

    Decided the way that the means point to: the claim needs all its parts, so the largest number of them, and for the
    rungs behind the end of a ladder also that of the rung where it ended; its reverse needs one refuted part. The level
    is the part of alpha that the family leaves at the worst. It takes observed means and deviations for the true ones.
    """
    parts = answer.question.parts
    if any(part.pairs.n < 2 for part in parts) or answer.question.missing:
        return None
    if all(_points(part) > 0 for part in parts):
        behind = answer.stopped.parts if answer.stopped else ()
        found = [_seeds(part, 1, answer.share, answer.p is not None) for part in parts]
        found += [_seeds(part, 1, answer.share, True) if part.pairs.n > 1 else None for part in behind]
        return None if None in found else max(n for n in found if n is not None)
    against = answer.share_against / len(parts)
    known = [_seeds(part, -1, against, answer.p_against is not None) for part in parts if _points(part) < 0]
    return min((n for n in known if n is not None), default=None)


def _points(part: Part) -> float:
    """Above 0 where the pairs speak for the claim, below where they speak against it."""
    if part.pairs.n_censored:
        return part.share(part.sign) - part.share(-part.sign)
    return part.sign * (float(part.differences.mean()) - part.bound)


def _seeds(part: Part, direction: int, alpha: float, tested: bool) -> int | None:
    """At least one more than have not been enough."""
    least = max(MIN_PAIRS, part.pairs.n + tested)
    if least > MOST_SEEDS:
        return None
    if part.pairs.n_censored:
        return seeds_needed_by_sign(part.share(direction * part.sign), alpha, at_most=MOST_SEEDS, at_least=least)
    delta = direction * part.sign * (float(part.differences.mean()) - part.bound)
    return seeds_needed(delta, standard_deviation(part.differences), alpha, at_most=MOST_SEEDS, at_least=least)
