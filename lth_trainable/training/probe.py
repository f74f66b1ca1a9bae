"""Measures how fast a trial trains here, and how large its states are, by training it for a moment. Stores nothing.

`python -m lth_trainable.training.probe` is a process of its own for that: torch and fastai need half a gigabyte,
which the command that asks should not keep. It reads a request from standard input and answers on standard output, each
one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from fastai.callback.core import Callback, CancelFitException

from lth_trainable.data.datasets import load_dataset
from lth_trainable.errors import UserError
from lth_trainable.spec.trial_spec import TrialSpec, spec_from_dict
from lth_trainable.store.states import size_of
from lth_trainable.training.execution import Execution, prepared
from lth_trainable.training.trial import Trial


def probe(spec: TrialSpec, execution: Execution, budget: float) -> tuple[float, int]:
    """Measure the seconds of one epoch of the trial's network and the bytes of a stored state; writes nothing.

    Runs dense training steps for `budget` seconds.
    """
    with prepared(execution, spec.precision):
        data = load_dataset(spec.dataset, execution.data_root, spec.split_seed, spec.image_size)
        trial = Trial(spec, data, execution, None)
        steps = _TimedSteps(budget)
        trial.learn.fit(1_000_000, cbs=steps)
        return steps.seconds_per_step * trial.steps_per_epoch, size_of(trial.state(False))


class _TimedSteps(Callback):
    """Ends the fit when the budget is used up; the first step is a warm-up and does not count."""

    def __init__(self, budget: float) -> None:
        self.budget, self.steps, self.first, self.seconds_per_step = budget, -1, 0.0, 0.0

    def after_step(self) -> None:
        now = time.perf_counter()
        self.steps += 1
        if self.steps == 0:
            self.first = now
        elif now - self.first > self.budget:
            self.seconds_per_step = (now - self.first) / self.steps
            raise CancelFitException


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Measure what a request asks for: "spec" (canonical), "data_root" (or null), "budget" in seconds.

    The answer has "seconds" of an epoch and "bytes" of a state, or an "error": why the trial cannot run.
    """
    root = request["data_root"]
    try:
        execution = Execution(data_root=Path(root) if root else None)
        seconds, size = probe(spec_from_dict(request["spec"]), execution, request["budget"])
    except UserError as error:
        return {"error": str(error)}
    except Exception as error:  # a plug-in may raise anything
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    return {"seconds": seconds, "bytes": size}


if __name__ == "__main__":
    found = answer(json.load(sys.stdin))
    print(json.dumps(found), flush=True)
