"""Ray Tune at work: warm workers, one trial a spec, retries, interrupts. What is finished is in the store."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import logging
import os
import pickle
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lth_trainable.errors import UserError, bad_value
from sweeps.cli.options import RunOptions
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import Plan, PlannedTrial
from sweeps.running.budget import Budget
from sweeps.running.log_feed import NO_LOGS, Logs
from sweeps.running.progress import Board, Progress
from sweeps.runs.ledger import Ledger

if TYPE_CHECKING:
    from sweeps.running.cluster import Cluster
    from sweeps.running.searcher import PlanSearcher, Source

RETRIES = 2
WATCH_SECONDS = 2.0
LOCAL = {"RAY_AUTH_MODE": "disabled"}  # a local Ray needs no token, and asks for one loudly; a cluster may have one
_shutting_down: list[threading.Thread] = []
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new console output prints a box even when told to be quiet
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the store has the results; no second copy in CSV and TensorBoard
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # else workers start one after another; the searcher offers what fits
}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a trial gets and how many run at once.

    cpus: CPU cores (and threads) of a trial, 1 or more. gpus: 0, a part of one GPU, or 1. max_concurrent: trials at a
    time; None for as many as fit. deterministic: only kernels with reproducible bytes, on a GPU too. step: how a GPU
    makes a training step (see `Execution`).
    """

    cpus: int = 1
    gpus: float = 0
    max_concurrent: int | None = None
    deterministic: bool = False
    step: str = "captured"

    @classmethod
    def of(cls, options: RunOptions) -> Resources:
        """What the command line asks for."""
        return cls(
            cpus=options.cpus_per_trial, gpus=options.gpus_per_trial, max_concurrent=options.max_concurrent,
            deterministic=options.deterministic, step=options.step,
        )  # fmt: skip

    def check(self, here: bool = True) -> None:
        """Raise `UserError` for what no machine, or not this one (here), can give: Ray would wait for it for ever."""
        cores = os.cpu_count() or 1
        if self.cpus < 1 or (here and self.cpus > cores):
            raise bad_value(
                "cpus-per-trial", self.cpus, f"1 to {cores}, the cores of this machine" if here else "at least 1"
            )
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise bad_value("max-concurrent", self.max_concurrent, "at least 1")
        if not 0 <= self.gpus <= 1:
            raise bad_value(
                "gpus-per-trial", self.gpus, "0, a part of a GPU such as 0.25, or 1", "a trial uses one GPU"
            )
        if here and self.gpus > 0 and not _gpu_count():
            raise bad_value("gpus-per-trial", self.gpus, "0", "this machine has no GPU that PyTorch can use")

    def execution(self) -> dict[str, Any]:
        """The part of `Execution` that follows from it."""
        device = "cuda" if self.gpus else "cpu"
        return {"threads": self.cpus, "device": device, "deterministic": self.deterministic, "step": self.step}

    def slots(self) -> int:
        """Trials that fit on this machine at once."""
        fit = (os.cpu_count() or 1) // self.cpus
        if self.gpus:
            fit = min(fit, _gpu_count() * int(1 / self.gpus))
        return min(fit, self.max_concurrent or fit)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a launch did. epochs: trained by it, unfinished trials included. failures: reason by trial name.

    stopped_by: the limit that ended it early. notes: what workers tell of, each once.
    """

    epochs: int
    failures: Mapping[str, str]
    interrupted: bool
    stopped_by: str | None = None
    notes: tuple[str, ...] = ()


def launch(
    ledger: Ledger,
    dispatcher: Dispatcher,
    resources: Resources,
    execution: dict[str, Any],
    board: Board,
    budget: Budget,
    cluster: Cluster | None = None,
    source: Source | None = None,
    logs: Logs = NO_LOGS,
) -> Outcome:
    """Train what the dispatcher hands out, sealing each trial. An interrupt keeps what is finished, and so does a full
    disk, for which this raises `OSError`.

    cluster: one that this process is connected to; None for a Ray of its own on this machine. source: of trials that
    are not in the plan yet. logs: who is told of it, while they are `running`.
    """
    if cluster is None:
        os.environ.update({name: os.environ.get(name, value) for name, value in (QUIET | LOCAL).items()})
    import ray

    from sweeps.running.searcher import PlanSearcher

    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    marker = cluster.marker if cluster is not None else None
    config = Config(ledger=ledger, execution={**execution, **resources.execution()}, marker=marker, log=bool(logs))
    record = _recorder(ledger, board, logs)
    searcher = PlanSearcher(dispatcher, board, budget, lambda trial: config.of(dispatcher.plan, trial), record, source)
    try:
        with Progress(board):
            errors = _fit(searcher, config, resources, board, cluster, logs)
    finally:
        gc.collect()  # a handle of Ray's that is collected after the shutdown takes this process with it
        _shutting_down.append(threading.Thread(target=ray.shutdown))
        _shutting_down[-1].start()  # takes a second, in which the results can be gathered
    if searcher.is_full:
        raise _no_space()
    failed = dict.fromkeys(board.failed, "") | (errors or {})
    is_over = dispatcher.over and (source is None or source.is_over(dispatcher))
    interrupted = errors is None or (not is_over and not searcher.stopped_by)
    return Outcome(
        epochs=board.epochs, failures={name: ledger.failure(name) or reason for name, reason in failed.items()},
        interrupted=interrupted, stopped_by=searcher.stopped_by, notes=tuple(dict.fromkeys(board.notes)),
    )  # fmt: skip


def wait_for_shutdown() -> None:
    """Until no earlier launch of this process holds a Ray: a new one would get it in its last moments."""
    while _shutting_down:
        _shutting_down.pop().join()


def _fit(
    searcher: PlanSearcher, config: Config, resources: Resources, board: Board, cluster: Cluster | None, logs: Logs
) -> dict[str, str] | None:
    """Let Tune run until the searcher has nothing left; reasons by name of failed trials, None after an interrupt.

    Nothing of Tune's outlives this function.
    """
    import ray
    from ray import tune

    store = config.ledger.store
    with contextlib.ExitStack() as watched:
        try:
            if cluster is None:
                _start_ray(ray)
                watched.enter_context(_node_watched())
            else:
                watched.enter_context(cluster.followed(searcher.dispatcher, board))
            watched.enter_context(_sigterm_as_sigint())  # after Ray has set its own
            tuner = tune.Tuner(
                tune.with_resources(_trainable(cluster), {"cpu": resources.cpus, "gpu": resources.gpus}),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    reuse_actors=True,
                    trial_name_creator=_trial_name,
                    trial_dirname_creator=_trial_name,
                ),
                run_config=tune.RunConfig(
                    name=f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",  # Ray overwrites a name it knows
                    storage_path=f"{store.root}/{config.ledger.run}/ray",
                    storage_filesystem=store.fs if "://" in store.uri else None,
                    stop=searcher.should_stop,
                    verbose=0,
                    callbacks=[_watcher(board), *([logs.callback()] if logs else [])],
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                ),
            )
            return {_trial_name(result): _last_line(result.error) for result in tuner.fit() if result.error}
        except KeyboardInterrupt:
            return None
        except (EOFError, pickle.UnpicklingError) as error:  # Tune had no space to write down why a trial failed
            raise _no_space() from error


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a worker is given for a trial. marker: what it is to see in a cluster's storage before it trains.

    log: whether its reports carry what loggers are told.
    """

    ledger: Ledger
    execution: Mapping[str, Any]
    marker: str | None = None
    log: bool = False

    def of(self, plan: Plan, trial: PlannedTrial) -> dict[str, Any]:
        """The task as text: Tune copies, flattens and writes down a trial's config with every result."""
        task = {
            "spec": trial.spec.canonical(), "key": trial.key, "run": self.ledger.run,
            "execution": dict(self.execution), "keep": plan.keep(trial), "marks": plan.rewind_steps(trial),
            "resumable": plan.policy != "none", "end": trial.end.key, "log": self.log,
        }  # fmt: skip
        return {
            "trial": trial.name, "storage": self.ledger.store.place, "shared": self.marker,
            "task": json.dumps(task, default=str),
        }  # fmt: skip


def _no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _recorder(ledger: Ledger, board: Board, logs: Logs) -> Callable[[PlannedTrial, Mapping[str, Any]], bool]:
    def record(trial: PlannedTrial, mark: Mapping[str, Any]) -> bool:
        result = ledger.record(trial, mark)
        if result is not None:
            board.share(trial.name, result)
            if logs:
                logs.recorded(trial.spec, ledger.read_record(trial.name))
        return result is not None

    return record


def _trainable(cluster: Cluster | None) -> Callable[[dict[str, Any]], None]:
    if cluster is None:
        from lth_trainable.trainable import train
    else:
        from sweeps.running.cluster import train_where_shared as train
    return train


def _start_ray(ray: Any) -> None:
    """A Ray of this process's own. Its processes have half a minute to start, which a busy machine may take twice."""
    for is_last in (False, True):
        try:
            ray.init(
                address="local",  # whatever else Ray runs on this machine
                include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL, configure_logging=True,
            )  # fmt: skip
            return
        except Exception as error:  # Ray has no class for it
            ray.shutdown()
            if is_last:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                raise UserError(
                    f"ray: found no Ray that starts on this machine ({reason}); expected one within half a minute; end "
                    "what else keeps the machine busy or fills its memory or /tmp, then type the same command"
                ) from error


def _watcher(board: Board) -> Any:
    """A Tune callback that keeps the board."""
    from ray import tune

    class Watcher(tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            board.stop(_trial_name(trial))  # an attempt that a dead worker began
            board.epoch(_trial_name(trial), 0)

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
            board.epoch(_trial_name(trial), result.get("epochs_done", 0), result.get("level", 0))
            board.notes += result.get("notes", ())

    return Watcher()


def _trial_name(trial: Any) -> str:
    """Of a trial, or of a result, of Tune's."""
    return str(trial.config["trial"])


def _last_line(error: BaseException) -> str:
    """What a person needs of Ray's account of a dead worker: the last line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def _sigterm_as_sigint() -> Iterator[None]:
    """A polite kill ends the sweep as Ctrl-C does: Ray handles only the latter."""
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray starts the driver of a job with it blocked
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _node_watched() -> Iterator[None]:
    """End this process when the node that it started dies, as by the system's killer of large processes.

    Tune would wait for ever for the workers that died with it.
    """
    from ray._private.worker import _global_node

    over = threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            dead = [name for name, _ in _global_node.dead_processes()] if _global_node is not None else []
            if dead and not over.is_set():
                print(
                    f"error: Ray's own processes on this machine died ({', '.join(map(str, dead))}); "
                    "what is stored stays: the same command goes on",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()
