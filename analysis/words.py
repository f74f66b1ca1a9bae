"""Verdicts in a person's words: the reason for one, short labels for ladders, the answer to the run's question."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.power import pairs_needed

MOST_SEEDS = 1000  # beyond this, a number of seeds is no plan


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What `why` needs to know of one comparison. p values are the decisive ones, None where not tested."""

    verdict: str
    n_pairs: int
    min_pairs: int
    n_unpaired: int
    family_size: int
    p_matches: float | None
    p_beats_holm: float | None
    p_falls_short_holm: float | None
    stopped_at: float | None
    has_baseline: bool
    baseline: str
    difference_pp: float | None
    sd_pp: float | None
    test: str | None
    margin_pp: float
    alpha: float


def why(finding: Finding) -> str:
    """One clause, no full stop: what decided, or what is missing."""
    margin = f"{finding.margin_pp:g} pp"
    holm = f"Holm over {finding.family_size}"
    if finding.verdict == "beats dense":
        text = f"better than dense ({_p(finding.p_beats_holm)}, {holm})"
    elif finding.verdict == "matches dense":
        text = f"at most {margin} below dense ({_p(finding.p_matches)})"
    elif finding.verdict == "falls short":
        text = f"more than {margin} below dense ({_p(finding.p_falls_short_holm)}, {holm})"
    else:
        return _undecided(finding)
    return text + _degenerate(finding)


def _undecided(finding: Finding) -> str:
    if not finding.has_baseline:
        return f"the run has no dense baseline of {finding.baseline.removeprefix('dense-e')} epochs"
    if finding.n_pairs < finding.min_pairs:
        lack = f"{_count(finding.n_unpaired, 'planned seed')} lack{'s' * (finding.n_unpaired == 1)} a finished pair"
        broken = f"; {lack}" if finding.n_unpaired else ""
        return f"needs at least {finding.min_pairs} seeds, has {finding.n_pairs}{broken}"
    if finding.stopped_at is not None:
        return f"the ladder stopped at {finding.stopped_at:g} %"
    return _seeds_needed(finding) + _degenerate(finding)


def _seeds_needed(finding: Finding) -> str:
    """Seeds for 80 % power, as a quick figure.

    The bound that decides first is -margin on either side: whatever shows "beats" has shown "matches" with fewer seeds.
    """
    assert finding.difference_pp is not None
    assert finding.sd_pp is not None
    delta = finding.difference_pp + finding.margin_pp
    alpha = finding.alpha if delta > 0 else finding.alpha / finding.family_size
    floor = math.ceil(math.log2(1 / alpha)) if finding.sd_pp == 0 else finding.n_pairs + 1
    needed = max(pairs_needed(finding.sd_pp, delta, alpha), floor)
    if needed > MOST_SEEDS:
        return f"the difference is too close to the margin: more than {MOST_SEEDS:,} seeds would be needed"
    return f"about {math.ceil(needed)} seeds would decide at 80 % power"


def _degenerate(finding: Finding) -> str:
    return "; all differences are equal, so the sign-flip test decides" if finding.test == "sign flip" else ""


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
    """`dense-e20` -> "dense, 20 epochs"."""
    return f"dense, {baseline.removeprefix('dense-e')} epochs"


def percent(value: float) -> str:
    """A per cent to two significant digits, whole from 10 on: 100, 50, 36, 13, 7.8, 0.54."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"


def signed(value: float) -> str:
    """Percentage points with a sign and two decimals; a true minus, so that columns of numbers line up."""
    return f"{value:+.2f}".replace("-", "\u2212") if round(value, 2) else "0.00"


_PRETTY = {
    "ticket": "imported ticket",
    "imp": "IMP", "omp": "OMP", "one_shot": "one shot", "agp": "AGP", "dsd": "DSD",
    "supermask_True": "supermask", "retrain_none": "no rewinding", "lenet_300_100": "LeNet-300-100",
}  # fmt: skip
_PATTERNS = (
    (re.compile(r"r(\d+)"), "rewind epoch {}"),
    (re.compile(r"t([0-9a-f]{12}(\.e\d+)?)"), "{}"),
    (re.compile(r"s([\d.]+)"), "{} %"),
    (re.compile(r"e(\d+)"), "{} epochs"),
    (re.compile(r"p([\d.]+)"), "{} % a level"),
    (re.compile(r"lr([\d.e]+)"), "learning rate {}"),
    (re.compile(r"bs(\d+)"), "batch {}"),
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


def _p(value: float | None) -> str:
    assert value is not None
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"
