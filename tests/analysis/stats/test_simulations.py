"""Nulls hold alpha and effects reach their power: 2,000 simulated sweeps each, through the decisions of the verdicts.

p values are drawn as arrays; that they are those of the verdicts is tested first. Tolerances are four standard errors
of the binomial part that is expected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import special

from analysis.stats import paired as stats
from analysis.stats.multiplicity import adjusted_p
from analysis.stats.power import effect_interval, power, seeds_needed
from analysis.stats.sequential import plan, planned_looks, sequential_p
from analysis.tables.clocks import iterations_before
from analysis.tables.run_plan import Rule
from analysis.verdicts.baselines import find_candidates
from analysis.verdicts.claims import beats_dense, faster, matching, verdicts, winning
from analysis.verdicts.families import YES, Answer, by_holm, by_ladder
from analysis.verdicts.questions import Evidence, Question
from tests.support.records import control_rows, dense, ladder, trial_rows, with_early_stop

SWEEPS, ALPHA = 2000, 0.025
RULE = Rule(margin_pp=1.0, alpha=ALPHA)
Values = npt.NDArray[np.float64]


def noise(part: float) -> float:
    return 4 * math.sqrt(part * (1 - part) / SWEEPS)


def t_p(d: Values, bound: float = 0.0) -> Values:
    """One-sided p of the paired t test over the last axis of `d`, for a mean above `bound`."""
    n = d.shape[-1]
    t = (d.mean(-1) - bound) * math.sqrt(n) / d.std(-1, ddof=1)
    return np.asarray(special.stdtr(n - 1, -t))


class Drawn(Evidence):
    """Evidence whose p values are given, in the order of the questions of its family."""

    def __init__(self, questions: Sequence[Question], shown: Sequence[float], refuted: Sequence[float]) -> None:
        super().__init__(candidates=(), rule=RULE)
        self.__dict__["shown"] = {id(question): p for question, p in zip(questions, shown, strict=True)}
        self.__dict__["refuted"] = {id(question): p for question, p in zip(questions, refuted, strict=True)}

    def p_for(self, question: Question) -> float | None:
        return self.__dict__["shown"][id(question)]

    def p_against(self, question: Question) -> float | None:
        return self.__dict__["refuted"][id(question)]


def asked(claim: Callable[[Evidence], list[Answer]], rows: Sequence[dict[str, Any]]) -> list[Question]:
    answers = claim(Evidence(candidates=find_candidates(rows), rule=RULE))
    return [answer.question for answer in answers if answer.question.primary]


def part_of_sweeps(
    rule: Callable[[Sequence[Question], Evidence], list[Answer]], questions: Sequence[Question], p: Values,
    verdict: str = YES, against: Values | None = None,
) -> float:  # fmt: skip
    """Part of the sweeps in which at least one question is answered so; p: shape (sweeps, questions)."""
    refuted = np.ones_like(p) if against is None else against
    hits = 0
    for shown, other in zip(p.tolist(), refuted.tolist(), strict=True):
        hits += any(answer.verdict == verdict for answer in rule(questions, Drawn(questions, shown, other)))
    return hits / len(p)


def differences(rng: np.random.Generator, questions: int, n: int, mean: float, shared: float = 0.6) -> Values:
    """Differences of sd 1, shape (sweeps, questions, n): one dense trial a seed, so questions hang together."""
    dense_noise = rng.normal(0, shared, (SWEEPS, 1, n))
    return mean + dense_noise + rng.normal(0, math.sqrt(1 - shared**2), (SWEEPS, questions, n))


def sweep(*targets: float, ladders: int = 1, n: int = 5) -> list[dict[str, Any]]:
    specs = [*dense(n), *(spec for k in range(ladders) for spec in ladder(*targets, seeds=n, rewind_epoch=k))]
    return trial_rows(specs, lambda spec: 0.9)


def test_the_drawn_p_values_are_those_of_the_verdicts() -> None:
    rng = np.random.default_rng(1)
    rows = sweep(64, 87.04)
    for d in differences(rng, 2, 5, 0.3)[:20]:
        by_target = {64.0: d[0], 87.04: d[1]}
        drawn = [
            row | {"test_accuracy": 0.9 + (by_target[row["target_sparsity_pct"]][row["seed"]] / 100
                                           if row["control"] == "none" else 0)}
            for row in rows
        ]  # fmt: skip
        found = verdicts(drawn, RULE)
        for claim, bound in (("matches", -1.0), ("beats", 0.0)):
            p = [row["p"] for row in found if row["claim"] == claim]
            assert p == pytest.approx(list(t_p(d, bound)), abs=1e-10)
        p = [row["p_against"] for row in found if row["claim"] == "matches"]
        assert p == pytest.approx(list(1 - t_p(d, -1.0)), abs=1e-10)


@pytest.mark.parametrize(("targets", "ladders"), [((64,), 1), ((64, 87.04, 92.22), 1), ((64, 87.04), 2), ((64,), 4)])
def test_matching_holds_alpha_over_ladders_and_rungs(targets: tuple[float, ...], ladders: int) -> None:
    """All rungs lie on the margin: the chance of any false "matches" is alpha for one ladder, no more for several."""
    questions = asked(matching, sweep(*targets, ladders=ladders))
    d = differences(np.random.default_rng(len(questions)), len(questions), 5, -1.0)
    found = part_of_sweeps(by_ladder, questions, t_p(d, -1.0))
    assert found < ALPHA + noise(ALPHA)
    if ladders == 1:
        assert found > ALPHA - noise(ALPHA)


def test_one_ladder_at_the_margin_under_others_that_match() -> None:
    """The worst case of the ladders: all but one are shown, so that the last has the whole of alpha."""
    questions = asked(matching, sweep(64, 87.04, ladders=3))
    d = differences(np.random.default_rng(3), len(questions), 5, 2.0)
    d[:, 2:4] -= 3.0  # the second ladder, both of its rungs
    p = t_p(d, -1.0)
    p[:, [0, 1, 4, 5]] = 1e-9
    answers = [by_ladder(questions, Drawn(questions, row, [1.0] * 6)) for row in p.tolist()]
    wrong = [any(answer.verdict == YES for answer in found[2:4]) for found in answers]
    assert abs(np.mean(wrong) - ALPHA) < noise(ALPHA)


@pytest.mark.parametrize("count", [1, 3])
def test_beating_and_its_reverse_hold_alpha_over_a_family(count: int) -> None:
    questions = asked(beats_dense, sweep(*(64, 87.04, 92.22)[:count]))
    p = t_p(differences(np.random.default_rng(7), count, 5, 0.0))
    for verdict, shown, refuted in ((YES, p, None), ("no", np.ones_like(p), 1 - p)):
        found = part_of_sweeps(by_holm, questions, shown, verdict, refuted)
        assert found < ALPHA + noise(ALPHA)
        assert count > 1 or found > ALPHA - noise(ALPHA)


def test_falling_short_holds_alpha_over_a_family() -> None:
    questions = asked(matching, sweep(64, 87.04, 92.22))
    p = t_p(differences(np.random.default_rng(9), 3, 5, -1.0), -1.0)
    assert 0 < part_of_sweeps(by_ladder, questions, np.ones_like(p), "no", 1 - p) < ALPHA + noise(ALPHA)


@pytest.mark.parametrize("hanging", [0.0, 0.6])
def test_a_conjunction_needs_no_correction_over_its_parts(hanging: float) -> None:
    """Two of three parts are true by far and one lies on its bound: alpha. All three on their bounds: less."""
    rows = with_early_stop(sweep(64), [200] * 5, [200] * 5)
    questions = asked(winning, [*rows, *control_rows(rows, "reinit", [0.0] * 5)])
    assert [len(question.tests) for question in questions] == [3]
    d = differences(np.random.default_rng(11), 3, 5, 0.0, hanging)
    on_bounds = t_p(d).max(1, keepdims=True)
    assert part_of_sweeps(by_holm, questions, on_bounds) < ALPHA
    one_of_them = t_p(d + np.array([9, 9, 0])[:, None]).max(1, keepdims=True)
    assert abs(part_of_sweeps(by_holm, questions, one_of_them) - ALPHA) < noise(ALPHA)
    against = np.minimum(1, 3 * (1 - t_p(d)).min(1, keepdims=True))
    assert part_of_sweeps(by_holm, questions, np.ones_like(against), "no", against) < ALPHA + noise(ALPHA)


@pytest.mark.parametrize("ends_at", [300, 420, 10_000])
def test_the_sign_test_of_censored_early_stops_holds_alpha(ends_at: int) -> None:
    """Ticket and dense early stops alike, cut off where the training ends: none, some or nearly all are censored."""
    rng, rows = np.random.default_rng(13), sweep(64, n=8)
    stops = rng.gamma(9, 40, (SWEEPS, 2, 8))
    shown = refuted = 0
    question = asked(faster, with_early_stop(rows, [1] * 8, [2] * 8))[0]
    for ticket, other in np.minimum(stops, ends_at):
        part = question.tests[0]
        pairs = replace(
            part.pairs, tickets=tuple(ticket), others=tuple(other), tickets_censored=tuple(ticket == ends_at),
            others_censored=tuple(other == ends_at),
        )  # fmt: skip
        shown += part.for_it(pairs) <= ALPHA
        refuted += part.against_it(pairs) <= ALPHA
    for hits in (shown, refuted):
        assert hits / SWEEPS < ALPHA + noise(ALPHA)
    if ends_at == 10_000:
        assert shown > 0 and abs(shown / SWEEPS - ALPHA) < noise(ALPHA), "of which none is censored: the t test"


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.4])
def test_diverged_tickets_at_chance_hold_alpha(rate: float) -> None:
    """Tickets that are on the margin if they do not diverge: counting the others as 86 pp below makes no "yes"."""
    rng = np.random.default_rng(31)
    d = np.where(rng.random((SWEEPS, 8)) < rate, -86.0, rng.normal(-1, 0.5, (SWEEPS, 8)))
    assert (t_p(d, -1.0) <= ALPHA).mean() < ALPHA + noise(ALPHA)
    equal = np.where(rng.random((SWEEPS, 8)) < rate, -86.0, rng.normal(0, 0.5, (SWEEPS, 8)))
    some = (equal < -50).any(1)
    assert not (t_p(equal, -1.0)[some] <= ALPHA).any(), "tickets equal to dense of which one diverged: never a yes"
    assert (t_p(equal, -1.0)[~some] <= ALPHA).mean() > 0.95, "where none has, the power is as before"


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_both_sides_diverging_alike_holds_alpha(rate: float) -> None:
    """Ticket and dense are equal and diverge equally often: "beats" and its reverse hold alpha over 8 and 20 seeds."""
    rng = np.random.default_rng(37)
    for n in (8, 20):
        outcomes = np.where(rng.random((SWEEPS, 2, n)) < rate, 10.0, 96 + rng.normal(0, 0.5, (SWEEPS, 2, n)))
        p = t_p(outcomes[:, 0] - outcomes[:, 1])
        for one_side in (p, 1 - p):
            assert (one_side <= ALPHA).mean() < ALPHA + noise(ALPHA)


def test_faster_holds_alpha_where_the_epochs_before_the_rewind_point_count() -> None:
    """Tickets rewound to epoch 5 of 20 iterations that need as many from the initialisation as dense: alpha, not more.

    Without the 100 iterations before the rewind point nearly all of them would be "faster".
    """
    rng = np.random.default_rng(41)
    dense_stop = np.round(300 + 40 * rng.normal(size=(SWEEPS, 8)))
    since_prune = np.round(300 + 40 * rng.normal(size=(SWEEPS, 8))) - 100
    (row,) = trial_rows(ladder(64, seeds=1, rewind_epoch=5), lambda spec: 0.9)
    before = iterations_before(row)
    assert before == 100
    assert abs((t_p(dense_stop - (before + since_prune)) <= ALPHA).mean() - ALPHA) < noise(ALPHA)
    assert (t_p(dense_stop - since_prune) <= ALPHA).mean() > 0.95


@pytest.mark.parametrize(("n", "true", "margin"), [(8, 0.0, 1.0), (5, 0.4, 1.0), (12, 0.8, 0.0)])
def test_effects_are_found_at_the_computed_power(n: int, true: float, margin: float) -> None:
    questions = asked(matching, sweep(64))
    d = differences(np.random.default_rng(n), 1, n, true)
    expected = power(n, true + margin, 1.0, ALPHA)
    assert 0.3 < expected < 0.99
    assert abs(part_of_sweeps(by_ladder, questions, t_p(d, -margin)) - expected) < noise(expected)


def test_the_seeds_that_a_verdict_asks_for_reach_80_per_cent() -> None:
    """After Holm over three at the worst: alpha / 3 each, for a mean of 0.7 below a margin that it is 1.7 beyond."""
    n = seeds_needed(0.7, 1.0, ALPHA / 3)
    assert n is not None
    questions = asked(matching, sweep(64, 87.04, 92.22))
    d = differences(np.random.default_rng(17), 3, n, -1.7)
    d[:, :2] += 0.7  # two others are on the margin and decide nothing
    against = 1 - t_p(d, -1.0)
    hits = np.array([stats.holm(row)[2] <= ALPHA for row in against.tolist()])
    assert hits.mean() > 0.8 - noise(0.8)
    assert part_of_sweeps(by_ladder, questions, np.ones_like(against), "no", against) >= hits.mean()


@pytest.mark.parametrize("most", [8, 12, 20])
def test_looking_again_holds_alpha_over_ladders(most: int) -> None:
    """Sequential p values of two ladders on the margin through Holm; the excess for few pairs is the documented one."""
    looks = planned_looks(most)
    d = differences(np.random.default_rng(most), 2, most, -1.0)
    p = np.stack([t_p(d[..., :n], -1.0) for n in looks], axis=-1)
    found = np.array([[sequential_p(looks, ladder) for ladder in row] for row in p.tolist()])
    excess = 0.007  # of single plans from 5 pairs on: table in the docstring of `sequential.plan`
    assert abs((found[:, 0] <= ALPHA).mean() - ALPHA - excess / 2) < excess / 2 + noise(ALPHA)
    wrong = [any(ladder[0] <= ALPHA for ladder in adjusted_p([[float(x)] for x in row])) for row in found]
    assert np.mean(wrong) < ALPHA + excess + noise(ALPHA)


@pytest.mark.parametrize(("n", "true"), [(5, 0.45), (8, 0.45), (20, 0.8)])
def test_the_range_of_seeds_covers_the_true_number_in_four_of_five_runs(n: int, true: float) -> None:
    """The number follows from the effect, so the range covers it where the interval of the effect does."""
    d = np.random.default_rng(43).normal(true, 1.0, (SWEEPS, n))
    effects = d.mean(1) / d.std(1, ddof=1)
    covered = [low <= true <= high for low, high in (effect_interval(effect, n) for effect in effects.tolist())]
    assert abs(np.mean(covered) - 0.8) < noise(0.8)


def test_looks_save_seeds_and_keep_the_power() -> None:
    """Tickets equal to dense, sd 1 pp, margin 1 pp: nearly the power of all 20 seeds, at about 15 of them."""
    looks = planned_looks(20)
    d = differences(np.random.default_rng(23), 1, 20, 0.0)[:, 0]
    rejects = np.stack([t_p(d[:, :n], -1.0) for n in looks], axis=-1) <= plan(looks, ALPHA).levels
    fixed = power(20, 1.0, 1.0, ALPHA)
    assert rejects.any(1).mean() > fixed - 0.01 - noise(fixed)
    assert np.where(rejects.any(1), np.array(looks)[rejects.argmax(1)], 20).mean() < 15.5
