"""Verdicts in a person's words: the reason for one, short labels for ladders, the answer to the run's question."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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


def short_labels(names: Sequence[str]) -> dict[str, str]:
    """Names of ladders or groups -> the shortest words that tell them apart, such as "rewind epoch 1".

    Parts that all the names share are left out (of a single name: data set and model).
    """
    split = {name: name.split("-") for name in dict.fromkeys(names)}
    if len(split) == 1:
        return {name: pretty(parts[2:] or parts) for name, parts in split.items()}
    common = set.intersection(*(set(parts) for parts in split.values())) if split else set()
    return {name: pretty([part for part in parts if part not in common] or parts[2:3]) for name, parts in split.items()}


def common_label(names: Sequence[str]) -> str:
    """What the names share, in words: data set, model and whatever else none of them differs in."""
    split = [name.split("-") for name in dict.fromkeys(names)]
    if not split:
        return ""
    if len(split) == 1:
        return pretty(split[0][:2])
    return pretty([part for part in split[0] if all(part in other for other in split)])


def dense_label(baseline: str) -> str:
    """`dense-e20` -> "dense, 20 epochs"; `dense_restarts` -> "dense with restarts"."""
    if baseline.startswith("dense-e"):
        return f"dense, {baseline.removeprefix('dense-e')} epochs"
    return control_label(baseline)


def control_label(baseline: str) -> str:
    """A baseline in running words: `dense-e20` -> "dense", `random_mask` -> "random mask", `reinit` -> itself."""
    if baseline.startswith("dense-e"):
        return "dense"
    return _CONTROLS.get(baseline, baseline.replace("_", " "))


def claim_label(row: Mapping[str, Any]) -> str:
    """What a row claims, in words: "beats random mask", "faster than dense", "winning", "secondary prize"."""
    if row["claim"] in ("matches", "beats"):
        return f"{row['claim']} {dense_label(row['baseline'])}"
    return {"faster": "faster than dense", "supermask": "a supermask"}.get(row["claim"], row["claim"].replace("_", " "))


_CONTROLS = {
    "dense_restarts": "dense with restarts", "small_dense": "small dense", "layerwise_shuffle": "shuffled mask",
    "random_sparse": "random sparse network", "sign_shuffle": "shuffled signs", "reinit": "reinitialisation",
    "omp": "OMP", "lr_rewinding": "LR rewinding", "fine_tuning": "fine-tuning",
}  # fmt: skip
_PRETTY = {
    "ticket": "imported",
    "imp": "IMP", "omp": "OMP", "one_shot": "one shot", "agp": "AGP", "dsd": "DSD",
    "supermask_True": "supermask", "retrain_none": "no rewinding", "retrain_lr_rewinding": "LR rewinding",
    "retrain_fine_tuning": "fine-tuning", "lenet_300_100": "LeNet-300-100",
}  # fmt: skip
_PATTERNS = (
    (re.compile(r"r(\d+)"), "rewind epoch {}"),
    (re.compile(r"t([0-9a-f]{8}(\.e\d+)?)"), "{}"),
    (re.compile(r"r(\d+)it"), "rewind iteration {}"),
    (re.compile(r"s([\d.]+)"), "{} %"),
    (re.compile(r"e(\d+)"), "{} epochs"),
    (re.compile(r"p([\d.]+)"), "{} % a level"),
    (re.compile(r"lr([\d.e]+)"), "learning rate {}"),
    (re.compile(r"bs(\d+)"), "batch {}"),
    (re.compile(r"val(\d+)"), "validated every {}"),
    (re.compile(r"steps(\d+)"), "{} steps"),
    (re.compile(r"start([\d.]+)"), "start {}"),
    (re.compile(r"end([\d.]+)"), "end {}"),
)


def pretty(parts: Sequence[str]) -> str:
    """Parts of a trial's name in words."""
    return ", ".join(_pretty_part(part) for part in parts)


def _pretty_part(part: str) -> str:
    if part in _PRETTY:
        return _PRETTY[part]
    for pattern, text in _PATTERNS:
        if found := pattern.fullmatch(part):
            return text.format(found[1])
    return part.replace("_", " ")


def _p(reason: Reason) -> str:
    assert reason.p is not None
    text = "p < 0.001" if reason.p < 0.001 else f"p = {reason.p:.3f}"
    return f"{text}, {reason.correction}" if reason.correction else text


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"
