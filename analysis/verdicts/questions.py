"""What speaks for and against a claim: tests of pairs against bounds, joined to questions, judged at the looks taken.

Every test is one-sided, and each bound is tested from both sides: one p for the claim, one against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from analysis.stats import paired as stats
from analysis.stats.paired import PValue, Values
from analysis.tables.run_plan import Rule
from analysis.verdicts.baselines import Baseline, Candidate
from analysis.verdicts.groups import Pairs

MIN_PAIRS = 5  # at 4 the exact sign-flip test could not get below 1/16
PP, ITERATIONS = "percentage points", "iterations"
SCALE = {PP: 100.0, ITERATIONS: 1.0}  # of the unit in the values of a column
_PARTS = {"test": "n_test", "valid": "n_valid"}


@dataclass(frozen=True, kw_only=True)
class Part:
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
    parts: tuple[Part, ...]
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
        reasons = [self.lacks, *(part.lacks for part in self.parts)]
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
        found = [self._tested(part, part.for_it) for part in question.parts]
        known = [p for p in found if p is not None]
        return max(known) if len(known) == len(found) and question.missing is None else None

    def p_against(self, question: Question) -> float | None:
        """One refuted part refutes a conjunction: the least p of its parts times their number (Bonferroni)."""
        found = [self._tested(part, part.against_it) for part in question.parts]
        known = [p for p in found if p is not None]
        return min(1.0, len(found) * min(known)) if known and question.missing is None else None

    def part_p(self, part: Part) -> float | None:
        """The p of one part of a claim, as it enters `p_for`."""
        return self._tested(part, part.for_it)

    def _tested(self, part: Part, test: Callable[[Pairs], PValue]) -> float | None:
        if part.pairs.n < MIN_PAIRS or (self.rule.looks and not self.taken):
            return None
        if not self.rule.looks:
            return test(part.pairs).p
        from analysis.stats.sequential import (
            sequential_p,
        )  # its integrals take a second to import: for a run with looks alone

        at_looks = [part.pairs.before(n) for n in self.taken]
        return sequential_p(
            self.rule.looks, [test(pairs).p if pairs.n >= MIN_PAIRS else 1.0 for pairs in at_looks]
        )  # fmt: skip


def resolution(candidate: Candidate, endpoint: str) -> float | None:
    """One picture of the part of the data that an accuracy is measured on, in percentage points: 100 / n."""
    column = next((size for part, size in _PARTS.items() if part in endpoint), None)
    sizes = {row[column] for row in candidate.group.done if column} - {None}
    return 100 / min(sizes) if sizes else None
