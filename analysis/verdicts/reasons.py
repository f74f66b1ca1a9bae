"""The reason for a verdict in words: what decided it, or what is missing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Reason:
    """What `why` needs to know of one answer.

    p: the decisive one, for the claim or, where that is refuted, against it; correction: how it was adjusted, "" if it
    was not. said: the parts that the sentence names. reached: p is small enough but for the adjustment. needed: seeds
    that would decide, None where that is no number. first_look: of a plan of looks of which none is complete.
    """

    verdict: str
    said: tuple[str, ...]
    conjunction: bool
    n_pairs: int
    min_pairs: int
    n_unpaired: int
    n_censored: int
    p: float | None
    correction: str
    test: str | None
    reached: bool
    missing: str | None = None
    stopped_at: float | None = None
    first_look: int | None = None
    needed: int | None = None


def why(reason: Reason) -> str:
    """One clause, no full stop: what decided, or what is missing."""
    if reason.verdict == "undecided":
        return _undecided(reason)
    return f"{', '.join(reason.said)} ({_p(reason)}){_test_note(reason)}"


def ladder_reason(last: float | None, beyond: tuple[float, str] | None) -> str:
    """Why a ladder ends where it does. last: the sparsest rung that matches; beyond: the next one and its verdict.

    Rungs are targets in per cent; None where no rung matches, or none is left.
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
        lack = f"{_count(reason.n_unpaired, 'planned seed')} lack{'s' * (reason.n_unpaired == 1)} a finished pair"
        broken = f"; {lack}" if reason.n_unpaired else ""
        return f"needs at least {reason.min_pairs} seeds, has {reason.n_pairs}{broken}"
    if reason.stopped_at is not None:
        return f"the ladder stopped at {reason.stopped_at:g} %"
    return _open(reason) + _seeds(reason) + _test_note(reason)


def _open(reason: Reason) -> str:
    """What a conjunction still has to show; or that the adjustment alone stands between the claim and its answer."""
    if reason.conjunction:
        return f"not shown: {', '.join(reason.said)}; "
    return f"not after {reason.correction}; " if reason.reached and reason.correction else ""


def _seeds(reason: Reason) -> str:
    if reason.needed is None and reason.n_censored:
        return "more seeds alone would hardly decide"
    if reason.needed is None:
        return "too close to the bound, more than 1,000 seeds needed"
    return f"about {reason.needed} seeds would decide at 80 % power"


def _test_note(reason: Reason) -> str:
    if reason.test == "sign flip":
        return "; all differences are equal, so the sign-flip test decides"
    if reason.test == "sign test":
        are = "is" if reason.n_censored == 1 else "are"
        still = f"{reason.n_censored} of {reason.n_pairs} pairs {are} censored, the loss still falling at the end"
        return f"; {still}, so the sign test decides"
    return ""


def _p(reason: Reason) -> str:
    assert reason.p is not None
    text = "p < 0.001" if reason.p < 0.001 else f"p = {reason.p:.3f}"
    return f"{text}, {reason.correction}" if reason.correction else text


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"
