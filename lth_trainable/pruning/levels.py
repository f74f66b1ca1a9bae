"""Levels: prune a fixed part of what is left, train again, and so on. Exact rationals, no torch."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction

from lth_trainable.errors import check_sparsity, check_whole
from lth_trainable.pruning.schedules import exact
from lth_trainable.scalars import plain_fields

RUNG_TOLERANCE = Fraction(1, 10_000)  # a rung reaches the target if its density is at most this much larger


@functools.cache
def n_levels(prune_rate_pct: float | None, target_sparsity_pct: float | None) -> int:
    """Number of levels L up to a target: the smallest integer with (1-p)^L <= 1 - s + 1e-4."""
    keep, floor = 1 - _fraction(prune_rate_pct), 1 - _fraction(target_sparsity_pct) + RUNG_TOLERANCE
    levels, density = 1, keep
    while density > floor:
        levels, density = levels + 1, density * keep
    return levels


@functools.cache
def rungs(prune_rate_pct: float | None, levels: int) -> tuple[Fraction, ...]:
    """Exact sparsities 1 - (1-p)^level of the levels 1 to `levels`."""
    return tuple(_rung(prune_rate_pct, level) for level in range(1, levels + 1))


@functools.cache  # the same objects in each ladder, so that they compare fast
def _rung(prune_rate_pct: float | None, level: int) -> Fraction:
    return 1 - (1 - _fraction(prune_rate_pct)) ** level


def _fraction(percent: float | None) -> Fraction:
    assert percent is not None
    return exact(percent) / 100


@dataclass(frozen=True, kw_only=True)
class Levels:
    """A schedule by levels, for a `SparsifyCallback`: `Levels(prune_rate=20)`. Each level is a fit of its own.

    Between two fits, `prune_rate` percent of the weights that are left are removed, until the callback's sparsity is
    reached (iterative magnitude pruning, arXiv 1803.03635). A sparsity between two levels means the next one. n_levels:
    the number of levels; None: as many as the sparsity needs.
    """

    prune_rate: float = 20.0
    n_levels: int | None = None

    def __post_init__(self) -> None:
        plain_fields(self, "prune_rate", "n_levels")
        check_sparsity("prune_rate", self.prune_rate)
        if self.n_levels is not None:
            check_whole("n_levels", self.n_levels, 1)

    def sparsities(self, target_pct: float) -> tuple[Fraction, ...]:
        """Exact sparsity, as a fraction, at each of the levels 1, 2, ... up to a target in percent."""
        return rungs(self.prune_rate, self.n_levels or n_levels(self.prune_rate, target_pct))
