"""Resources and budget of a sweep: what a trial gets, when to stop, what has been trained so far."""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lth_trainable.collector import no_garbage_collection
from lth_trainable.errors import bad_value
from lth_trainable.nvidia import capabilities, has_device_file

MOST_REPLICAS = 1024  # more than any GPU gains from
MOST = 48  # trials on one GPU: as many processes can share a GPU through MPS
RAY_PARTS = 10_000  # of a resource, which Ray does not divide further
CLOSE = 1e-6  # 1/49 is not quite a 49th


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What each trial gets, and how many run at the same time.

    cpus: CPU cores (and threads) of a trial, 1 or more. gpus: 0, a fraction of one GPU, or 1. max_concurrent: most
    trials at the same time; None for as many as fit. deterministic: use only kernels whose results repeat exactly, on
    a GPU too. step: how a GPU runs a training step (see `Execution`). profile: whether a trial measures where its time
    goes. sharing: whether a GPU has as many trials as `gpus` says, also where these have less than `cpus` cores each
    ("number"), or as many as turn out to fit ("measured"). replicas: networks that are trained as one, so a place has
    up to as many trials. stacking: whether that is a "number", or still to be chosen by what is "measured"; until then
    it is 1. compile: whether networks are compiled (see `Execution`).
    """

    cpus: int = 1
    gpus: float = 0
    sharing: Literal["fraction", "number", "measured"] = "fraction"
    max_concurrent: int | None = None
    deterministic: bool = False
    step: str = "captured"
    profile: bool = False
    replicas: int = 1
    stacking: Literal["number", "measured"] = "number"
    compile: bool = False

    @classmethod
    def asked(
        cls,
        cpus: int,
        gpus: float,
        trials_per_gpu: int | Literal["auto"] | None,
        max_concurrent: int | None,
        replicas: int | Literal["auto"] = 1,
        **how: Any,
    ) -> Resources:
        """The resources of a command line. Raises `UserError` for both a part of a GPU and a number of trials on it."""
        how |= {"stacking": "measured"} if replicas == "auto" else {"replicas": replicas}
        if trials_per_gpu is None:
            return cls(cpus=cpus, gpus=gpus, max_concurrent=max_concurrent, **how)
        if gpus:
            raise bad_value(
                "trials-per-gpu", trials_per_gpu, f"one of --trials-per-gpu and --gpus-per-trial ({gpus:g})",
                "both say how many trials share a GPU",
            )  # fmt: skip
        if trials_per_gpu == "auto":
            return cls(cpus=cpus, gpus=1, sharing="measured", max_concurrent=max_concurrent, **how)
        if not 1 <= trials_per_gpu <= MOST:
            raise bad_value("trials-per-gpu", trials_per_gpu, f"1 to {MOST}, or auto")
        return cls(cpus=cpus, gpus=1 / trials_per_gpu, sharing="number", max_concurrent=max_concurrent, **how)

    def with_replicas(self, replicas: int) -> Resources:
        """The resources with a number of replicas that has been chosen."""
        return replace(self, replicas=replicas, stacking="number")

    @property
    def on_a_gpu(self) -> int:
        """Number of trials that share a GPU; 0 if they use none."""
        return int(1 / self.gpus + CLOSE) if self.gpus else 0

    @property
    def ray_gpus(self) -> float:
        """The part of a GPU to ask Ray for, which counts in ten-thousandths and rounds: as many as wanted must fit."""
        return min(1.0, math.floor(self.gpus * RAY_PARTS + CLOSE) / RAY_PARTS)

    def ray_cpus(self) -> float:
        """CPU cores to ask Ray for. Less than one where a GPU has more trials than this machine has cores for them."""
        cores, trials = os.cpu_count() or 1, gpu_count() * self.on_a_gpu if self.sharing == "number" else 0
        if self.cpus > 1 or trials <= cores:
            return self.cpus
        return math.floor(cores / trials * RAY_PARTS) / RAY_PARTS

    def for_ray(self) -> dict[str, float]:
        """What to ask Ray for on a cluster, where it chooses the GPU."""
        return {"cpu": self.cpus, "gpu": self.ray_gpus}

    def check(self, here: bool = True) -> None:
        """Raise `UserError` for resources that no machine has, or (here) not this one: Ray would wait forever."""
        cores = os.cpu_count() or 1
        if self.cpus < 1 or (here and self.cpus > cores):
            raise bad_value(
                "cpus-per-trial", self.cpus, f"1 to {cores}, the cores of this machine" if here else "at least 1"
            )
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise bad_value("max-concurrent", self.max_concurrent, "at least 1")
        if not 1 <= self.replicas <= MOST_REPLICAS:
            raise bad_value("replicas", self.replicas, f"1 to {MOST_REPLICAS}")
        if not (self.gpus == 0 or 1 / RAY_PARTS <= self.gpus <= 1):
            raise bad_value(
                "gpus-per-trial", self.gpus, "0, a fraction of a GPU such as 0.25, or 1", "a trial uses one GPU"
            )
        if self.sharing == "measured" and not here:
            raise bad_value("trials-per-gpu", "auto", "a number", "it is measured on this machine only")
        if here and self.gpus > 0 and not gpu_count():
            why = "this machine has no GPU that PyTorch can use"
            if self.sharing != "fraction":
                raise bad_value(
                    "trials-per-gpu", self.on_a_gpu if self.sharing == "number" else "auto", "no such flag", why
                )
            raise bad_value("gpus-per-trial", self.gpus, "0", why)

    def unused(self) -> str | None:
        """What to say if this machine has GPUs and the trials do not use them."""
        if self.gpus or not (found := gpu_count()):
            return None
        what = "a GPU" if found == 1 else f"{found} GPUs"
        return f"trials train on the CPU, but this machine has {what}; --trials-per-gpu 4 trains four on each"

    def execution(self) -> dict[str, Any]:
        """Arguments of `Execution` that follow from these resources."""
        device = "cuda" if self.gpus else "cpu"
        more: dict[str, Any] = {"profile": True} if self.profile else {}
        if self.on_a_gpu > 1:
            more["trials_on_gpu"] = self.on_a_gpu
        if self.replicas > 1:
            more["replicas"] = self.replicas
        if self.compile:
            more["compile"] = True
        return {
            "threads": self.cpus, "device": device, "deterministic": self.deterministic, "step": self.step, **more,
        }  # fmt: skip

    def slots(self) -> int:
        """Number of trials that fit on this machine at the same time."""
        fit = int((os.cpu_count() or 1) / self.ray_cpus() + CLOSE)
        if self.gpus:
            fit = min(fit, gpu_count() * self.on_a_gpu)
        return min(fit, self.max_concurrent or fit)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When to stop: after `hours` of wall time from `started`, or `epochs` trained by this command. None: no limit.

    started: when this was made, so the hours include planning, and waiting for a cluster.
    """

    hours: float | None = None
    epochs: int | None = None
    started: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise `UserError` for a limit that is not positive."""
        if self.hours is not None and not self.hours > 0:
            raise bad_value("max-hours", self.hours, "a positive number of hours, such as 0.5")
        if self.epochs is not None and self.epochs < 1:
            raise bad_value("max-epochs", self.epochs, "at least 1")

    def seconds_left(self) -> float | None:
        """Until `hours` are over, not less than 0. None if there is no limit."""
        return None if self.hours is None else max(0.0, self.started + 3600 * self.hours - time.monotonic())

    def reached(self, epochs: int) -> str | None:
        """The flag of the limit that is reached after `epochs` epochs, or None."""
        if self.seconds_left() == 0:
            return "--max-hours"
        return "--max-epochs" if self.epochs is not None and epochs >= self.epochs else None


class OutOfTime(Exception):
    """The hours of the budget are over, and nothing has been trained yet."""


@dataclass(kw_only=True)
class Spent:
    """What this command has trained so far. The budget, the searcher and the live view all read these counts.

    running, finished: epochs by trial. levels: pruning level of each running trial. failed: names of trials. stopped:
    epochs of attempts that ended before their trial was done. shared: number of finished trials that needed no
    training, because other trials had trained all their epochs.
    """

    running: dict[str, int] = field(default_factory=dict)
    levels: dict[str, int] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    stopped: int = 0
    shared: int = 0

    @property
    def epochs(self) -> int:
        """Epochs trained by this command."""
        return sum(self.finished.values()) + sum(self.running.values()) + self.stopped

    def now(self) -> dict[str, dict[str, int]]:
        """Epochs and pruning level of each running trial."""
        return {trial: {"epochs": n, "level": self.levels.get(trial, 0)} for trial, n in list(self.running.items())}

    def report(self, trial: str, epochs: int, level: int = 0) -> None:
        """Note that a running trial has trained `epochs` epochs so far and is at pruning level `level`."""
        self.running[trial] = epochs
        self.levels[trial] = level

    def finish(self, trial: str, epochs: int) -> None:
        """Note that a trial is done, after `epochs` epochs of this command."""
        self.running.pop(trial, None)
        self.failed.discard(trial)
        self.finished[trial] = epochs

    def share(self, trial: str) -> None:
        """Note that a trial is done whose epochs other trials have trained."""
        self.shared += 1
        self.finish(trial, 0)

    def stop(self, trial: str) -> None:
        """Note that a trial was stopped early. Its epochs count."""
        self.stopped += self.running.pop(trial, 0)

    def fail(self, trial: str) -> None:
        """Note that a trial failed. Its epochs count."""
        self.stop(trial)
        self.failed.add(trial)


def gpu_count() -> int:
    """GPUs of this machine that PyTorch can use here: those of CUDA_VISIBLE_DEVICES, if that is set.

    PyTorch takes seconds to import: it is asked only if it is there already, or if NVIDIA's driver cannot tell.
    """
    if "torch" not in sys.modules:
        if sys.platform == "linux" and not has_device_file():
            return 0
        found = capabilities()
        if found is not None:
            return len(found)
    with no_garbage_collection():
        import torch

    return torch.cuda.device_count()
