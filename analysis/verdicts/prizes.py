"""The questions behind "jackpot" and "secondary prize" (Ma et al., arXiv 2107.00166, section 3).

Both are about tickets at several learning rates. A reinitialisation may need another learning rate than the ticket:
otherwise a ticket would be credited for a rate that suits it. So a ticket is compared with the reinitialisation of its
own mask at every rate of the run, the one that is best on validation among them. To take that one alone would not hold
alpha: validation picks the wrong rate now and then, and a ticket that only beats that one would win.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from analysis.labels import control_label
from analysis.tables.schema import DIVERGED, Row
from analysis.verdicts.baselines import SMALL_DENSE, Baseline, Candidate
from analysis.verdicts.groups import values_of
from analysis.verdicts.questions import BoundTest, BoundTests, Evidence, Question

REINIT = "reinit"
SEVERAL = "several"  # the baseline of a conjunction over different ones
NO_RATES = "the run has one learning rate, and the claim is about several"
ITS_RATE_IS_BEST = (
    "its learning rate is the best one, so it cannot match its own dense network and fall short of the best"
)

LastTest = Callable[[BoundTests, Candidate, Baseline], BoundTest]


def prize_questions(claim: str, candidates: Iterable[Candidate], evidence: Evidence, last: LastTest) -> list[Question]:
    """One question for each candidate. last: the test against the dense network of the best learning rate."""
    found = []
    for siblings in _by_rate(candidates):
        best = max(siblings, key=lambda c: validated(c.dense.rows))
        found += [_question(claim, c, best, siblings, evidence.tests, last) for c in siblings]
    return found


def _question(
    claim: str, c: Candidate, best: Candidate, siblings: Sequence[Candidate], tests: BoundTests, last: LastTest
) -> Question:
    several = len(siblings) > 1
    top = best.dense
    if several:
        top = replace(top, words=f"dense of the best learning rate, {best.group.spec['lr']:g}")
    reinits, lacks = _reinits(c, siblings)
    if claim == "secondary_prize" and c is best:
        lacks = ITS_RATE_IS_BEST
    return Question(
        claim=claim, candidate=c, kind=SEVERAL, baseline=SEVERAL,
        tests=(
            *(tests.beats(c, reinit, by=tests.rule.margin_pp) for reinit in reinits),
            tests.beats(c, _one(c, SMALL_DENSE)), tests.matches(c, c.dense), last(tests, c, top),
        ),
        lacks=lacks if several else NO_RATES,
    )  # fmt: skip


def _reinits(c: Candidate, siblings: Sequence[Candidate]) -> tuple[list[Baseline], str | None]:
    """The reinitialisations of this candidate's mask by learning rate, and what the run lacks of them."""
    rates = {_rate(c, baseline): baseline for baseline in c.of(REINIT)}
    if not rates:
        return [_one(c, REINIT)], None
    again = control_label(REINIT)
    best = max(rates, key=lambda rate: validated(rates[rate].rows))
    words = {rate: f"{again} at {'its best ' if rate == best else ''}learning rate {rate:g}" for rate in sorted(rates)}
    missing = sorted({s.group.spec["lr"] for s in siblings} - set(rates))
    listed = ", ".join(f"{rate:g}" for rate in missing)
    lacks = f"the run has no {again} of this mask at learning rate {listed} (--control-lr)" if missing else None
    return [replace(rates[rate], words=text) for rate, text in words.items()], lacks


def _rate(candidate: Candidate, control: Baseline) -> float:
    """The learning rate at which a control's last level was trained."""
    own = control.rows[0].get("control_lr")
    return float(candidate.group.spec["lr"] if own is None else own)


def _one(candidate: Candidate, kind: str) -> Baseline:
    return next(iter(candidate.of(kind)), Baseline(name=kind, kind=kind, group=None))


def _by_rate(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    """Candidates that differ only in their learning rate; tickets and baselines are kept apart."""
    found: dict[tuple[Any, ...], list[Candidate]] = defaultdict(list)
    for c in candidates:
        found[c.group.role, *values_of(c.group.spec, [name for name in c.group.spec if name != "lr"])].append(c)
    return list(found.values())


def validated(trials: Iterable[Row]) -> float:
    """Mean validation accuracy of these trials: the best learning rate is never chosen on the test split.

    A diverged trial counts at chance, as in the verdicts. -1 if no trial has a validation accuracy.
    """
    column = {"done": "valid_accuracy", DIVERGED: "chance_accuracy"}
    found = [row.get(column[row["status"]]) for row in trials if row["status"] in column]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known else -1.0
