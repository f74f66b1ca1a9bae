"""How long a step of a stack takes, for some numbers of networks. Needs no torch."""

from __future__ import annotations

import itertools
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Time:
    """What was measured of k networks.

    step_s, validation_s: seconds of a step, and of a pass over the validation split, of all of them together.
    """

    k: int
    step_s: float
    validation_s: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What was measured of some numbers of networks: 1, and others in ascending order.

    ended: why the largest numbers that were asked for were not measured, or "". file: where it is, as the user would
    type it; "" if it was not kept.
    """

    times: tuple[Time, ...]
    ended: str = ""
    file: str = ""

    @property
    def most(self) -> int:
        """The largest number of networks that was measured."""
        return self.times[-1].k

    def at(self, k: int) -> Time:
        """The times of k networks: on the line between those measured, beyond the last one as many times longer."""
        for below, above in itertools.pairwise(self.times):
            if below.k <= k <= above.k:
                part = (k - below.k) / (above.k - below.k)
                return Time(
                    k=k, step_s=below.step_s + part * (above.step_s - below.step_s),
                    validation_s=below.validation_s + part * (above.validation_s - below.validation_s),
                )  # fmt: skip
        last = self.times[-1]
        return Time(k=k, step_s=last.step_s * k / last.k, validation_s=last.validation_s * k / last.k)
