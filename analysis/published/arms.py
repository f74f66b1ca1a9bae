"""Where in a run a published figure has its counterpart: ladders, levels, and the trials of both sides. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analysis.published.points import Point
from analysis.tables.schema import Row
from analysis.text import percent
from analysis.verdicts.baselines import Candidate
from analysis.verdicts.groups import ladder_key

TICKET, DENSE = "ticket", "dense"
ROUND = 0.8  # of the weights are left by a round of pruning in the papers
_NEAR = 0.5 + 1e-6  # rounds from a published level to that of the run: with rounds of 20 % one is always as near


@dataclass(frozen=True, kw_only=True)
class Level:
    """A level of a ladder, with the weights left at it, percent: measured, or as planned if no ticket is finished."""

    candidate: Candidate
    left_pct: float

    @property
    def group(self) -> str:
        return self.candidate.group.name

    def side(self, arm: str) -> Sequence[Row]:
        """The trials of an arm at this level, finished or not; empty if the run has none."""
        if arm == TICKET:
            return self.candidate.group.members
        if arm == DENSE:
            return self.candidate.dense.rows
        return next((other.rows for other in self.candidate.baselines if other.name == arm), ())


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The levels of a ladder, most weights left first."""

    name: str
    levels: tuple[Level, ...]


def ladders_for(point: Point, candidates: Iterable[Candidate]) -> list[Ladder]:
    """The ladders of the run that a point speaks of, by network, data and fields."""
    found: dict[object, list[Level]] = {}
    for candidate in candidates:
        spec = candidate.group.spec
        is_meant = spec["dataset"] == point.data and point.network in (None, spec["model"])
        if is_meant and all(_is(spec[name], text) for name, text in point.wanted.items()):
            found.setdefault(ladder_key(candidate.group), []).append(_level(candidate))
    return [
        Ladder(
            name=levels[0].candidate.group.ladder, levels=tuple(sorted(levels, key=lambda level: -level.left_pct))
        )
        for levels in found.values()
    ]  # fmt: skip


def why_no_ladder(point: Point, trials: Sequence[Row]) -> str:
    """Why the run has no ladder for a point, in words."""
    network = "" if point.network is None else f"{point.network} on "
    if not any(row["dataset"] == point.data and point.network in (None, row["model"]) for row in trials):
        return f"no trials of {network}{point.data}"
    return f"no tickets of {network}{point.data} with {', '.join(point.fields.split()) or 'any fields'}"


def nearest(levels: Sequence[Level], left_pct: float) -> Level | None:
    """The level nearest to these weights left, in rounds; None if it is more than half a round of 20 % away."""
    level = min(levels, key=lambda level: abs(rounds(level.left_pct, left_pct)))
    return level if abs(rounds(level.left_pct, left_pct)) <= _NEAR else None


def rounds(left_pct: float, published_pct: float) -> float:
    """How many rounds of 20 % lie between two levels; positive if the first has more weights left."""
    return math.log(published_pct / left_pct) / math.log(ROUND) if left_pct > 0 else -math.inf


def levels_in_words(levels: Sequence[Level]) -> str:
    """The levels that a ladder has, such as "80 to 1.2 % left"."""
    first, last = percent(levels[0].left_pct), percent(levels[-1].left_pct)
    return f"{first if first == last else f'{first} to {last}'} % left"


def _level(candidate: Candidate) -> Level:
    measured = [row["sparsity_pct"] for row in candidate.group.done if row["sparsity_pct"] is not None]
    return Level(
        candidate=candidate, left_pct=100 - (sum(measured) / len(measured) if measured else candidate.group.target)
    )


def _is(value: object, text: str) -> bool:
    """Whether a spec field has the value that this text names."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return str(value).lower() == text.lower()
