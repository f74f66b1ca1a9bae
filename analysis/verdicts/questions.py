"""From pairs to p values: single tests against a bound, questions made of them, and the p values at interim looks.

Every test is one-sided, and each bound is tested from both sides: one p for the claim, and one for its reverse.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.labels import control_label
from analysis.stats import paired as stats
from analysis.stats.paired import PValue, Values
from analysis.tables.clocks import FROM_INIT
from analysis.tables.run_plan import Rule
from analysis.tables.schema import Row
from analysis.text import plural
from analysis.verdicts.baselines import DENSE_KINDS, Baseline, Candidate
from analysis.verdicts.groups import Pairs, pair_up
from analysis.verdicts.reasons import PP
from analysis.verdicts.weighing import Weighed, at_looks, weigh

MIN_PAIRS = 5  # with 4 the smallest p of the exact sign-flip test is 1/16
ITERATIONS = "iterations"
SCALE = {PP: 100.0, ITERATIONS: 1.0}  # from the values of a column to the unit
_SPLIT_SIZES = {"test": "n_test", "valid": "n_valid"}
AT_EARLY_STOP, ITERATION = "early_stop_test_accuracy", FROM_INIT


@dataclass(frozen=True, kw_only=True)
class BoundTest:
    """One test: the mean difference, ticket minus `baseline`, is above (or below) a bound.

    endpoint: the column that is compared. unit: PP or ITERATIONS, of `bound` and `resolution`. sign: 1 if the claim is
    that the mean difference is above the bound, -1 if below. shown, refuted: the claim and its reverse in words.
    resolution: the smallest difference that one trial can show. lacks: why there can be no pairs; None if there can.
    """

    baseline: Baseline
    endpoint: str
    pairs: Pairs
    shown: str
    refuted: str
    unit: str = PP
    bound: float = 0.0
    sign: int = 1
    resolution: float | None = None
    lacks: str | None = None

    @property
    def differences(self) -> Values:
        """Differences in the order of the seeds, in `unit`."""
        return SCALE[self.unit] * self.pairs.differences

    def weigh(self, pairs: Pairs) -> Weighed:
        """What these pairs, at least 2, say of the bound."""
        return self._weighed if pairs is self.pairs else self._weigh(pairs)

    @functools.cached_property
    def _weighed(self) -> Weighed:
        return self._weigh(self.pairs)

    def _weigh(self, pairs: Pairs) -> Weighed:
        certain = functools.partial(self._n_beyond, pairs) if pairs.n_censored else None
        return weigh(
            SCALE[self.unit] * pairs.differences, self.bound, certain, pairs.crossed if certain is None else None
        )

    def for_it(self, pairs: Pairs) -> float:
        """One-sided p of the claim on these pairs."""
        return self.weigh(pairs).p(self.sign)

    def against_it(self, pairs: Pairs) -> float:
        """One-sided p of the reverse of the claim."""
        return self.weigh(pairs).p(-self.sign)

    def over_seeds(self, pairs: Pairs, sign: int) -> PValue:
        """One-sided p on these images, of the claim (`sign` as the test's) or of its reverse; no pair is censored."""
        return stats.superiority(sign * SCALE[self.unit] * pairs.differences, sign * self.bound)

    @property
    def floor(self) -> float:
        """Variance of the mean difference at the bound that more seeds do not make smaller: that of the images."""
        both = self.pairs.crossed
        return 0.0 if both is None else both.variance_at(self.bound) - both.of_seeds

    def _n_beyond(self, pairs: Pairs, sign: int) -> int:
        """Pairs that are certainly beyond the bound: above it for sign 1, below it for sign -1.

        The true value behind a censored ticket may be larger, and so the difference; behind a censored baseline the
        difference may be smaller. So a pair counts as below only if its ticket is not censored, and as above only if
        its baseline is not.
        """
        open_ended = pairs.tickets_censored if sign < 0 else pairs.others_censored
        beyond = sign * (SCALE[self.unit] * pairs.differences - self.bound) > stats.RELATIVE_TIE
        return int(np.count_nonzero(beyond & ~np.asarray(open_ended, dtype=bool)))


@dataclass(frozen=True, kw_only=True)
class Question:
    """A claim about a candidate: one test, or a conjunction of several.

    kind, baseline, baseline_group: what the candidate is compared with, as in the columns of the table.
    lacks: why the run cannot answer the question, whatever its tests say; None if it can.
    """

    claim: str
    candidate: Candidate
    tests: tuple[BoundTest, ...]
    kind: str
    baseline: str
    baseline_group: str | None = None
    lacks: str | None = None

    @property
    def primary(self) -> bool:
        return self.kind == "dense"

    @property
    def missing(self) -> str | None:
        """What the run lacks for the claim, which is not tested then; None if nothing."""
        reasons = [self.lacks, *(test.lacks for test in self.tests)]
        return "; ".join(dict.fromkeys(reason for reason in reasons if reason)) or None

    @property
    def unfinished(self) -> str | None:
        """Which planned trials have no outcome yet, in words: while there is one, the claim is not shown."""
        reasons = [test.pairs.why_unfinished for test in self.tests]
        return "; ".join(dict.fromkeys(reason for reason in reasons if reason)) or None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The candidates of a run, the rule of its verdict, and the interim looks (numbers of seeds) taken so far.

    Without interim looks the p of a test is that of all its pairs. With them it is the sequential p, made from the
    pairs at each look taken and from the alpha that the plan spends there.
    """

    candidates: Sequence[Candidate]
    rule: Rule
    taken: tuple[int, ...] = field(default=())

    @functools.cached_property
    def tests(self) -> BoundTests:
        """What makes the tests of all claims: several of them compare the same pairs."""
        return BoundTests(self.rule)

    def p_for(self, question: Question) -> float | None:
        """The p of the claim; of a conjunction the largest p (intersection-union).

        None if a test has too few pairs, or if a planned trial of its pairs is failed, missing or damaged.
        """
        found = [self._tested(test, test.for_it) for test in question.tests]
        known = [p for p in found if p is not None]
        if len(known) < len(found) or question.missing or question.unfinished:
            return None
        return max(known)

    def p_against(self, question: Question) -> float | None:
        """The p of the reverse. One refuted test refutes a conjunction: the least p times their number (Bonferroni)."""
        found = [self._tested(test, test.against_it) for test in question.tests]
        known = [p for p in found if p is not None]
        return min(1.0, len(found) * min(known)) if known and question.missing is None else None

    def p_of_test(self, test: BoundTest) -> float | None:
        """The p of a single test, as it enters `p_for`."""
        return self._tested(test, test.for_it)

    def end_of(self, test: BoundTest, side: str, level: float | None) -> float | None:
        """The "lower" or "upper" confidence bound of the mean that decides at a one-sided level; None if there is none.

        With interim looks it is the best of the looks taken, each at its own part of the level.
        """
        if level is None or test.pairs.n < MIN_PAIRS or (self.rule.looks and not self.taken):
            return None
        if not self.rule.looks:
            end: float | None = getattr(test.weigh(test.pairs), side)(level)
            return end
        pairs = [test.pairs.before(n) for n in self.taken]
        if any(found.n < MIN_PAIRS for found in pairs):
            return None
        return at_looks([test.weigh(found) for found in pairs], self.rule.looks, side, level)

    def _tested(self, test: BoundTest, p_of: Callable[[Pairs], float]) -> float | None:
        if test.pairs.n < MIN_PAIRS or (self.rule.looks and not self.taken):
            return None
        if not self.rule.looks:
            return p_of(test.pairs)
        from analysis.stats.sequential import (
            sequential_p,
        )  # its integrals take a second to import: for a run with looks alone

        at_looks = [test.pairs.before(n) for n in self.taken]
        return sequential_p(
            self.rule.looks, [p_of(pairs) if pairs.n >= MIN_PAIRS else 1.0 for pairs in at_looks]
        )  # fmt: skip


def resolution(candidate: Candidate, endpoint: str) -> float | None:
    """What one image of the split changes in an accuracy measured on it, in percentage points: 100 / n."""
    column = next((size for split, size in _SPLIT_SIZES.items() if split in endpoint), None)
    sizes = {row[column] for row in candidate.group.done if column} - {None}
    return 100 / min(sizes) if sizes else None


@dataclass(frozen=True)
class BoundTests:
    """Makes the single tests of claims: which column, which pairs, which bound. rule: of the verdict of the run."""

    rule: Rule

    def matches(self, candidate: Candidate, baseline: Baseline) -> BoundTest:
        """The ticket is at most the margin below the baseline, on the endpoint (non-inferior)."""
        return self._non_inferior(candidate, baseline, self.rule.endpoint)

    def matches_at_early_stop(self, candidate: Candidate) -> BoundTest:
        """The ticket is at most the margin below the primary dense network, on test accuracy at early stop."""
        return self._non_inferior(candidate, candidate.dense, AT_EARLY_STOP)

    def falls_short(self, candidate: Candidate, baseline: Baseline) -> BoundTest:
        """The ticket is more than the margin below the baseline: the reverse of `matches`."""
        margin, name = self.rule.margin_pp, _called(baseline)
        return self._accuracy(
            candidate, baseline, self.rule.endpoint, bound=-margin, sign=-1,
            words=(f"more than {margin:g} pp below {name}", f"at most {margin:g} pp below {name}"),
        )  # fmt: skip

    def beats(self, candidate: Candidate, baseline: Baseline, by: float = 0.0) -> BoundTest:
        """The ticket is more than `by` percentage points above the baseline, on the endpoint."""
        return self._superior(candidate, baseline, self.rule.endpoint, by)

    def beats_at_early_stop(self, candidate: Candidate, baseline: Baseline) -> BoundTest:
        """The ticket is above the baseline, on test accuracy at early stop."""
        return self._superior(candidate, baseline, AT_EARLY_STOP, 0.0)

    def beats_constant(self, candidate: Candidate, column: str, name: str) -> BoundTest:
        """The ticket is above a constant of its own data, a column of its row, on the endpoint."""
        itself = Baseline(name=name, kind=name, group=candidate.group.name, rows=candidate.group.members)
        return BoundTest(
            baseline=itself, endpoint=self.rule.endpoint, shown=f"better than {name}", refuted=f"worse than {name}",
            pairs=self._pairs(itself.rows, itself.rows, self.rule.endpoint, name, column),
            resolution=resolution(candidate, self.rule.endpoint), lacks=_lacks(candidate, itself, column),
        )  # fmt: skip

    def faster(self, candidate: Candidate) -> BoundTest:
        """The ticket reaches its least validation loss in fewer iterations, counted from the initialisation."""
        return self._iterations(candidate, 0.0, "earlier than {}", "later than {}")

    def not_later(self, candidate: Candidate) -> BoundTest:
        """The ticket stops less than one validation interval later, a difference that one early stop cannot show."""
        interval = validation_interval(candidate)
        words = f"{interval:,} iterations" if interval else "a validation interval"
        return self._iterations(
            candidate, interval or 0.0, f"less than {words} later than {{}}", f"more than {words} later than {{}}"
        )  # fmt: skip

    def _non_inferior(self, candidate: Candidate, baseline: Baseline, endpoint: str) -> BoundTest:
        margin, name = self.rule.margin_pp, _called(baseline) + _where(endpoint)
        return self._accuracy(
            candidate, baseline, endpoint, bound=-margin, sign=1,
            words=(f"at most {margin:g} pp below {name}", f"more than {margin:g} pp below {name}"),
        )  # fmt: skip

    def _superior(self, candidate: Candidate, baseline: Baseline, endpoint: str, by: float) -> BoundTest:
        name = _called(baseline) + _where(endpoint)
        shown = f"more than {by:g} pp above {name}" if by else f"better than {name}"
        refuted = f"less than {by:g} pp above {name}" if by else f"worse than {name}"
        return self._accuracy(candidate, baseline, endpoint, bound=by, sign=1, words=(shown, refuted))

    def _accuracy(
        self,
        candidate: Candidate,
        baseline: Baseline,
        endpoint: str,
        *,
        bound: float,
        sign: int,
        words: tuple[str, str],
    ) -> BoundTest:
        """words: the claim and its reverse."""
        return BoundTest(
            baseline=baseline, endpoint=endpoint, bound=bound, sign=sign, shown=words[0], refuted=words[1],
            pairs=self._pairs(candidate.group.members, baseline.rows, endpoint, _called(baseline)),
            resolution=resolution(candidate, endpoint), lacks=_lacks(candidate, baseline, endpoint),
        )  # fmt: skip

    def _iterations(self, candidate: Candidate, bound: float, shown: str, refuted: str) -> BoundTest:
        baseline = candidate.dense
        name = _called(baseline)
        interval = validation_interval(candidate)
        return BoundTest(
            baseline=baseline, endpoint=ITERATION, unit=ITERATIONS, bound=bound, sign=-1,
            shown=shown.format(name), refuted=refuted.format(name),
            pairs=self._pairs(candidate.group.members, baseline.rows, ITERATION, name),
            resolution=interval, lacks=_lacks(candidate, baseline, ITERATION),
        )  # fmt: skip

    def _pairs(
        self, ours: tuple[Row, ...], theirs: tuple[Row, ...], column: str, other: str, other_column: str | None = None
    ) -> Pairs:
        """`pair_up`, once for the same rows."""
        key = id(ours), id(theirs), column, other, other_column
        if key not in self._known:
            self._known[key] = ours, theirs, pair_up(ours, theirs, column, other, other_column)
        return self._known[key][2]

    @functools.cached_property
    def _known(self) -> dict[tuple[Any, ...], tuple[tuple[Row, ...], tuple[Row, ...], Pairs]]:
        """With the rows themselves, so that no other rows can get their ids."""
        return {}


def validation_interval(candidate: Candidate) -> int | None:
    """Iterations between two validations of a ticket: `validate_every`, or an epoch; None while unknown."""
    spec = candidate.group.spec
    if spec.get("validate_every") is not None:
        return int(spec["validate_every"])
    sizes = {row["n_train"] for row in candidate.group.done} - {None}
    return math.ceil(max(sizes) / spec["batch_size"]) if sizes else None


def _called(baseline: Baseline) -> str:
    return baseline.words or control_label(baseline.name)


def _where(endpoint: str) -> str:
    return " at early stop" if endpoint == AT_EARLY_STOP else ""


def _lacks(candidate: Candidate, baseline: Baseline, endpoint: str) -> str | None:
    """Why there can be no pairs: there are no such trials, or the finished ones lack the column. None if there can."""
    if not baseline.rows:
        if baseline.kind == "dense":
            return f"the run has no dense baseline of {plural(candidate.group.spec['epochs'], 'epoch')}"
        noun = _called(baseline)
        return f"the run has no {noun}{'' if baseline.kind in DENSE_KINDS else ' trials'} of these tickets"
    done = [row for row in (*candidate.group.done, *baseline.rows) if row["status"] == "done"]
    if done and all(row.get(endpoint) is None for row in done):
        what = "early stop" if endpoint in (AT_EARLY_STOP, ITERATION) else endpoint.replace("_", " ")
        return f"the trials have no {what} on record"
    return None
