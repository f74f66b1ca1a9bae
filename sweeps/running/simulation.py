"""How long a sweep would take with workers that train cohorts: the real dispatcher on a simulated clock, without Ray.

All epochs of a worker take the same time, however many of its slots are used: a stack with idle slots does the work of
a full one. A cohort lasts as long as its longest member; then the worker is given another.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection
from dataclasses import dataclass

from sweeps.planning.dispatch import Dispatcher, Shape
from sweeps.planning.plan import Plan, PlannedTrial
from sweeps.planning.work import epochs_of
from sweeps.running.cohorts import Cohorts


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a sweep went. epochs: from start to end. worked: of all workers together, each counted once for a cohort.

    trained: of all members. cohorts: how many there were. largest: members of the largest.
    """

    epochs: int
    worked: int
    trained: int
    cohorts: int
    largest: int

    def full(self, replicas: int) -> float:
        """The fraction of the slots, over all epochs of the workers, that had a member."""
        return self.trained / (self.worked * replicas) if self.worked else 1.0


def simulate(
    plan: Plan, done: Collection[str], stored: Collection[str], slots: int, replicas: int, shape_of: Shape
) -> Course:  # fmt: skip
    """Hand out the trials that are left to `slots` workers, each with cohorts of up to `replicas` members."""
    dispatcher = Dispatcher(plan, done, stored, slots, replicas=replicas)
    cohorts, numbers = Cohorts(replicas, shape_of), itertools.count()
    events: list[tuple[int, int, PlannedTrial | None, str | None]] = []  # without a trial: a worker is free
    now = worked = trained = started = largest = 0
    free = slots
    while not dispatcher.over:
        while free and (trial := dispatcher.next()) is not None:
            members = (trial, *cohorts.start(dispatcher, trial).others)
            longest = 0
            for member in members:
                own = 0
                for node in dispatcher.running[member.name]:
                    own += epochs_of(node, stored)
                    heapq.heappush(events, (now + own, next(numbers), member, node.key))
                heapq.heappush(events, (now + own, next(numbers), member, None))
                trained, longest = trained + own, max(longest, own)
            heapq.heappush(events, (now + longest, next(numbers), None, None))
            free, worked, started = free - 1, worked + longest, started + (longest > 0)
            largest = max(largest, len(members))
        now, _, ended, key = heapq.heappop(events)
        if ended is None:
            free += 1
        elif key is None:
            dispatcher.finished(ended.name)
        else:
            dispatcher.reached(key)
    return Course(epochs=now, worked=worked, trained=trained, cohorts=started, largest=largest)
