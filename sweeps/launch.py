"""Ray Tune at work: warm workers, one trial a spec, retries, interrupts. What is finished is in the store."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lth_trainable.errors import bad_value
from lth_trainable.spec import TrialSpec
from sweeps.ledger import Ledger
from sweeps.progress import Board, Progress

RETRIES = 2
_QUIET = {
    "RAY_AUTH_MODE": "disabled",  # a local Ray needs no token, and asks for one loudly
    "RAY_AIR_NEW_OUTPUT": "0",  # the new console output prints a box even when told to be quiet
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the store has the results; no second copy in CSV and TensorBoard
    "TUNE_RESULT_BUFFER_LENGTH": "1",
}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a trial gets and how many run at once.

    cpus: CPU cores (and threads) of a trial, 1 or more. gpus: 0, a part of one GPU, or 1. max_concurrent: trials at a
    time; None for as many as fit.
    """

    cpus: int = 1
    gpus: float = 0
    max_concurrent: int | None = None

    def check(self) -> None:
        """Raise `UserError` for what this machine cannot give: Ray would wait for it for ever."""
        cores = os.cpu_count() or 1
        if not 1 <= self.cpus <= cores:
            raise bad_value("cpus-per-trial", self.cpus, f"1 to {cores}, the cores of this machine")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise bad_value("max-concurrent", self.max_concurrent, "at least 1")
        if not 0 <= self.gpus <= 1:
            raise bad_value(
                "gpus-per-trial", self.gpus, "0, a part of a GPU such as 0.25, or 1", "a trial uses one GPU"
            )
        if self.gpus > 0:
            found = _gpu_count()
            if not found:
                raise bad_value("gpus-per-trial", self.gpus, "0", "this machine has no GPU that PyTorch can use")

    def slots(self) -> int:
        """Trials that fit on this machine at once."""
        fit = (os.cpu_count() or 1) // self.cpus
        if self.gpus:
            fit = min(fit, _gpu_count() * int(1 / self.gpus))
        return min(fit, self.max_concurrent or fit)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a launch did. epochs: trained by it, unfinished trials included. failures: reason by trial name."""

    epochs: int
    failures: dict[str, str]
    interrupted: bool


def launch(
    ledger: Ledger, todo: Sequence[TrialSpec], resources: Resources, execution: dict[str, Any], board: Board
) -> Outcome:
    """Train the trials of `todo` on a local Ray and seal each in the store. An interrupt keeps what is finished."""
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    import ray
    from ray import tune

    from lth_trainable.trainable import train

    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = {
        "spec": tune.grid_search([spec.canonical() for spec in todo]),
        "storage": ledger.store.uri if "://" in ledger.store.uri else ledger.store.root,
        "run": ledger.run,
        "execution": {**execution, "threads": resources.cpus, "device": "cuda" if resources.gpus else "cpu"},
    }
    started = False
    try:
        with Progress(board), contextlib.ExitStack() as signals:
            _start_ray(ray)
            started = True
            signals.enter_context(_sigterm_as_sigint())  # after Ray has set its own
            tuner = tune.Tuner(
                tune.with_resources(train, {"cpu": resources.cpus, "gpu": resources.gpus}),
                param_space=config,
                tune_config=tune.TuneConfig(
                    reuse_actors=True,
                    max_concurrent_trials=resources.max_concurrent,
                    trial_name_creator=_trial_name,
                    trial_dirname_creator=_trial_name,
                ),
                run_config=tune.RunConfig(
                    name=f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",  # Ray overwrites a name it knows
                    storage_path=f"{config['storage']}/{ledger.run}/ray",
                    verbose=0,
                    callbacks=[_watcher(board)],
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                ),
            )
            results = tuner.fit()
    except KeyboardInterrupt:
        return Outcome(epochs=board.epochs, failures={}, interrupted=True)
    finally:
        if started:
            threading.Thread(target=ray.shutdown).start()  # takes a second, in which the results can be gathered
    errors = {_name_in(result): _last_line(result.error) for result in results if result.error}
    errors |= {name: "" for name in board.failed if name not in errors}
    failures = {name: ledger.failure(name) or reason for name, reason in errors.items()}
    ended = len(board.finished) + len(failures)
    return Outcome(epochs=board.epochs, failures=failures, interrupted=ended < len(todo))


def _start_ray(ray: Any) -> None:
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL, configure_logging=True)


def _watcher(board: Board) -> Any:
    """A Tune callback that keeps the board."""
    from ray import tune

    class Watcher(tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            board.epoch(_trial_name(trial), 0)

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
            board.epoch(_trial_name(trial), result.get("epochs_done", 0))

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            if trial.last_result.get("status") == "failed":
                board.fail(_trial_name(trial))
            else:
                board.complete(_trial_name(trial), trial.last_result)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            board.fail(_trial_name(trial))

    return Watcher()


def _trial_name(trial: Any) -> str:
    return TrialSpec(**trial.config["spec"]).name


def _name_in(result: Any) -> str:
    return TrialSpec(**result.config["spec"]).name


def _last_line(error: BaseException) -> str:
    """What a person needs of Ray's account of a dead worker: the last line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def _sigterm_as_sigint() -> Iterator[None]:
    """A polite kill ends the sweep as Ctrl-C does: Ray handles only the latter."""
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()
