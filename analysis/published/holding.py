"""Hold the claims of papers against the trials of a run: rows of published.parquet. Pure functions of rows.

One test for each claim and ladder, without a correction: each claim is a question of its own. With fewer than 5 pairs
nothing is decided, as in the verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from analysis.published.arms import Ladder, Level, ladders_for, levels_in_words, nearest, why_no_ladder
from analysis.published.claims import Claim
from analysis.published.estimates import Found, best_on_validation, estimate_at, fall_of, in_rounds
from analysis.published.points import ACCURACY, CI95, FALLS_BELOW, LESS_THAN, MORE_THAN, SD, SUPERMASK, Point
from analysis.published.untrained import estimate_of, series_for
from analysis.stats.equivalence import AGREES, DISAGREES, Estimate, Spread, judge, minus_published
from analysis.stats.paired import t_value
from analysis.tables.published_schema import ABSENT, OPEN, PUBLISHED
from analysis.tables.run_plan import Rule
from analysis.tables.schema import Row
from analysis.text import percent, plural
from analysis.verdicts.baselines import Candidate, find_candidates
from analysis.verdicts.questions import MIN_PAIRS
from analysis.verdicts.splits import with_own_splits

CHOSEN = "; level chosen on validation"
_RENAMED = {"value": "published", "n": "n_published"}  # columns of a point in the table


def hold(
    claims: Iterable[Claim], trials: Iterable[Row], rule: Rule, supermasks: Sequence[Row] = ()
) -> list[dict[str, Any]]:
    """A row for each claim and ladder of the run that it speaks of, in the order of the claims.

    A claim that the run has nothing for has one row, which says why. supermasks: rows of supermasks.parquet.
    """
    rows = with_own_splits(trials)
    candidates = find_candidates(rows, rule.tuned)
    return [
        row
        for claim in claims
        for row in (
            _untrained(claim, rows, rule, supermasks)
            if claim.point.quantity == SUPERMASK
            else _hold(claim, rows, candidates, rule)
        )
    ]


def _untrained(claim: Claim, trials: Sequence[Row], rule: Rule, supermasks: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of a claim about untrained networks, one for each network."""
    found = series_for(claim.point, supermasks)
    if not found:
        lacks = "no such masks are measured" if supermasks else "no masks are measured: python -m analysis supermasks"
        return [_absent(claim, lacks, rule)]
    rows = []
    for series in found:
        measured, left = estimate_of(series, trials, confidence_of(rule))
        at = {"ladder": series.name, "n": measured.n, "weights_left_here_pct": left}
        rows.append(_held(claim, measured, rule, at, CHOSEN))
    return rows


def _hold(claim: Claim, trials: Sequence[Row], candidates: Sequence[Candidate], rule: Rule) -> list[dict[str, Any]]:
    ladders = ladders_for(claim.point, candidates)
    if not ladders:
        return [_absent(claim, why_no_ladder(claim.point, trials), rule)]
    return [_against(claim, ladder, rule) for ladder in ladders]


def _against(claim: Claim, ladder: Ladder, rule: Rule) -> dict[str, Any]:
    """The row of a claim and a ladder."""
    point = claim.point
    levels = [level for level in ladder.levels if all(level.side(arm) for arm in _arms(point))]
    if not levels:
        missing = next(arm for arm in _arms(point) if not any(level.side(arm) for level in ladder.levels))
        return _absent(claim, f"no {missing.replace('_', ' ')} of these tickets", rule, ladder)
    if point.quantity == FALLS_BELOW:
        return _fall(claim, ladder, levels, rule)
    level = _level_of(point, levels)
    if level is None:
        why = f"no level near {percent(point.weights_left_pct or 0)} % of the weights; it has {levels_in_words(levels)}"
        return _absent(claim, why, rule, ladder)
    found = estimate_at(point, level, confidence_of(rule))
    at = {
        "ladder": ladder.name, "group": level.group, "n": found.n,
        "weights_left_here_pct": 100.0 if point.is_of_dense else level.left_pct,
    }  # fmt: skip
    is_given = point.weights_left_pct is not None or point.is_of_dense
    return _held(claim, found, rule, at, "" if is_given else CHOSEN)


def _held(claim: Claim, found: Found, rule: Rule, at: Mapping[str, Any], chosen: str) -> dict[str, Any]:
    """The row of a claim and what the run has for it. at: where. chosen: how the level was, if it was."""
    if found.estimate is None or found.is_bound:
        return _row(claim, rule, result=OPEN, why=found.lacks or "", **at)
    difference = minus_published(found.estimate, claim.point.value, standard_error(claim), confidence_of(rule))
    judged = _judged(claim, difference, found.n, found.lacks, chosen)
    return _row(claim, rule, here=found.estimate.mean, **judged, **at)


def _fall(claim: Claim, ladder: Ladder, levels: Sequence[Level], rule: Rule) -> dict[str, Any]:
    """The row of a claim about the level from which on an arm is below another."""
    point = claim.point
    fall = fall_of(point, levels, rule.alpha, rule.margin_pp)
    difference = in_rounds(fall, point.value)
    ends = ["no level" if left is None else f"{percent(left)} %" for left in (fall.most, fall.least)]
    where = f"; from {ends[0]} on at the earliest, from {ends[1]} on at the latest, in {levels_in_words(levels)}"
    judged = _judged(claim, difference, fall.n, fall.lacks, where)
    return _row(claim, rule, here=fall.by_means, ladder=ladder.name, n=fall.n, **judged)


def _level_of(point: Point, levels: Sequence[Level]) -> Level | None:
    if point.is_of_dense:
        return levels[0]
    if point.weights_left_pct is None:
        return best_on_validation(point, levels)
    return nearest(levels, point.weights_left_pct)


def _judged(claim: Claim, difference: Estimate, n: int, lacks: str | None, more: str) -> dict[str, Any]:
    """Difference, interval, result and why."""
    few = f"{plural(n, 'pair')}; nothing is decided with fewer than {MIN_PAIRS}" if n < MIN_PAIRS else None
    result = OPEN if lacks or few else judge(difference, *claim.bounds)
    return {
        "difference": _finite(difference.mean), "ci_low": _finite(difference.low), "ci_high": _finite(difference.high),
        "result": result, "why": (lacks or few or _why(claim, result, difference)) + more,
    }  # fmt: skip


def _why(claim: Claim, result: str, difference: Estimate) -> str:
    unit = claim.point.margin_unit
    if not claim.margin and difference.low is not None:
        return _why_of_bound(claim.point, result)
    side = {MORE_THAN: "below ", LESS_THAN: "above "}.get(claim.point.relation, "from ")
    if result == AGREES:
        return f"all of the interval is at most {claim.margin:g} {unit} {side}what was published"
    if result == DISAGREES:
        return f"all of the interval is more than {claim.margin:g} {unit} {side}what was published"
    if difference.low is None:
        return "there is no interval"
    return f"the interval reaches beyond the margin of {claim.margin:g} {unit}"


def _why_of_bound(point: Point, result: str) -> str:
    bound = f"{point.value:g} {point.unit}"
    if result == OPEN:
        return f"{bound} lies within the interval"
    is_above = (result == AGREES) == (point.relation == MORE_THAN)
    return f"all of the interval is {'above' if is_above else 'below'} {bound}"


def standard_error(claim: Claim) -> Spread | None:
    """The standard error of the published value; None if it counts as a constant."""
    point = claim.point
    if claim.constant_because or point.spread is None:
        return None
    if point.spread_kind == SD and point.n is not None:
        return Spread(error=point.spread / math.sqrt(point.n), df=point.n - 1)
    df = math.inf if point.n is None else point.n - 1
    return Spread(error=point.spread / (t_value(df, 0.95) if point.spread_kind == CI95 else 1.0), df=df)


def confidence_of(rule: Rule) -> float:
    """Of the interval that two one-sided tests at alpha amount to."""
    return 1 - 2 * rule.alpha


def _arms(point: Point) -> list[str]:
    return [point.arm] if point.quantity == ACCURACY or point.against is None else [point.arm, point.against]


def _absent(claim: Claim, why: str, rule: Rule, ladder: Ladder | None = None) -> dict[str, Any]:
    return _row(claim, rule, result=ABSENT, why=why, ladder=None if ladder is None else ladder.name)


def _row(claim: Claim, rule: Rule, **found: Any) -> dict[str, Any]:
    point = {_RENAMED.get(name, name): value for name, value in asdict(claim.point).items()}
    return {
        **dict.fromkeys(PUBLISHED.names), **point, "margin": claim.margin, "margin_unit": claim.point.margin_unit,
        "confidence": confidence_of(rule), "is_constant": claim.constant_because is not None, **found,
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
