"""Which trial runs on which GPU of this machine, and how many share one.

Ray would fill one GPU before it uses the next. Here each new trial gets the GPU with the fewest trials, so a sweep with
less trials than places uses all GPUs. Ray is told of each GPU as a resource of its own, so that a worker, once its
process uses a GPU, is only given trials of that GPU.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sweeps.running.measured import Sample, choose
from sweeps.running.resources import MOST, Resources, gpu_count

MEASURE_SECONDS = 2.0  # of a trial's training after its first epoch
VISIBLE = "CUDA_VISIBLE_DEVICES"
LISTING = "lottery_listing"  # Ray's resource of a trial that is recorded, and only to be listed in Ray's results
LISTED_AT_ONCE = 1


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a trial runs. gpu: index of the GPU among those of the sweep. visible: CUDA_VISIBLE_DEVICES of its worker.

    sharing: number of trials that share the GPU. attempt: counts from 0; each has a folder of its own in Ray's results.
    measures: whether the trial has the GPU for itself, so that it shows how many can share one.
    """

    gpu: int
    visible: str
    sharing: int
    attempt: int = 0
    measures: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Packing:
    """The places of a sweep's trials on the GPUs of this machine.

    gpus: how many. on_each: trials on each of them, now; `lower` halves it. most: that `take` may raise it to, once the
    first trials have shown what they use; None: it is not measured. at_once: most trials on all GPUs together. notes:
    what has changed, for the user. has_mps: whether the trials on a GPU share it through MPS.
    """

    has_mps = False

    def __init__(
        self, gpus: int, on_each: int, environment: Mapping[str, str] = os.environ, *, most: int | None = None,
        at_once: int | None = None,
    ) -> None:  # fmt: skip
        self.gpus, self.on_each, self.most, self.at_once = gpus, on_each, most or on_each, at_once
        self.is_measuring = self.most > on_each
        listed = environment.get(VISIBLE, "").replace(" ", "")
        self.visible = listed.split(",") if listed else [str(gpu) for gpu in range(gpus)]
        self.notes: list[str] = []
        self._places: dict[str, Place] = {}
        self._attempts: Counter[str] = Counter()

    @classmethod
    def of(cls, resources: Resources) -> Packing | None:
        """For trials with these resources on this machine; None if they use no GPU."""
        if not resources.gpus:
            return None
        gpus = gpu_count()
        if resources.sharing != "measured":
            return cls(gpus, resources.on_a_gpu)
        at_once = min((os.cpu_count() or 1) // resources.cpus, resources.max_concurrent or MOST * gpus)
        return cls(gpus, 1, most=min(MOST, max(1, math.ceil(at_once / gpus))), at_once=at_once)

    def place(self, trial: str) -> Place:
        """The GPU with the fewest trials. It belongs to the trial until `leave`."""
        load = Counter(place.gpu for place in self._places.values())
        gpu = min(range(self.gpus), key=lambda gpu: load[gpu])
        self._places[trial] = Place(
            gpu=gpu, visible=self.visible[gpu], sharing=self.on_each, attempt=self._attempts[trial],
            measures=self.is_measuring,
        )  # fmt: skip
        return self._places[trial]

    def leave(self, trial: str) -> None:
        """A trial has ended."""
        self._places.pop(trial, None)

    def take(self, report: Mapping[str, Any]) -> str | None:
        """A report of a trial that measures; what follows from it, in words, if it has seen enough."""
        if not self.is_measuring or "gpu" not in report:
            return None
        seen = json.loads(report["gpu"])
        if seen.pop("seconds") < MEASURE_SECONDS and "status" not in report:
            return None
        choice = choose(Sample.of(seen), self.most, self.has_mps)
        self.is_measuring, self.on_each = False, choice.trials
        return f"--trials-per-gpu auto: from here on --trials-per-gpu {choice.trials}, because {choice.why}"

    def lower(self, trial: str, sharing: int) -> None:
        """A trial found no memory left beside others, `sharing` on each GPU: from now on they are half as many.

        Those that run go on, and others that find no memory in the same share lower it no further.
        """
        self._attempts[trial] += 1
        if sharing <= self.on_each:
            self.on_each = max(1, sharing // 2)
            self.notes.append(
                f"{trial} found no memory left beside others: {self.on_each} instead of {sharing} trials share a GPU "
                "from there on, and it was tried again"
            )

    @property
    def slots(self) -> int:
        """Trials that may run at once."""
        return min(self.gpus * self.on_each, self.at_once or self.gpus * self.on_each)

    def for_ray(self) -> dict[str, float]:
        """Ray's resources of this machine: as many places on each GPU as there may ever be trials; and for listing."""
        return {**{unit(gpu): self.most for gpu in range(self.gpus)}, LISTING: LISTED_AT_ONCE}

    def may_wait(self, resources: Mapping[str, float]) -> int:
        """How many workers with these resources of Ray may wait for their next trial."""
        return LISTED_AT_ONCE if LISTING in resources else self.on_each

    def number_by_position(self) -> None:
        """Let workers number the GPUs of CUDA_VISIBLE_DEVICES from 0, as those of an MPS daemon that has the same do.

        Names (`GPU-...`, `MIG-...`) stay.
        """
        self.visible = [name if not name.isdigit() else str(at) for at, name in enumerate(self.visible)]


def unit(gpu: int) -> str:
    """Name of Ray's resource for a place on a GPU. "GPU" itself would let Ray choose which."""
    return f"lottery_gpu_{gpu}"
