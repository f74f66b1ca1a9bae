"""Learning rate and momentum as functions of the absolute step. Pure: no torch, and no object whose history matters.

A fit that is continued, or rewound to any step, has at that step the learning rate that the uninterrupted fit had
there. Steps are numbered from 0 on the trial's clock; step i is the i-th update of the weights.
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

# The settings of fastai's `fit_one_cycle`
ONE_CYCLE_PEAK, ONE_CYCLE_DIV, ONE_CYCLE_DIV_FINAL, ONE_CYCLE_MOMENTUM_DIP = 0.25, 25.0, 1e5, 0.1


def lr_constant(curve: LrCurve, step: int) -> float:
    """The base rate throughout."""
    return curve.lr


def lr_warmup(curve: LrCurve, step: int) -> float:
    """A ramp lr (step + 1) / n_warm, then the base rate (Frankle & Carbin, arXiv 1803.03635, sec. 4)."""
    return curve.lr * (step + 1) / curve.n_warm if step < curve.n_warm else curve.lr


def lr_steps(curve: LrCurve, step: int) -> float:
    """The ramp, then lr drop_factor^d after d drops; a drop acts from step round(drop * total) on.

    Renda et al. (arXiv 2003.02389) drop tenfold at epochs 91 and 136 of 182 on CIFAR-10: at parts 0.5 and 0.75.
    """
    assert curve.drop_factor is not None
    dropped = sum(step >= first for first in curve.first_steps)
    return lr_warmup(curve, step) * float(curve.drop_factor**dropped)


def lr_cosine(curve: LrCurve, step: int) -> float:
    """The ramp, then half a cosine wave: lr (1 + cos(pi t)) / 2, t = (step - n_warm) / (total - n_warm).

    The base rate at the first step after the ramp, 0 at `total`, which is one past the last step (Loshchilov & Hutter,
    arXiv 1608.03983, eq. 5, without restarts).
    """
    if step < curve.n_warm or curve.n_warm == curve.total_steps:
        return lr_warmup(curve, step)
    return _half_cosine(curve.lr, 0.0, (step - curve.n_warm) / (curve.total_steps - curve.n_warm))


def lr_one_cycle(curve: LrCurve, step: int) -> float:
    """fastai's `fit_one_cycle`: lr / 25 up to lr over a quarter of the fit, down to lr / 1e5, each half a cosine wave.

    (Smith & Topin, arXiv 1708.07120, in fastai's shape.)
    """
    low, end = curve.lr / ONE_CYCLE_DIV, curve.lr / ONE_CYCLE_DIV_FINAL
    return combined_cos(step / curve.total_steps, low, curve.lr, end)


def combined_cos(pos: float, start: float, middle: float, end: float) -> float:
    """fastai's `combined_cos(0.25, start, middle, end)(pos)`, bit for bit.

    fastai keeps the part's bounds in a float32 tensor, so its position on the curve is rounded to float32; without
    that, values differ by 1e-7 of themselves.
    """
    at, peak = np.float32(pos), np.float32(ONE_CYCLE_PEAK)
    if at < peak:
        return _half_cosine(start, middle, float(at / peak))
    return _half_cosine(middle, end, float((at - peak) / (np.float32(1) - peak)))


def _half_cosine(start: float, end: float, pos: float) -> float:
    return start + (1 + math.cos(math.pi * (1 - pos))) * (end - start) / 2


@dataclass(frozen=True, kw_only=True)
class LrPolicy:
    """What the house knows of a policy.

    function: f(curve, step) -> learning rate; of the step and not of step / total, so that ramps and drops fall on
    whole steps. `knows_total`: the rate depends on the number of steps, so a short fit is no prefix of a long one.
    `cycles_momentum`: momentum moves too. The others are the defaults of the settings that act here; a setting that is
    None does not act.
    """

    function: Callable[[LrCurve, int], float]
    knows_total: bool = True
    cycles_momentum: bool = False
    warmup_pct: float | None = None
    drops: str | None = None
    drop_factor: float | None = None


LR_POLICIES: dict[str, LrPolicy] = {
    "constant": LrPolicy(function=lr_constant, knows_total=False),
    "warmup": LrPolicy(function=lr_warmup, warmup_pct=0.05),
    "steps": LrPolicy(function=lr_steps, warmup_pct=0.0, drops="0.5,0.75", drop_factor=0.1),
    "cosine": LrPolicy(function=lr_cosine, warmup_pct=0.0),
    "one_cycle": LrPolicy(function=lr_one_cycle, cycles_momentum=True),
}


@dataclass(frozen=True, kw_only=True)
class LrCurve:
    """The learning rates of a fit: `LrCurve(policy="steps", lr=0.1, momentum=0.9, total_steps=71_000)`.

    lr: the base (largest) rate. momentum: adam's beta1, or that of SGD. total_steps: updates in the whole fit, wherever
    this part of it starts. warmup_pct: part of the fit in [0, 1) that ramps up, round(warmup_pct * total_steps) steps
    (half to even; may be none in a short fit). drops: parts of the fit in (0, 1), increasing. drop_factor: in (0, 1).
    A setting left None takes the policy's default; one that does not act is None whatever was given, so equal curves
    are equal objects.
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
            raise bad_value("warmup_pct", self.warmup_pct, "a part of the fit in [0, 1), such as 0.05")
        if self.drops and self.warmup_pct is not None and self.warmup_pct > self.drops[0]:
            raise bad_value("warmup_pct", self.warmup_pct, f"at most the first drop ({self.drops[0]:g})")
        if self.drop_factor is not None and not 0 < self.drop_factor < 1:
            raise bad_value("drop_factor", self.drop_factor, "a factor in (0, 1), such as 0.1")

    @property
    def rule(self) -> LrPolicy:
        return LR_POLICIES[self.policy]

    @functools.cached_property
    def n_warm(self) -> int:
        """Number of steps of the ramp."""
        return round(exact(self.warmup_pct or 0) * self.total_steps)

    @functools.cached_property
    def first_steps(self) -> tuple[int, ...]:
        """The first step after each drop."""
        return tuple(round(exact(drop) * self.total_steps) for drop in self.drops or ())

    def lr_at(self, step: int) -> float:
        """Learning rate of update `step`, 0 to total_steps (the last is where a next update would be)."""
        self._check_step(step)
        return self.rule.function(self, step)

    def momentum_at(self, step: int) -> float:
        """Momentum of update `step`: m, or under `one_cycle` m -> m - 0.1 -> m as the learning rate rises and falls.

        0.95 gives fastai's own 0.95 -> 0.85 -> 0.95. Never below 0.
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
    """The parts of a fit at which the learning rate drops: "0.5,0.75" -> (0.5, 0.75). Increasing, each in (0, 1)."""
    try:
        drops = tuple(float(part) for part in text.split(","))
    except ValueError:
        drops = ()
    rising = all(a < b for a, b in itertools.pairwise(drops))
    # not written as "any outside", which a NaN would pass
    if not drops or not rising or not all(0 < drop < 1 for drop in drops):
        raise bad_value("lr_drops", text, "increasing parts of the fit in (0, 1), parted by commas, such as 0.5,0.75")
    return drops
