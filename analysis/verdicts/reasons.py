"""The reason for a verdict in words: what decided it, or what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.stats.power import SeedsRange
from analysis.tables.schema import Row
from analysis.text import number_of, number_range, signed
from analysis.verdicts.groups import Pairs

LONGER, MORE_IMAGES = "train longer", "more test images"
NAMED_SEEDS = 100  # larger numbers are not worth naming: few pairs cannot tell them from one another
PP = "percentage points"  # unit of differences of accuracies


@dataclass(frozen=True, kw_only=True)
class Reason:
    """What `why` needs to know about an answer.

    p: the adjusted p of the claim, or of its reverse if that is shown. correction: how it was adjusted; "" if it was
    not. n_late: pairs with a loss that was still falling at the end. tests: those that the sentence names, in words.
    reached: p is small enough before the adjustment. unfinished: planned trials without an outcome, which forbid a yes.
    diverged: what `diverged_note` says, if anything. needed: what would decide, see `would_decide`; None if not known.
    first_look: seeds of the first look, if no look is complete.
    """

    verdict: str
    tests: tuple[str, ...]
    conjunction: bool
    n_pairs: int
    min_pairs: int
    n_unpaired: int
    n_censored: int
    n_late: int
    p: float | None
    correction: str
    test: str | None
    reached: bool
    missing: str | None = None
    unfinished: str | None = None
    diverged: str | None = None
    stopped_at: float | None = None
    first_look: int | None = None
    needed: str | None = None


def why(reason: Reason) -> str:
    """Why the answer is what it is: one clause, without a full stop."""
    note = f"; {reason.diverged}" if reason.diverged else ""
    if reason.verdict == "undecided":
        return _undecided(reason) + note
    return f"{', '.join(reason.tests)} ({_p(reason)}){_test_note(reason)}{note}"


def diverged_note(row: Row) -> str | None:
    """How many pairs count at chance, and the difference without them; None if no trial of the row diverged."""
    if not row["n_diverged"]:
        return None
    n = row["n_diverged"]
    counted = f"{n} of {row['n_pairs']} pairs {number_of(n, 'has', 'have')} a diverged trial"
    if row["unit"] != PP:
        return f"{counted}, whose early stop never comes"
    without = "none is left without them"
    if row.get("effect_finished") is not None:
        without = f"without them {signed(row['effect_finished'])}"
        if row.get("ci_low_finished") is not None:
            without += f" [{signed(row['ci_low_finished'])}, {signed(row['ci_high_finished'])}]"
    return f"{counted}, at chance accuracy; {without}"


def ladder_reason(last: float | None, beyond: tuple[float, str] | None) -> str:
    """Why a ladder ends where it does. last: the sparsest rung that matches; beyond: the next rung and its verdict.

    Rungs are target sparsities in percent. last is None if no rung matches, beyond if there is no next rung.
    """
    words = {"no": "falls short", "undecided": "is undecided"}
    first = "no rung is shown to match" if last is None else f"matches down to {last:g} %"
    if beyond is None:
        return f"{first}, the sparsest rung"
    return f"{first}; {beyond[0]:g} % {words[beyond[1]]}"


def _undecided(reason: Reason) -> str:
    if reason.missing is not None:
        return f"not tested: {reason.missing}"
    if reason.first_look is not None:
        return f"the first look is at {reason.first_look} seeds, and its trials are not complete"
    if reason.n_pairs < reason.min_pairs:
        n = reason.n_unpaired
        lack = f"{n} {number_of(n, 'planned seed lacks', 'planned seeds lack')} a finished pair"
        broken = f"; {lack}" if reason.n_unpaired else ""
        return f"needs at least {reason.min_pairs} seeds, has {reason.n_pairs}{broken}"
    if reason.unfinished is not None:
        return f'no "yes" before every planned trial has an outcome: {reason.unfinished}'
    if reason.stopped_at is not None:
        return f"the ladder stopped at {reason.stopped_at:g} %"
    return f"{_open(reason)}{_needed(reason)}{_test_note(reason)}"


def _open(reason: Reason) -> str:
    """The tests that are not shown yet; or that only the adjustment prevents an answer."""
    if reason.conjunction:
        return f"not shown: {', '.join(reason.tests)}; "
    return f"not after {reason.correction}; " if reason.reached and reason.correction else ""


def _needed(reason: Reason) -> str:
    if reason.needed is None:
        return "how many seeds would decide is not known"
    return f"{reason.needed} would decide at 80 % power" if reason.needed.endswith("seeds") else reason.needed


def would_decide(parts: Sequence[Pairs], seeds: SeedsRange | None, images: bool = False) -> str | None:
    """What would decide an undecided claim: "20 to 90 seeds", "more than 100 seeds", "train longer", "more test
    images"; None: not known.

    parts: the pairs of each test of the claim. images: whether the test images are too few for any number of seeds.
    """
    if any(pairs.n_late for pairs in parts):
        return LONGER
    if images:
        return MORE_IMAGES
    return None if seeds is None else f"{number_range(_count(seeds.low), _count(seeds.high))} seeds"


def _count(seeds: int | None) -> str:
    return f"more than {NAMED_SEEDS}" if seeds is None or seeds > NAMED_SEEDS else str(seeds)


def _test_note(reason: Reason) -> str:
    if reason.test == "sign flip":
        return "; all differences are equal, so the sign-flip test decides"
    if reason.test == "sign test":
        if not reason.n_late:
            return "; so the sign test decides"
        still = f"in {reason.n_late} of {reason.n_pairs} pairs a loss was still falling at the end"
        return f"; {still}, so the sign test decides"
    return ""


def _p(reason: Reason) -> str:
    assert reason.p is not None
    text = "p < 0.001" if reason.p < 0.001 else f"p = {reason.p:.3f}"
    return f"{text}, {reason.correction}" if reason.correction else text
