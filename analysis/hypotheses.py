"""The claims of a run, one function each, and the verdict that follows from them.

Common to all: the unit of replication is the seed; a difference is ticket minus dense of one seed in percentage points
of the endpoint; endpoint, margin and alpha are the plan's, fixed before the first trial; the deciding test is the
one-sided paired t test (the exact sign-flip test where all differences are equal). No claim is tested on fewer than
`MIN_PAIRS` pairs: at 4 the sign-flip test could not get below 1/16. Primary comparisons (tickets against the dense
network of equal epochs) and secondary ones (other budgets) are separate families of tests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from analysis import stats
from analysis.pairs import Comparison, Group, compare, ladder_key
from analysis.plan import Rule
from analysis.schema import Row
from analysis.words import Finding, why

MIN_PAIRS = 5
_PART_SIZE = {"test_accuracy": "n_test", "valid_accuracy": "n_valid", "best_valid_accuracy": "n_valid"}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What became of one claim on one comparison.

    p: one-sided, unadjusted; None below 2 pairs. decisive: the p that is held against alpha, adjusted where the claim's
    family is. holds: True shown; False tested, not shown; None not tested. stopped_at: target sparsity (per cent) of
    the less sparse rung at which a fixed sequence ended before this one.
    """

    p: float | None
    decisive: float | None
    holds: bool | None
    stopped_at: float | None = None


def matches(ladder: Sequence[Comparison], rule: Rule) -> list[Claim]:
    """ "Matches dense": the mean difference is above -margin (non-inferiority).

    Test: one-sided paired t at alpha. Correction: none needed; the rungs of one ladder and one baseline, given from the
    least sparse to the sparsest, are a fixed sequence, which ends at the first rung that is not shown to match or has
    too few pairs. Alpha holds for each ladder. Source: Frankle & Carbin, arXiv 1803.03635, section 1 (commensurate
    accuracy); Piaggio et al. 2012, JAMA 308(24), for non-inferiority; Maurer, Hothorn & Lehmacher 1995.
    """
    p_values = [_p(c, lambda d: stats.non_inferiority(d, rule.margin_pp)) for c in ladder]
    tested = [p if c.n_pairs >= MIN_PAIRS else None for c, p in zip(ladder, p_values, strict=True)]
    decisions = stats.fixed_sequence(tested, rule.alpha)
    stop = next((i for i, decision in enumerate(decisions) if not decision), len(ladder))
    return [
        Claim(
            p=p,
            decisive=None if decision is None else p,
            holds=decision,
            stopped_at=_target(ladder[stop]) if i > stop else None,
        )
        for i, (p, decision) in enumerate(zip(p_values, decisions, strict=True))
    ]


def beats(family: Sequence[Comparison], rule: Rule) -> list[Claim]:
    """ "Beats dense": the mean difference is above 0 (superiority).

    Test: one-sided paired t at alpha. Correction: Holm over all comparisons of the family (all primary ones of the run,
    or all secondary ones); those with too few pairs count in it, so that an unfinished sweep is not judged more mildly.
    Source: Frankle & Carbin, arXiv 1803.03635, section 1 (tickets that exceed the original network); Holm 1979.
    """
    return _holm_claims(family, [_p(c, stats.superiority) for c in family], rule)


def falls_short(family: Sequence[Comparison], rule: Rule) -> list[Claim]:
    """ "Falls short": the mean difference is below -margin, the reverse of matching.

    Test: one-sided paired t at alpha. Correction: Holm over all comparisons of the family, as for `beats`. Source: the
    reverse of `matches`; Holm 1979.
    """
    return _holm_claims(family, [_p(c, lambda d: stats.inferiority(d, rule.margin_pp)) for c in family], rule)


def verdicts(trials: Iterable[Row], rule: Rule) -> list[dict[str, Any]]:
    """Rows of verdicts.parquet from rows of trials.parquet (None for null): primary comparisons first.

    Each comparison gets one word: "beats dense", else "matches dense", else "falls short", else "undecided"; `why` says
    it in a sentence.
    """
    rows = list(trials)
    comparisons = compare(rows, rule.endpoint)
    return [
        row for primary in (True, False) for row in _family_rows([c for c in comparisons if c.primary is primary], rule)
    ]


def _family_rows(family: Sequence[Comparison], rule: Rule) -> list[dict[str, Any]]:
    matching = _by_ladder(family, rule)
    return [
        _row(comparison, rule, claims, len(family))
        for comparison, *claims in zip(family, matching, beats(family, rule), falls_short(family, rule), strict=True)
    ]


def _by_ladder(family: Sequence[Comparison], rule: Rule) -> list[Claim]:
    """The matching claims of a family, each ladder with each of its baselines a sequence of its own."""
    ladders: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, comparison in enumerate(family):
        ladders[(ladder_key(comparison.group), comparison.baseline)].append(index)
    claims: dict[int, Claim] = {}
    for indices in ladders.values():
        claims |= dict(zip(indices, matches([family[i] for i in indices], rule), strict=True))
    return [claims[index] for index in range(len(family))]


def _holm_claims(family: Sequence[Comparison], p_values: Sequence[float | None], rule: Rule) -> list[Claim]:
    tested = [p if c.n_pairs >= MIN_PAIRS else None for c, p in zip(family, p_values, strict=True)]
    adjusted = stats.holm([1.0 if p is None else p for p in tested])
    return [
        Claim(p=p, decisive=None, holds=None) if test is None else Claim(p=p, decisive=holm, holds=holm <= rule.alpha)
        for p, test, holm in zip(p_values, tested, adjusted, strict=True)
    ]


def _p(comparison: Comparison, test: Any) -> float | None:
    return test(comparison.differences_pp).p if comparison.n_pairs >= 2 else None


def _row(comparison: Comparison, rule: Rule, claims: Sequence[Claim], family_size: int) -> dict[str, Any]:
    match, beat, short = claims
    numbers = _numbers(comparison, rule)
    verdict = _verdict(match, beat, short)
    finding = Finding(
        verdict=verdict, n_pairs=comparison.n_pairs, min_pairs=MIN_PAIRS, n_unpaired=comparison.n_unpaired,
        family_size=family_size, p_matches=match.decisive, p_beats_holm=beat.decisive,
        p_falls_short_holm=short.decisive, stopped_at=match.stopped_at, baseline=comparison.baseline,
        has_baseline=comparison.baseline_group is not None, difference_pp=numbers["difference_pp"],
        sd_pp=numbers["sd_pp"], test=numbers["test"], margin_pp=rule.margin_pp, alpha=rule.alpha,
    )  # fmt: skip
    return {
        **_identity(comparison), **numbers,
        "endpoint": rule.endpoint, "margin_pp": rule.margin_pp, "alpha": rule.alpha,
        "p_matches": match.p, "p_beats": beat.p, "p_beats_holm": beat.decisive,
        "p_falls_short": short.p, "p_falls_short_holm": short.decisive,
        "matches": match.holds, "beats": beat.holds, "verdict": verdict, "why": why(finding),
    }  # fmt: skip


def _verdict(match: Claim, beat: Claim, short: Claim) -> str:
    if beat.holds:
        return "beats dense"
    if match.holds:
        return "matches dense"
    return "falls short" if short.holds else "undecided"


def _identity(comparison: Comparison) -> dict[str, Any]:
    group, spec = comparison.group, comparison.group.spec
    named = ("dataset", "model", "schedule", "rewind_epoch", "epochs", "target_sparsity_pct")
    return {
        "group": group.name, "ladder": group.ladder, **{name: spec[name] for name in named},
        "baseline": comparison.baseline, "baseline_group": comparison.baseline_group, "primary": comparison.primary,
        "n_pairs": comparison.n_pairs, "n_unpaired": comparison.n_unpaired,
        "sparsity_pct": _mean([row["sparsity_pct"] for row in _done(group)]),
    }  # fmt: skip


def _numbers(comparison: Comparison, rule: Rule) -> dict[str, Any]:
    """Descriptive numbers of the pairs; null where there are too few of them."""
    d, enough = comparison.differences_pp, comparison.n_pairs >= 2
    interval = stats.t_interval(d)
    sizes = {row[_PART_SIZE[rule.endpoint]] for row in _done(comparison.group)} - {None}
    return {
        "mean_ticket": _mean(comparison.tickets),
        "mean_dense": _mean(comparison.dense),
        "difference_pp": _mean(d),
        "ci_low_pp": interval.low if interval else None,
        "ci_high_pp": interval.high if interval else None,
        "sd_pp": stats.standard_deviation(d) if enough else None,
        "hedges_g": stats.hedges_g(d),
        "test": stats.superiority(d).test if enough else None,
        "p_sign_flip": stats.sign_flip_p(d, -rule.margin_pp) if enough else None,
        "p_beats_sign_flip": stats.sign_flip_p(d) if enough else None,
        "resolution_pp": 100 / min(sizes) if sizes else None,
    }


def _done(group: Group) -> list[Row]:
    return [row for row in group.members if row["status"] == "done"]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _target(comparison: Comparison) -> float:
    return float(comparison.group.spec["target_sparsity_pct"])
