"""What a profiled trial adds to its record: seconds by part, share of kernels, least time of the arithmetic.

`stopwatch.py` measures the parts. On a GPU they begin and end with the device idle, so kernels count where they belong.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from fastai.callback.core import Callback
from torch import nn

from lth_trainable.models.flops import PASSES, weight_uses
from lth_trainable.pruning.layers import LAYER_TYPES, prunable_layers
from lth_trainable.stopwatch import Stopwatch, part

TRACED = 2  # the epoch whose kernels are traced: the first creates the optimiser's state and captures graphs
MOST_STEPS = 5_000  # of an epoch that is traced; each step has some hundred kernels
SIDE = {"cuda": 4096, "cpu": 1024}  # of the square matrices whose product gives the peak
REPEATS = 5
TRACEABLE = {"cuda": torch.profiler.ProfilerActivity.CUDA}  # devices whose work is traced, and as what
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # precisions whose products are not of float32


class ProfileWatch(Callback):
    """Counts the images that are trained, and traces the kernels of one epoch on a GPU. Marks what is validation."""

    order = 75  # after what prunes, masks and captures at the start of an epoch

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch
        self.images = self.epochs = 0
        self.kernel_share: float | None = None
        self._tracer: Any = None
        self._validates = False

    @property
    def beside(self) -> list[Callback]:
        """The callbacks that belong to this one."""
        return [self, ProfileValidation(self)]

    def before_train(self) -> None:
        self.epochs += 1
        if self.epochs == TRACED and self.dls.device.type in TRACEABLE and len(self.dls.train) <= MOST_STEPS:
            self._trace()

    def after_train(self) -> None:
        train = self.dls.train
        self.images += train.n - self.learn.clock.skipped * train.bs
        if self._tracer is not None:
            self._end_trace()

    def after_validate(self) -> None:
        self.validates(False)

    def after_fit(self) -> None:
        """Also if the fit was cancelled in the middle of an epoch."""
        self.validates(False)
        if self._tracer is not None:
            self._tracer.stop()
            self._tracer = None

    def validates(self, now: bool) -> None:
        if now != self._validates:
            self._validates = now
            self.stopwatch.begin("validation") if now else self.stopwatch.end()

    @part("measuring")
    def _trace(self) -> None:
        self._tracer = torch.profiler.profile(activities=[TRACEABLE[self.dls.device.type]], acc_events=True)
        self._tracer.start()
        self._since = time.perf_counter()

    @part("measuring")
    def _end_trace(self) -> None:
        seconds = time.perf_counter() - self._since  # the device has ended: a part begins with it idle
        tracer, self._tracer = self._tracer, None
        tracer.stop()
        kind = getattr(torch.autograd.DeviceType, TRACEABLE[self.dls.device.type].name)
        spans = [(e.time_range.start, e.time_range.end) for e in tracer.events() if e.device_type == kind]
        self.kernel_share = min(1.0, covered(spans) / 1e6 / seconds) if spans else None  # none: tracing is forbidden


class ProfileValidation(Callback):
    """Tells the watch that a validation begins, before any other callback acts in it."""

    order = -100

    def __init__(self, watch: ProfileWatch) -> None:
        self.watch = watch

    def before_validate(self) -> None:
        self.watch.validates(True)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The time that lies within at least one span (start, end), in the spans' unit."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def settle_on(device: torch.device) -> Callable[[], None] | None:
    """What waits for the device, for `Stopwatch.settle`; None on a CPU, which nothing has to wait for."""
    if device.type != "cuda":
        return None

    def settle() -> None:
        if not torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize(device)

    return settle


def measured(stopwatch: Stopwatch, watch: ProfileWatch, trial: Any) -> dict[str, Any]:
    """The profile for the record of a trial that is trained, up to now."""
    with part("measuring"):
        device = torch.device(trial.execution.device)
        adds = PASSES * multiply_adds(trial.model, trial.dls.valid.one_batch()[0][:2]) * watch.images
        peak = peak_of(device.type, str(trial.spec.precision), torch.get_num_threads())
    wall, seconds = stopwatch.read()
    return {
        "wall_seconds": wall, "idle_seconds": stopwatch.idle, "seconds": seconds, "kernel_share": watch.kernel_share,
        "multiply_adds": float(adds), "peak_multiply_adds": peak, "floor_seconds": adds / peak,
    }  # fmt: skip


def multiply_adds(model: nn.Module, x: torch.Tensor) -> int:
    """Multiply-adds of the dense network for one image (see `flops.py`). x: images to pass through it."""
    uses, layers = weight_uses(model, x), prunable_layers(model, LAYER_TYPES["all"])
    return sum(layer.weight.numel() * uses[layer.parameter_name] for layer in layers)


@functools.cache
def peak_of(device: str, precision: str, threads: int) -> float:
    """Multiply-adds per second of a large matrix product, measured once in a process: the best of some repeats.

    Under the settings for matrix products that are in force. threads: CPU threads, for the cache alone. Other trials on
    the device at the same time make it less.
    """
    n, dtype = SIDE.get(device, SIDE["cpu"]), DTYPES.get(precision, torch.float32)
    stream = torch.Generator(device).manual_seed(0)  # of its own, so that no trial's stream moves
    a, b = (torch.rand((n, n), generator=stream, device=device).to(dtype) for _ in range(2))
    made = torch.empty((n, n), dtype=dtype, device=device)
    seconds = (_seconds(lambda: torch.mm(a, b, out=made), device) for _ in range(1 + REPEATS))
    return n**3 / min(list(seconds)[1:])  # the first one loads libraries


def _seconds(act: Callable[[], Any], device: str, times: Sequence[int] = range(3)) -> float:
    """Mean time of an act on an idle device."""
    wait = torch.cuda.synchronize if device == "cuda" else _nothing
    wait()
    start = time.perf_counter()
    for _ in times:
        act()
    wait()
    return (time.perf_counter() - start) / len(times)


def _nothing() -> None:
    """What waiting for a CPU takes."""
