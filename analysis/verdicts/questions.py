"""What speaks for and against a claim: tests of pairs against bounds, joined to questions, judged at the looks taken.

Every test is one-sided, and each bound is tested from both sides: one p for the claim, one against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from analysis.labels import control_label
from analysis.stats import paired as stats
from analysis.stats.paired import PValue, Values
from analysis.tables.run_plan import Rule
from analysis.verdicts.baselines import DENSE_KINDS, Baseline, Candidate
from analysis.verdicts.groups import Pairs, pair_up

MIN_PAIRS = 5  # at 4 the exact sign-flip test could not get below 1/16
PP, ITERATIONS = "percentage points", "iterations"
SCALE = {PP: 100.0, ITERATIONS: 1.0}  # of the unit in the values of a column
_SPLIT_SIZES = {"test": "n_test", "valid": "n_valid"}
AT_EARLY_STOP, ITERATION = "early_stop_test_accuracy", "early_stop_iteration"


@dataclass(frozen=True, kw_only=True)
class BoundTest:
    """A difference, ticket minus `baseline`, held against a bound.

    endpoint: the column that is compared. unit: PP or ITERATIONS, that of `bound` and `resolution`. sign: 1 where the
    claim is that the mean difference is above the bound, -1 below. shown, refuted: the claim and its reverse in words.
    resolution: the least difference that one trial can show. lacks: why there can be no pairs, if there can be none.
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
        """In the order of the pairs' seeds, in `unit`."""
        return SCALE[self.unit] * self.pairs.differences

    def for_it(self, pairs: Pairs) -> PValue:
        """One-sided p of the claim on these pairs; at least 2."""
        return self._p(pairs, self.sign)

    def against_it(self, pairs: Pairs) -> PValue:
        """One-sided p of the reverse."""
        return self._p(pairs, -self.sign)

    def share(self, sign: int) -> float:
        """Part of the pairs that are on this side of the bound for certain, whatever a censored value is."""
        return self._n_beyond(self.pairs, sign) / self.pairs.n

    def _p(self, pairs: Pairs, sign: int) -> PValue:
        if pairs.n_censored:
            return PValue(p=stats.sign_test_p(self._n_beyond(pairs, sign), pairs.n), test=stats.SIGN_TEST)
        return stats.superiority(sign * SCALE[self.unit] * pairs.differences, sign * self.bound)

    def _n_beyond(self, pairs: Pairs, sign: int) -> int:
        """A censored ticket may be later than it says, which makes the difference larger; a censored baseline smaller.

        So a difference is surely below the bound unless its ticket is censored, surely above unless its baseline is.
        """
        open_ended = pairs.tickets_censored if sign < 0 else pairs.others_censored
        beyond = sign * (SCALE[self.unit] * pairs.differences - self.bound) > stats.RELATIVE_TIE
        return int(np.count_nonzero(beyond & ~np.asarray(open_ended, dtype=bool)))


@dataclass(frozen=True, kw_only=True)
class Question:
    """A claim on a candidate, of one part or a conjunction of several.

    kind, baseline, baseline_group: of what it is compared with, as the table says it. lacks: why the run cannot answer
    it whatever its parts say.
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
        """What the run lacks for the claim; it is not tested then."""
        reasons = [self.lacks, *(test.lacks for test in self.tests)]
        return "; ".join(dict.fromkeys(reason for reason in reasons if reason)) or None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The candidates of a run, the rule that judges them, and the looks (numbers of seeds) taken so far.

    Without a plan of looks the p of a part is that of all its pairs. With one it is the sequential p: of the pairs at
    each look taken, held against what the plan spends there.
    """

    candidates: Sequence[Candidate]
    rule: Rule
    taken: tuple[int, ...] = field(default=())

    def p_for(self, question: Question) -> float | None:
        """Of a conjunction the largest p of its parts (intersection-union); None where a part cannot be tested."""
        found = [self._tested(test, test.for_it) for test in question.tests]
        known = [p for p in found if p is not None]
        return max(known) if len(known) == len(found) and question.missing is None else None

    def p_against(self, question: Question) -> float | None:
        """One refuted part refutes a conjunction: the least p of its parts times their number (Bonferroni)."""
        found = [self._tested(test, test.against_it) for test in question.tests]
        known = [p for p in found if p is not None]
        return min(1.0, len(found) * min(known)) if known and question.missing is None else None

    def p_of_test(self, test: BoundTest) -> float | None:
        """The p of one part of a claim, as it enters `p_for`."""
        return self._tested(test, test.for_it)

    def _tested(self, test: BoundTest, p_of: Callable[[Pairs], PValue]) -> float | None:
        if test.pairs.n < MIN_PAIRS or (self.rule.looks and not self.taken):
            return None
        if not self.rule.looks:
            return p_of(test.pairs).p
        from analysis.stats.sequential import (
            sequential_p,
        )  # its integrals take a second to import: for a run with looks alone

        at_looks = [test.pairs.before(n) for n in self.taken]
        return sequential_p(
            self.rule.looks, [p_of(pairs).p if pairs.n >= MIN_PAIRS else 1.0 for pairs in at_looks]
        )  # fmt: skip


def resolution(candidate: Candidate, endpoint: str) -> float | None:
    """One picture of the part of the data that an accuracy is measured on, in percentage points: 100 / n."""
    column = next((size for split, size in _SPLIT_SIZES.items() if split in endpoint), None)
    sizes = {row[column] for row in candidate.group.done if column} - {None}
    return 100 / min(sizes) if sizes else None


@dataclass(frozen=True)
class BoundTests:
    """Tests of a candidate against a baseline under the rule of a run."""

    rule: Rule

    def matches(self, candidate: Candidate, baseline: Baseline) -> BoundTest:
        """Non-inferior by the margin, on the endpoint."""
        return self._non_inferior(candidate, baseline, self.rule.endpoint)

    def matches_at_early_stop(self, candidate: Candidate) -> BoundTest:
        """Non-inferior to the primary dense network by the margin, on test accuracy at early stop."""
        return self._non_inferior(candidate, candidate.dense, AT_EARLY_STOP)

    def falls_short(self, candidate: Candidate, baseline: Baseline) -> BoundTest:
        """Below by more than the margin: the reverse of `matches`."""
        margin, name = self.rule.margin_pp, _called(baseline)
        return self._accuracy(
            candidate, baseline, self.rule.endpoint, bound=-margin, sign=-1,
            words=(f"more than {margin:g} pp below {name}", f"at most {margin:g} pp below {name}"),
        )  # fmt: skip

    def beats(self, candidate: Candidate, baseline: Baseline, by: float = 0.0) -> BoundTest:
        """Above by more than `by` percentage points, on the endpoint."""
        return self._superior(candidate, baseline, self.rule.endpoint, by)

    def beats_at_early_stop(self, candidate: Candidate, baseline: Baseline) -> BoundTest:
        """Above, on test accuracy at early stop."""
        return self._superior(candidate, baseline, AT_EARLY_STOP, 0.0)

    def beats_constant(self, candidate: Candidate, column: str, name: str) -> BoundTest:
        """Above a constant of the trial's own data, on the endpoint."""
        itself = Baseline(name=name, kind=name, group=candidate.group.name, rows=candidate.group.members)
        return BoundTest(
            baseline=itself, endpoint=self.rule.endpoint, shown=f"better than {name}", refuted=f"worse than {name}",
            pairs=pair_up(itself.rows, itself.rows, self.rule.endpoint, name, column),
            resolution=resolution(candidate, self.rule.endpoint), lacks=_lacks(candidate, itself, column),
        )  # fmt: skip

    def faster(self, candidate: Candidate) -> BoundTest:
        """The least validation loss after fewer iterations since the last prune."""
        return self._iterations(candidate, 0.0, "earlier than {}", "later than {}")

    def not_later(self, candidate: Candidate) -> BoundTest:
        """Later by less than one validation interval: what a single early stop cannot tell apart."""
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
            pairs=pair_up(candidate.group.members, baseline.rows, endpoint, _called(baseline)),
            resolution=resolution(candidate, endpoint), lacks=_lacks(candidate, baseline, endpoint),
        )  # fmt: skip

    def _iterations(self, candidate: Candidate, bound: float, shown: str, refuted: str) -> BoundTest:
        baseline = candidate.dense
        name = _called(baseline)
        interval = validation_interval(candidate)
        return BoundTest(
            baseline=baseline, endpoint=ITERATION, unit=ITERATIONS, bound=bound, sign=-1,
            shown=shown.format(name), refuted=refuted.format(name),
            pairs=pair_up(candidate.group.members, baseline.rows, ITERATION, name),
            resolution=interval, lacks=_lacks(candidate, baseline, ITERATION),
        )  # fmt: skip


def validation_interval(candidate: Candidate) -> int | None:
    """Iterations between two validations of a ticket: `validate_every`, or those of an epoch; None while unknown."""
    spec = candidate.group.spec
    if spec.get("validate_every") is not None:
        return int(spec["validate_every"])
    sizes = {row["n_train"] for row in candidate.group.done} - {None}
    return math.ceil(max(sizes) / spec["batch_size"]) if sizes else None


def _called(baseline: Baseline) -> str:
    return baseline.said or control_label(baseline.name)


def _where(endpoint: str) -> str:
    return " at early stop" if endpoint == AT_EARLY_STOP else ""


def _lacks(candidate: Candidate, baseline: Baseline, endpoint: str) -> str | None:
    """Why there can be no pairs: no such trials, or no such figures of those that are done."""
    if not baseline.rows:
        if baseline.kind == "dense":
            return f"the run has no dense baseline of {candidate.group.spec['epochs']} epochs"
        noun = _called(baseline)
        return f"the run has no {noun}{'' if baseline.kind in DENSE_KINDS else ' trials'} of these tickets"
    done = [row for row in (*candidate.group.done, *baseline.rows) if row["status"] == "done"]
    if done and all(row.get(endpoint) is None for row in done):
        what = "early stop" if endpoint in (AT_EARLY_STOP, ITERATION) else endpoint.replace("_", " ")
        return f"the trials have no {what} on record"
    return None
