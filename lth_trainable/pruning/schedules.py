"""Schedules: when a network is pruned within one fit, and to which sparsity. Exact rationals, no torch.

A schedule function has fastai's signature `f(start, end, pos) -> value` with `pos` in [0, 1]; fastai's own functions
(`sched_cos`, `sched_lin`, ...) work unchanged. A `Schedule` turns a function into prunes at epoch boundaries.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lth_trainable.errors import UserError, bad_value, is_finite_number, unknown_name, words_of
from lth_trainable.scalars import plain

Number = Any  # Fraction where the function keeps it exact, float otherwise


def sched_one_shot(start: Number, end: Number, pos: Number) -> Number:
    """The whole sparsity at once."""
    return end


def sched_iterative(start: Number, end: Number, pos: Number, n_steps: int = 3) -> Number:
    """`n_steps` equal steps: start + (end - start) / n * min(n, floor(pos n) + 1).

    The steps are counted in whole numbers, so that each prune falls on its boundary; with a float `ceil` some
    boundaries would come one step early.
    """
    return start + (end - start) * min(n_steps, math.floor(pos * n_steps) + 1) / n_steps


def sched_agp(start: Number, end: Number, pos: Number) -> Number:
    """Automated gradual pruning: end + (start - end)(1 - pos)^3 (Zhu & Gupta, arXiv 1710.01878, eq. 1)."""
    return end + (start - end) * (1 - pos) ** 3


def sched_linear(start: Number, end: Number, pos: Number) -> Number:
    """A straight line from `start` to `end`."""
    return start + (end - start) * pos


def sched_cosine(start: Number, end: Number, pos: Number) -> Number:
    """Half a cosine wave, slow at both ends."""
    return start + (1 + math.cos(math.pi * (1 - pos))) / 2 * float(end - start)


def sched_one_cycle(start: Number, end: Number, pos: Number) -> Number:
    """The logistic curve of One-Cycle Pruning: (1 + e^-8) / (1 + e^(6 - 14 pos)) (Hubens et al., arXiv 2107.02086)."""
    return float(start) + float(end - start) * (1 + math.exp(-8)) / (1 + math.exp(6 - 14 * pos))


def sched_dsd(start: Number, end: Number, pos: Number) -> Number:
    """Dense-sparse-dense: a cosine up to `end` at pos 0.5 and down to `start` again (Han et al., arXiv 1607.04381)."""
    return start + (1 - math.cos(2 * math.pi * pos)) / 2 * float(end - start)


@dataclass(frozen=True, kw_only=True)
class ScheduleRule:
    """The properties of a schedule.

    family: "fit" (prunes within one fit, at epoch boundaries) or "levels" (one fit for each level). start_pct, end_pct:
    defaults, as fractions of the fit. stepwise: prunes are separate events with training between them, so weights may
    be reset after each (`lth=True`). peaks: the target is the peak, not the end.
    """

    function: Callable[..., Number] | None
    family: str = "fit"
    start_pct: float = 0.0
    end_pct: float = 0.75
    stepwise: bool = False
    peaks: bool = False


SCHEDULES: dict[str, ScheduleRule] = {
    "imp": ScheduleRule(function=None, family="levels"),
    "omp": ScheduleRule(function=None, family="levels"),
    "one_shot": ScheduleRule(function=sched_one_shot, start_pct=0.5, end_pct=1.0, stepwise=True),
    "iterative": ScheduleRule(function=sched_iterative, start_pct=0.2, end_pct=1.0, stepwise=True),
    "agp": ScheduleRule(function=sched_agp, start_pct=0.2),
    "linear": ScheduleRule(function=sched_linear),
    "cosine": ScheduleRule(function=sched_cosine),
    "one_cycle": ScheduleRule(function=sched_one_cycle),
    "dsd": ScheduleRule(function=sched_dsd, peaks=True),
}


@dataclass(frozen=True)
class Prune:
    """A prune to `sparsity` (a fraction in [0, 1]) at the start of `epoch`. Exact if the schedule function is."""

    epoch: int
    sparsity: Fraction


def exact(value: float | int | Fraction) -> Fraction:
    """The rational number that a decimal stands for: 0.1 gives 1/10, not the nearest double."""
    return value if isinstance(value, Fraction) else Fraction(str(value))


class Schedule:
    """When to prune: `Schedule(sched_iterative, start_pct=0.25)`.

    sched_func: f(start, end, pos), from this module or from fastai; `partial(sched_iterative, n_steps=5)` sets further
    arguments. start_pct, end_pct: fractions of the fit in [0, 1] between which the schedule runs. None takes the
    function's defaults: one_shot starts at 0.5, iterative and agp at 0.2, others at 0; gradual ones end at 0.75, so
    that the network still trains after its last prune.
    """

    def __init__(
        self, sched_func: Callable[..., Number], start_pct: float | None = None, end_pct: float | None = None
    ) -> None:
        if not callable(sched_func) or isinstance(sched_func, type):
            raise bad_value("schedule", sched_func, "a function f(start, end, pos), such as sched_agp")
        self.function = sched_func
        known = (rule for rule in SCHEDULES.values() if rule.function is _plain(sched_func))
        self.rule = next(known, ScheduleRule(function=sched_func))
        self.start_pct: float = self.rule.start_pct if start_pct is None else plain(start_pct)
        self.end_pct: float = self.rule.end_pct if end_pct is None else plain(end_pct)
        if not _is_number(self.start_pct) or not 0 <= self.start_pct < 1:
            raise bad_value("start_pct", start_pct, "a fraction of the fit in [0, 1), such as 0.25")
        if not _is_number(self.end_pct) or not self.start_pct <= self.end_pct <= 1:
            raise bad_value(
                "end_pct", self.end_pct, f"a fraction of the fit from start_pct ({float(self.start_pct):g}) to 1"
            )
        self.value(Fraction(1, 2), Fraction(1, 2))

    @property
    def name(self) -> str:
        """The schedule's name in `SCHEDULES`, else the name of its function."""
        for name, rule in SCHEDULES.items():
            if rule is self.rule:
                return name
        plain = _plain(self.function)
        return str(getattr(plain, "__name__", type(plain).__name__))

    def __repr__(self) -> str:
        return f"Schedule({self.name}, start_pct={float(self.start_pct):g}, end_pct={float(self.end_pct):g})"

    def value(self, end: Fraction, pos: Fraction) -> Fraction:
        """The function's value on its way from 0 to `end`, at `pos` in [0, 1]. Raises `UserError` if it has none."""
        shown = f"schedule: {self.name}(0, {float(end):g}, {float(pos):g})"
        try:
            found = plain(self._call(end, pos))
        except Exception as error:  # whatever the user's function raises, it is no schedule
            raise UserError(
                f"{shown} raises {type(error).__name__}: {words_of(error)}; expected a function f(start, end, pos) that"
                " returns a number"
            ) from error
        if not _is_number(found):
            raise bad_value(shown, found, "a finite number")
        return Fraction(found)

    def _call(self, end: Fraction, pos: Fraction) -> Number:
        try:
            return self.function(Fraction(0), end, pos)
        except Exception:  # functions of NumPy and torch take no fractions, and each says so with an error of its own
            return self.function(0.0, float(end), float(pos))

    def sparsity_at(self, fraction: Fraction, target: Fraction) -> Fraction:
        """Sparsity (a fraction) after `fraction` of the fit, for a final (dsd: peak) sparsity `target`."""
        start, end = exact(self.start_pct), exact(self.end_pct)
        if fraction < start:
            return Fraction(0)
        pos = min(Fraction(1), (fraction - start) / (end - start)) if end > start else Fraction(1)
        return min(Fraction(1), max(Fraction(0), self.value(target, pos)))

    def prunes(self, n_epochs: int, target: Fraction) -> tuple[Prune, ...]:
        """The prunes of a fit of `n_epochs` epochs: at most one in each epoch, at its start.

        target: the final (dsd: peak) sparsity as a fraction. Raises `UserError` if there are too few epochs to reach
        it.
        """
        n_epochs = plain(n_epochs)
        values = [self.sparsity_at(Fraction(epoch, n_epochs), target) for epoch in range(n_epochs)]
        if self.rule.stepwise:
            self._check_steps(values, n_epochs, target)
        else:
            self._meet_target(values, n_epochs, target)
        events, before = [], Fraction(0)
        for epoch, value in enumerate(values):
            if value != before:
                events.append(Prune(epoch, value))
            before = value
        if not events:
            raise UserError(f"{self}: prunes nothing within {n_epochs} epochs; use more epochs or a smaller start_pct")
        return tuple(events)

    def _meet_target(self, values: list[Fraction], n_epochs: int, target: Fraction) -> None:
        """Make a gradual schedule reach its target exactly, at the epoch boundary nearest to where its curve does."""
        middle_or_end = (exact(self.start_pct) + exact(self.end_pct)) / 2 if self.rule.peaks else exact(self.end_pct)
        first = min(n_epochs - 1, max(0, math.ceil(middle_or_end * n_epochs - Fraction(1, 2) * self.rule.peaks)))
        if self.rule.peaks:
            values[first] = target
        else:
            values[first:] = [target] * (n_epochs - first)

    def _check_steps(self, values: list[Fraction], n_epochs: int, target: Fraction) -> None:
        steps = self._n_steps()
        distinct = len({v for v in values if v > 0})
        if values[-1] != target or distinct < steps:
            raise UserError(
                f"{self}: no room for {steps} pruning step{'s' * (steps > 1)} in {n_epochs} epochs from fraction"
                f" {self.start_pct:g} on (room for {distinct}); use more epochs, fewer steps or a smaller start_pct"
            )

    def _n_steps(self) -> int:
        if _plain(self.function) is not sched_iterative:
            return 1
        keywords = self.function.keywords if isinstance(self.function, functools.partial) else {}
        return int(keywords.get("n_steps", 3))


def as_schedule(given: Any) -> Any:
    """A function, or a name of `SCHEDULES`, as a `Schedule`; anything else as it is. Raises `UserError` for a name."""
    if isinstance(given, str):
        within_fit = {name: rule.function for name, rule in SCHEDULES.items() if rule.function is not None}
        if given not in within_fit:
            also = " (by levels: Levels(prune_rate=20))" if given in SCHEDULES else ""
            raise unknown_name(f"schedule{also}", given, within_fit)
        return Schedule(within_fit[given])
    return Schedule(given) if callable(given) and not isinstance(given, type) else given


def _is_number(value: Any) -> bool:
    return isinstance(value, Fraction) or is_finite_number(value)


def _plain(function: Callable[..., Number]) -> Callable[..., Number]:
    return function.func if isinstance(function, functools.partial) else function


# Ready-made, by the names of fasterai, each with the defaults of its function.
one_shot, iterative, agp = Schedule(sched_one_shot), Schedule(sched_iterative), Schedule(sched_agp)
one_cycle, cos, lin, dsd = (Schedule(f) for f in (sched_one_cycle, sched_cosine, sched_linear, sched_dsd))
