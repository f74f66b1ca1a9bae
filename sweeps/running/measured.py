"""How many trials should share a GPU, from what the first of them has shown: `--trials-per-gpu auto`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lth_trainable.training.gpu_memory import fraction_of

SPARE = 1.1  # a later trial may need somewhat more memory than the first
USABLE = 0.95  # of the memory of a GPU
KEEP_BUSY, KEEP_BUSY_IN_TURN = 8.0, 3.0  # trials worth of kernels that a GPU takes, with MPS and without


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a trial alone on a GPU has used of it. Bytes: of memory. busy: fraction of the time; None if unknown.

    peak_bytes: that PyTorch had reserved. context_bytes: of the process besides. usable_bytes: of the GPU, without what
    other programs use. total_bytes: of the GPU.
    """

    peak_bytes: int
    context_bytes: int
    usable_bytes: int
    total_bytes: int
    busy: float | None

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Sample:
        return cls(**{name: report[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Trials on each GPU, and what bounds them, in words."""

    trials: int
    why: str


def choose(sample: Sample, most: int, mps: bool) -> Choice:
    """As many trials as have memory, cores and, roughly, kernels' time. most: as many as the cores allow."""
    bounds = {
        "the cores allow": most, "its memory allows": _in_memory(sample, most),
        "the time of its kernels allows": _in_time(sample.busy, mps),
    }  # fmt: skip
    bound = min(bounds, key=lambda name: bounds[name])
    used = (sample.peak_bytes + sample.context_bytes) / 2**30
    busy = "" if sample.busy is None else f" and {100 * sample.busy:.0f} % of its time"
    why = f"a trial takes {used:.1f} of {sample.total_bytes / 2**30:.1f} GiB of the GPU{busy}: so many {bound}"
    return Choice(trials=max(1, bounds[bound]), why=why)


def _in_memory(sample: Sample, most: int) -> int:
    """The largest number of trials that fit, each into its share, and all into what is usable."""
    peak = SPARE * sample.peak_bytes
    fitting = [
        n
        for n in range(1, most + 1)
        if peak <= fraction_of(n, sample.total_bytes) * sample.total_bytes
        and n * (peak + sample.context_bytes) <= USABLE * sample.usable_bytes
    ]
    return max(fitting, default=1)


def _in_time(busy: float | None, mps: bool) -> int:
    """Kernels of several trials run at the same time through MPS, in turn without it."""
    target = KEEP_BUSY if mps else KEEP_BUSY_IN_TURN
    return round(target / max(busy if busy is not None else 1.0, 0.1))
