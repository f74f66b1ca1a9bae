"""A worker on a GPU that has no trial yet trains a network for a few batches, and forgets it.

Then the GPU's context, its libraries' kernels and the data are there when its first trial comes. A sweep often begins
with few trials, whose states all others start from; without this, all the others would set up the GPU at the same
moment. The fork server has a new worker `begin`; `train` lets a trial wait until that is over.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lth_trainable.spec.trial_spec import spec_from_dict

LOOK_SECONDS = 0.02  # between two looks whether Ray knows this worker
PATIENCE = 2.0  # seconds for its first trial to come: those that come at once have the GPU to themselves
LONGEST = 120.0  # seconds that a trial waits; then the worker ends, and Ray starts the trial in another one
MODULES = ("sweeps.running.warm_up", "lth_trainable.training.warm_up")  # for a fork server to import


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """What a worker trains. spec: canonical. execution: as in a task. environment: variables to set before."""

    spec: Mapping[str, Any]
    execution: Mapping[str, Any]
    environment: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class _Thread(threading.Thread):
    """Warms this worker up if it has no trial `PATIENCE` after Ray knows it: before, it would delay Ray."""

    def __init__(self, of: WarmUp) -> None:
        super().__init__(daemon=True, name="warm-up")
        self.of, self.turn, self.is_late = of, threading.Lock(), False

    def run(self) -> None:
        while not _is_connected():
            time.sleep(LOOK_SECONDS)
        time.sleep(PATIENCE)
        with self.turn:
            if not self.is_late:
                _train(self.of)

    def give_way(self) -> None:
        self.is_late = True
        if not self.turn.acquire(timeout=LONGEST):  # it would change PyTorch's settings while the trial trains
            print(f"warm-up: it has not ended after {LONGEST:g} s, so its worker ends", file=sys.stderr, flush=True)
            os._exit(1)
        self.turn.release()


_warming: _Thread | None = None


def begin(order: Mapping[str, Any]) -> None:
    """Warm this worker up, in a thread. order: a `WarmUp` as JSON."""
    global _warming
    _warming = _Thread(WarmUp(**order))
    os.environ.update(_warming.of.environment)
    _warming.start()


def give_way() -> None:
    """Before a trial: wait until the warm-up is over, or see to it that it does not begin."""
    if _warming is not None:
        _warming.give_way()


def _is_connected() -> bool:
    """Whether Ray knows this worker. Ray may still be imported by another thread."""
    is_initialized: Callable[[], bool] | None = getattr(sys.modules.get("ray"), "is_initialized", None)
    return is_initialized is not None and is_initialized()


def _train(of: WarmUp) -> None:
    try:
        from lth_trainable.training.execution import Execution
        from lth_trainable.training.warm_up import warm_up

        warm_up(spec_from_dict(of.spec), Execution.of(of.execution))
    except Exception as error:  # its first trial meets it again, and its record says why
        print(f"warm-up: {type(error).__name__}: {error}", file=sys.stderr)
