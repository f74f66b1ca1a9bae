"""`--replicas auto`: how many networks are trained as one, from how long their steps take and what the plan has ready.

Bytes depend on the number, so there is one for all trials of a run, chosen before the first of them starts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass

from lth_trainable.stacking.times import Curve
from sweeps.planning.dispatch import Shape
from sweeps.planning.plan import Plan, PlannedTrial
from sweeps.running.resources import MOST_REPLICAS
from sweeps.running.simulation import simulate
from sweeps.runs.replica_files import Choice

MOST_MEASURED = 128  # networks; a GPU gains little from more
SHARES = 4  # what is ready at once is also tried in so many cohorts one after another
SAME = 0.02  # a shorter time than this fraction is no reason for a larger number


@dataclass(frozen=True, kw_only=True)
class Question:
    """For which trials a number is wanted.

    trial: one of those whose shape most unfinished trials have. ready: most of them that can be trained at the same
    time. slots: workers; on_a_gpu: those that share a GPU. steps, validations: of an epoch of the trial.
    """

    plan: Plan
    done: Collection[str]
    shape_of: Shape
    trial: PlannedTrial
    ready: int
    slots: int
    on_a_gpu: int
    steps: int
    validations: int

    @property
    def numbers(self) -> list[int]:
        """Numbers of networks to measure: powers of two, and what is ready at once."""
        top = min(self.ready, MOST_MEASURED)
        return [*(2**n for n in range(top.bit_length()) if 2**n < top), top]

    def epoch(self, curve: Curve, k: int) -> float:
        """Seconds of an epoch of a stack of k networks, validations included, by what was measured.

        Stacks that share a GPU take at least as long as one of all their networks.
        """
        shared = k * self.on_a_gpu
        return max(self._alone(curve, k), self._alone(curve, shared)) if self.on_a_gpu > 1 else self._alone(curve, k)

    def _alone(self, curve: Curve, k: int) -> float:
        time = curve.at(k)
        return self.steps * time.step_s + self.validations * time.validation_s


def question(
    plan: Plan, done: Collection[str], shape_of: Shape, slots: int, on_a_gpu: int,
    steps_of: Callable[[PlannedTrial], int],
) -> Question | str:  # fmt: skip
    """What is to be found out about the trials that are not done; or why there is nothing, in words."""
    shapes: dict[Hashable, PlannedTrial] = {}
    numbers: Counter[Hashable] = Counter()
    for trial in plan.trials:
        if trial.name not in done and (shape := shape_of(trial)) is not None:
            shapes.setdefault(shape, trial)
            numbers[shape] += 1
    if not numbers:
        return "because none of its trials can be trained together with others"
    most_frequent = shapes[numbers.most_common(1)[0][0]]
    ready = simulate(plan, done, (), 1, MOST_REPLICAS, shape_of).largest
    if ready < 2:
        return "because no two trials of one shape can be trained at the same time"
    steps, every = steps_of(most_frequent), most_frequent.spec.validate_every
    return Question(
        plan=plan, done=done, shape_of=shape_of, trial=most_frequent, ready=ready, slots=max(1, slots),
        on_a_gpu=max(1, on_a_gpu), steps=steps, validations=1 if every is None else max(1, math.ceil(steps / every)),
    )  # fmt: skip


def choose(asked: Question, curve: Curve) -> Choice:
    """The number with which the plan takes least time; of nearly equal ones the smallest."""
    in_shares = {math.ceil(asked.ready / (asked.slots * share)) for share in range(1, SHARES + 1)}
    candidates = sorted({1, *(time.k for time in curve.times), *in_shares})
    seconds = {
        k: simulate(asked.plan, asked.done, (), asked.slots, k, asked.shape_of).epochs * asked.epoch(curve, k)
        for k in candidates
        if k <= curve.most
    }
    least = min(seconds.values())
    chosen = next(k for k in candidates if seconds[k] <= (1 + SAME) * least)
    return Choice(replicas=chosen, why=_why(chosen, curve))


def _why(chosen: int, curve: Curve) -> str:
    other = chosen if chosen > 1 else min(2, curve.most)
    file = f" (curve: {curve.file})" if curve.file else ""
    several = f"a step of {other} networks takes {_ms(curve.at(other).step_s)}, " if other > 1 else ""
    ended = f"; {curve.ended}" if curve.ended and chosen == curve.most else ""
    return f"because {several}one of 1 {_ms(curve.at(1).step_s)}{ended}{file}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
