"""From answers to rows of verdicts.parquet: the numbers of the deciding test, the verdict, and the reason in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from analysis.stats import paired as stats
from analysis.stats.power import SeedsRange
from analysis.tables.run_plan import Rule
from analysis.verdicts.families import NO, UNDECIDED, YES, Answer
from analysis.verdicts.groups import Group, Pairs, pair_up
from analysis.verdicts.outlook import lacks_images, seeds_to_decide
from analysis.verdicts.questions import MIN_PAIRS, BoundTest, Evidence, Question
from analysis.verdicts.reasons import Reason, diverged_note, ladder_reason, why, would_decide

LADDER_CLAIM = "largest_matching_sparsity"
RULE_VERSION = 2  # of docs/verdicts_in_detail.md; 1 is that of version 0.4.0
_NAMED = ("dataset", "model", "schedule", "rewind_epoch", "epochs", "target_sparsity_pct")


def row_of(answer: Answer, evidence: Evidence) -> dict[str, Any]:
    """The row of an answer. The numbers of a conjunction are those of its deciding test, which the column why names."""
    question, rule = answer.question, evidence.rule
    test = _deciding(answer)
    needed = seeds_to_decide(answer) if answer.verdict == UNDECIDED else None
    hint = None
    if answer.verdict == UNDECIDED:
        hint = would_decide([part.pairs for part in question.tests], needed, lacks_images(answer, needed))
    numbers = _numbers(test)
    note = diverged_note(numbers)
    return {
        **_identity(question.candidate.group),
        "claim": question.claim, "kind": question.kind, "baseline": question.baseline,
        "baseline_group": question.baseline_group, "primary": question.primary, "endpoint": test.endpoint,
        **numbers,
        "margin_pp": rule.margin_pp, **_proportions(question, rule), "alpha": rule.alpha,
        "correction": _correction(answer, evidence),
        "look": _look(evidence),
        "p": _nominal(question, max, lambda test: test.for_it), "p_decisive": answer.decisive,
        "p_against": _nominal(question, _bonferroni, lambda test: test.against_it),
        "p_against_decisive": answer.decisive_against, **_decisive_ends(answer, evidence, test),
        "verdict": answer.verdict, **_seeds(needed), "would_decide": hint,
        "why": why(_reason(answer, evidence, test, hint, note)),
    }  # fmt: skip


def ladder_row(rungs: Sequence[Answer], evidence: Evidence) -> dict[str, Any]:
    """The row of a whole ladder. rungs: its answers to "matches", the least sparse first.

    Its group is the sparsest one that is shown to match, or the first one if none is. Its effect is the target sparsity
    of that rung; null if none matches.
    """
    end = next((i for i, answer in enumerate(rungs) if answer.verdict != YES), len(rungs))
    last, beyond = rungs[max(end - 1, 0)], rungs[end] if end < len(rungs) else None
    question, pairs = last.question, last.question.tests[0].pairs
    verdict = YES if end else last.verdict
    return {
        **_identity(question.candidate.group),
        "claim": LADDER_CLAIM, "kind": question.kind, "baseline": question.baseline,
        "baseline_group": question.baseline_group, "primary": True, "endpoint": question.tests[0].endpoint,
        **_counts(pairs),
        "effect": question.candidate.group.target if end else None, "unit": "per cent",
        "margin_pp": evidence.rule.margin_pp, "alpha": evidence.rule.alpha, "look": _look(evidence),
        "p_decisive": last.decisive, "p_against_decisive": last.decisive_against,
        "correction": _correction(last, evidence),
        "verdict": verdict,
        **_seeds(seeds_to_decide(beyond) if beyond and beyond.verdict == UNDECIDED else None),
        "why": ladder_reason(
            question.candidate.group.target if end else None,
            (beyond.question.candidate.group.target, beyond.verdict) if beyond else None,
        ),
    }  # fmt: skip


def _decisive_ends(answer: Answer, evidence: Evidence, test: BoundTest) -> dict[str, float | None]:
    """The levels at which claim and reverse were tested in the end, and the bounds of the mean at these levels."""
    level, parts = answer.level, len(answer.question.tests)
    against = None if answer.level_against is None else answer.level_against / parts
    low, high = (level, against) if test.sign > 0 else (against, level)
    return {
        "level": level, "level_against": against,
        "decisive_low": evidence.end_of(test, "lower", low), "decisive_high": evidence.end_of(test, "upper", high),
    }  # fmt: skip


def _seeds(needed: SeedsRange | None) -> dict[str, int | None]:
    low, point, high = (needed.low, needed.point, needed.high) if needed else (None, None, None)
    return {"seeds_needed": point, "seeds_needed_low": low, "seeds_needed_high": high}


def _look(evidence: Evidence) -> int | None:
    return evidence.taken[-1] if evidence.taken else None


def _deciding(answer: Answer) -> BoundTest:
    """The test whose numbers the row shows.

    If the claim is refuted, the one with the least p of the reverse. Else one with too few pairs, or if all have enough
    the one with the largest p. If the claim is not tested, one without pairs.
    """
    tests = answer.question.tests
    if answer.question.missing:
        return replace(tests[0], pairs=Pairs())
    tested = [test for test in tests if test.pairs.n >= MIN_PAIRS]
    if answer.verdict == NO:
        return min(tested, key=lambda test: test.against_it(test.pairs))
    if len(tested) < len(tests):
        return min(tests, key=lambda test: test.pairs.n)
    return max(tested, key=lambda test: test.for_it(test.pairs))


def _bonferroni(p_values: Sequence[float]) -> float:
    return min(1.0, len(p_values) * min(p_values))


def _nominal(
    question: Question, join: Callable[[Sequence[float]], float], p_of: Callable[[BoundTest], Callable[[Pairs], float]]
) -> float | None:
    """p of all pairs, before looks and correction; None if a test has fewer than 2 pairs."""
    if question.missing or any(test.pairs.n < 2 for test in question.tests):
        return None
    return join([p_of(test)(test.pairs) for test in question.tests])


def _correction(answer: Answer, evidence: Evidence) -> str:
    """How the adjusted p values of the claim and of its reverse were found, in words."""
    question = answer.question
    steps = [
        *(["alpha spending (O'Brien and Fleming)"] if evidence.rule.looks else []),
        *(["largest p of its parts"] if len(question.tests) > 1 else []),
        *(["fixed sequence"] if question.claim == "matches" else []),
        *([answer.correction] if answer.correction else []),
    ]
    against = f"; against: {answer.correction_against}" if answer.correction_against != answer.correction else ""
    return ("; ".join(steps) or "none") + against


def _reason(answer: Answer, evidence: Evidence, test: BoundTest, needed: str | None, diverged: str | None) -> Reason:
    question, alpha = answer.question, evidence.rule.alpha
    first_look = evidence.rule.looks[0] if evidence.rule.looks and not evidence.taken else None
    stopped = answer.stopped.candidate.group.target if answer.stopped else None
    return Reason(
        verdict=answer.verdict, missing=question.missing, unfinished=question.unfinished, diverged=diverged,
        n_pairs=test.pairs.n, min_pairs=MIN_PAIRS,
        n_unpaired=len(test.pairs.broken), n_censored=test.pairs.n_censored,
        n_late=test.pairs.n_late, stopped_at=stopped, first_look=first_look,
        p=answer.decisive_against if answer.verdict == NO else answer.decisive,
        correction=answer.correction_against if answer.verdict == NO else answer.correction,
        tests=_named_tests(answer, evidence, test), conjunction=len(question.tests) > 1, needed=needed,
        test=_test_name(test), reached=answer.p is not None and answer.p <= alpha,
    )  # fmt: skip


def _named_tests(answer: Answer, evidence: Evidence, deciding: BoundTest) -> tuple[str, ...]:
    """The tests that the reason names: all if the claim is shown, the refuted one, or those that are not shown yet."""
    tests = answer.question.tests
    if answer.verdict == YES:
        return tuple(test.shown for test in tests)
    if answer.verdict == NO:
        return (deciding.refuted,)
    open_tests = [test for test in tests if (p := evidence.p_of_test(test)) is None or p > answer.share]
    return tuple(test.shown for test in open_tests)


def _identity(group: Group) -> dict[str, Any]:
    return {
        "rule_version": RULE_VERSION,
        "group": group.name, "ladder": group.ladder, "role": group.role, **{name: group.spec[name] for name in _NAMED},
        "sparsity_pct": _mean(row["sparsity_pct"] for row in group.done),
    }  # fmt: skip


def _numbers(test: BoundTest) -> dict[str, Any]:
    """Descriptive numbers of the pairs; null if there are too few pairs or some are censored."""
    pairs, d = test.pairs, test.differences
    known = pairs.n > 0 and not pairs.n_censored
    interval, alone = (test.weigh(pairs).interval, stats.t_interval(d)) if known and pairs.n > 1 else (None, None)
    return {
        **_counts(pairs), "n_images": pairs.crossed.m if pairs.crossed else None, "n_censored": pairs.n_censored,
        **_finished(test),
        "mean_ticket": _mean(pairs.tickets) if known else None, "mean_baseline": _mean(pairs.others) if known else None,
        "effect": float(d.mean()) if known else None, "unit": test.unit,
        "ci_low": interval.low if interval else None, "ci_high": interval.high if interval else None,
        "ci_low_over_seeds": alone.low if alone else None, "ci_high_over_seeds": alone.high if alone else None,
        "p_over_seeds": test.over_seeds(pairs, test.sign).p if alone else None,
        "sd": stats.standard_deviation(d) if interval else None, "hedges_g": stats.hedges_g(d) if known else None,
        "bound": test.bound, "resolution": test.resolution, "test": _test_name(test),
        "p_sign_flip": stats.sign_flip_p(test.sign * d, test.sign * test.bound) if interval else None,
    }  # fmt: skip


def _proportions(question: Question, rule: Rule) -> dict[str, float | int | None]:
    """What the margin stands for: test images, and the difference of dense networks that differ in the data order."""
    if question.claim not in ("matches", "beats") or not question.primary:
        return {}
    candidate, resolution = question.candidate, question.tests[0].resolution
    pairs = pair_up(candidate.again, candidate.dense.rows, rule.endpoint, "dense", ticket="dense again")
    d = 100 * pairs.differences
    interval = stats.t_interval(d)
    return {
        "margin_images": rule.margin_pp / resolution if resolution else None,
        "again_n_pairs": pairs.n, "again_effect_pp": float(d.mean()) if pairs.n else None,
        "again_ci_low_pp": interval.low if interval else None, "again_ci_high_pp": interval.high if interval else None,
        "again_sd_pp": stats.standard_deviation(d) if interval else None,
    }  # fmt: skip


def _counts(pairs: Pairs) -> dict[str, Any]:
    return {
        "n_pairs": pairs.n, "n_unpaired": len(pairs.broken), "unpaired": pairs.why_broken,
        "n_unfinished": len(pairs.unfinished), "n_diverged": len(pairs.diverged),
    }  # fmt: skip


def _finished(test: BoundTest) -> dict[str, Any]:
    """The mean difference without the pairs with a diverged trial, if there are such pairs."""
    pairs = test.pairs.finished()
    if not test.pairs.diverged or not pairs.n or pairs.n_censored:
        return {}
    d = replace(test, pairs=pairs).differences
    interval = test.weigh(pairs).interval if pairs.n > 1 else None
    return {
        "effect_finished": float(d.mean()), "ci_low_finished": interval.low if interval else None,
        "ci_high_finished": interval.high if interval else None,
    }  # fmt: skip


def _test_name(test: BoundTest) -> str | None:
    return test.weigh(test.pairs).test if test.pairs.n >= 2 else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None
