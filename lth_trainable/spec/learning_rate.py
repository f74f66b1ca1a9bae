"""Learning rate and momentum as functions of the step. Pure; needs no torch.

They depend on nothing but the step, so a fit that is continued or rewound has, at any step, the learning rate that the
uninterrupted fit had there. Steps are numbered from 0; step i is update number i of the weights.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lth_trainable.errors import bad_value, unknown_name
from lth_trainable.pruning.schedules import exact

# Settings of fastai's `fit_one_cycle`
ONE_CYCLE_PEAK, ONE_CYCLE_DIV, ONE_CYCLE_DIV_FINAL, ONE_CYCLE_MOMENTUM_DIP = 0.25, 25.0, 1e5, 0.1


def lr_constant(curve: LrCurve, step: int) -> float:
    """Always the base rate."""
    return curve.lr


def lr_warmup(curve: LrCurve, step: int) -> float:
    """A linear ramp lr (step + 1) / n_warm, then the base rate (Frankle & Carbin, arXiv 1803.03635, sec. 4)."""
    return curve.lr * (step + 1) / curve.n_warm if step < curve.n_warm else curve.lr


def lr_steps(curve: LrCurve, step: int) -> float:
    """The ramp of `lr_warmup`, then lr drop_factor^d after d drops. A drop takes effect at step round(drop * total).

    Renda et al. (arXiv 2003.02389) drop tenfold at epochs 91 and 136 of 182 on CIFAR-10: at fractions 0.5 and 0.75.
    """
    assert curve.drop_factor is not None
    dropped = sum(step >= first for first in curve.first_steps)
    return lr_warmup(curve, step) * float(curve.drop_factor**dropped)


def lr_cosine(curve: LrCurve, step: int) -> float:
    """The ramp of `lr_warmup`, then half a cosine: lr (1 + cos(pi t)) / 2, t = (step - n_warm) / (total - n_warm).

    It has the base rate at the first step after the ramp, and 0 at `total`, one step past the last (Loshchilov &
    Hutter, arXiv 1608.03983, eq. 5, without restarts).
    """
    if step < curve.n_warm or curve.n_warm == curve.total_steps:
        return lr_warmup(curve, step)
    return _half_cosine(curve.lr, 0.0, (step - curve.n_warm) / (curve.total_steps - curve.n_warm))


def lr_one_cycle(curve: LrCurve, step: int) -> float:
    """As fastai's `fit_one_cycle`: up from lr / 25 to lr in the first quarter of the fit, then down to lr / 1e5.

    Both parts are half a cosine wave (Smith & Topin, arXiv 1708.07120, in the form that fastai uses).
    """
    low, end = curve.lr / ONE_CYCLE_DIV, curve.lr / ONE_CYCLE_DIV_FINAL
    return combined_cos(step / curve.total_steps, low, curve.lr, end)


def combined_cos(pos: float, start: float, middle: float, end: float) -> float:
    """The same as fastai's `combined_cos(0.25, start, middle, end)(pos)`, bit for bit.

    fastai keeps the bounds of the two halves in a float32 tensor, so positions are rounded to float32. Without this
    rounding the values would differ by a relative 1e-7.
    """
    at, peak = np.float32(pos), np.float32(ONE_CYCLE_PEAK)
    if at < peak:
        return _half_cosine(start, middle, float(at / peak))
    return _half_cosine(middle, end, float((at - peak) / (np.float32(1) - peak)))


def _half_cosine(start: float, end: float, pos: float) -> float:
    return start + (1 + math.cos(math.pi * (1 - pos))) * (end - start) / 2


@dataclass(frozen=True, kw_only=True)
class LrPolicy:
    """The properties of a learning-rate policy.

    function: f(curve, step) -> learning rate. It takes the step, not step / total, so that ramps and drops fall on
    whole steps. knows_total: whether the rate depends on the total number of steps, so that a short fit is not the
    beginning of a long one. cycles_momentum: whether momentum changes too. ends_near_zero: whether the
    last rate is too small to learn at. The other fields are default settings; None
    means that the policy has no such setting.
    """

    function: Callable[[LrCurve, int], float]
    knows_total: bool = True
    cycles_momentum: bool = False
    ends_near_zero: bool = False
    warmup_pct: float | None = None
    drops: str | None = None
    drop_factor: float | None = None


LR_POLICIES: dict[str, LrPolicy] = {
    "constant": LrPolicy(function=lr_constant, knows_total=False),
    "warmup": LrPolicy(function=lr_warmup, warmup_pct=0.05),
    "steps": LrPolicy(function=lr_steps, warmup_pct=0.0, drops="0.5,0.75", drop_factor=0.1),
    "cosine": LrPolicy(function=lr_cosine, ends_near_zero=True, warmup_pct=0.0),
    "one_cycle": LrPolicy(function=lr_one_cycle, cycles_momentum=True, ends_near_zero=True),
}


@dataclass(frozen=True, kw_only=True)
class LrCurve:
    """The learning rates of a fit: `LrCurve(policy="steps", lr=0.1, momentum=0.9, total_steps=71_000)`.

    lr: the base (largest) rate. momentum: that of SGD, or adam's beta1. total_steps: number of updates in the whole
    fit, even if training starts within it. warmup_pct: fraction of the fit, in [0, 1), in which the rate ramps up; the
    ramp has round(warmup_pct * total_steps) steps (half to even), which may be 0 in a short fit. drops: increasing
    fractions of the fit in (0, 1). drop_factor: in (0, 1). A setting of None takes the default of the policy. A setting
    that the policy does not have becomes None, so that equal curves are equal objects.
    """

    policy: str
    lr: float
    momentum: float
    total_steps: int
    warmup_pct: float | None = None
    drops: tuple[float, ...] | None = None
    drop_factor: float | None = None

    def __post_init__(self) -> None:
        if self.policy not in LR_POLICIES:
            raise unknown_name("lr_policy", self.policy, LR_POLICIES)
        rule = self.rule
        defaults = {
            "warmup_pct": rule.warmup_pct,
            "drops": None if rule.drops is None else parse_drops(rule.drops),
            "drop_factor": rule.drop_factor,
        }
        for name, default in defaults.items():
            if default is None or getattr(self, name) is None:
                object.__setattr__(self, name, default)
        self._check()

    def _check(self) -> None:
        if self.total_steps < 1:
            raise bad_value("total_steps", self.total_steps, "a positive number of steps")
        if self.warmup_pct is not None and not 0 <= self.warmup_pct < 1:
            raise bad_value("warmup_pct", self.warmup_pct, "a fraction of the fit in [0, 1), such as 0.05")
        if self.drops and self.warmup_pct is not None and self.warmup_pct > self.drops[0]:
            raise bad_value("warmup_pct", self.warmup_pct, f"at most the first drop ({self.drops[0]:g})")
        if self.drop_factor is not None and not 0 < self.drop_factor < 1:
            raise bad_value("drop_factor", self.drop_factor, "a factor in (0, 1), such as 0.1")

    @property
    def rule(self) -> LrPolicy:
        return LR_POLICIES[self.policy]

    @functools.cached_property
    def n_warm(self) -> int:
        """Number of steps in the ramp."""
        return round(exact(self.warmup_pct or 0) * self.total_steps)

    @functools.cached_property
    def first_steps(self) -> tuple[int, ...]:
        """The first step after each drop."""
        return tuple(round(exact(drop) * self.total_steps) for drop in self.drops or ())

    def lr_at(self, step: int) -> float:
        """Learning rate of update `step`, from 0 to total_steps (one past the last update)."""
        self._check_step(step)
        return self.rule.function(self, step)

    def momentum_at(self, step: int) -> float:
        """Momentum of update `step`: constant, but with `one_cycle` m -> m - 0.1 -> m as the rate rises and falls.

        m = 0.95 gives fastai's 0.95 -> 0.85 -> 0.95. It is never below 0.
        """
        self._check_step(step)
        if not self.rule.cycles_momentum:
            return self.momentum
        low = max(0.0, self.momentum - ONE_CYCLE_MOMENTUM_DIP)
        return combined_cos(step / self.total_steps, self.momentum, low, self.momentum)

    def _check_step(self, step: int) -> None:
        if step < 0 or (step > self.total_steps and self.rule.knows_total):
            raise ValueError(f"step {step} is outside a fit of {self.total_steps} steps")


def parse_drops(text: str) -> tuple[float, ...]:
    """Read the fractions of a fit at which the learning rate drops: "0.5,0.75" -> (0.5, 0.75).

    Raises `UserError` unless they are increasing and in (0, 1).
    """
    try:
        drops = tuple(float(part) for part in text.split(","))
    except ValueError:
        drops = ()
    rising = all(a < b for a, b in itertools.pairwise(drops))
    # `all(inside)`, not `any(outside)`: a NaN would pass the latter
    if not drops or not rising or not all(0 < drop < 1 for drop in drops):
        raise bad_value("lr_drops", text, "increasing fractions of the fit in (0, 1), such as 0.5,0.75")
    return drops
