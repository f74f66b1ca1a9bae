"""Run trials with Ray Tune: one Ray trial per spec, on warm workers, with retries. Finished trials are in the store."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import Plan, PlannedTrial
from sweeps.running.log_feed import NO_LOGGERS, Loggers
from sweeps.running.progress import Board, LiveView
from sweeps.running.ray_process import (
    node_watched,
    quieten,
    shut_down_ray,
    sigterm_as_sigint,
    silence_loggers,
    start_ray,
)
from sweeps.running.resources import Budget, Resources, Spent
from sweeps.runs.ledger import Ledger

if TYPE_CHECKING:
    from sweeps.running.cluster import Cluster
    from sweeps.running.searcher import PlanSearcher, Source

RETRIES = 2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a launch. epochs: that it trained, unfinished trials included. failures: reason by trial name.

    stopped_by: the limit that ended it early. notes: messages of the workers, each once.
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
    spent: Spent,
    budget: Budget,
    *,
    board: Board | None = None,
    cluster: Cluster | None = None,
    source: Source | None = None,
    loggers: Loggers = NO_LOGGERS,
    silence: float | None = None,
) -> Outcome:
    """Train the trials that the dispatcher hands out, and store each. Raises `OSError` if the disk is full.

    Finished trials stay stored, also after an interrupt or on a full disk.

    spent: counts the epochs. board: for the live view; None for no view. cluster: that this process is connected to;
    None to start Ray on this machine. source: of trials that are not in the plan yet. loggers: must be `running`.
    silence: see `Config`.
    """
    if cluster is None:
        quieten()
    from sweeps.running.searcher import PlanSearcher

    silence_loggers()
    marker = cluster.marker if cluster is not None else None
    config = Config(
        ledger=ledger, execution={**execution, **resources.execution()}, marker=marker, log=bool(loggers),
        silence=silence,
    )  # fmt: skip
    show = board.show if board is not None else _nobody
    searcher = PlanSearcher(
        dispatcher, spent, budget, lambda trial: config.of(dispatcher.plan, trial), _recorder(ledger, show, loggers),
        source, show,
    )  # fmt: skip
    notes: list[str] = []
    try:
        with LiveView(board) if board is not None else contextlib.nullcontext():
            callbacks = [_counter(spent, notes), *([loggers.callback()] if loggers else [])]
            errors = _fit(searcher, config, resources, callbacks, cluster, board)
    finally:
        shut_down_ray()
    if searcher.is_full:
        raise _no_space()
    failed = dict.fromkeys(spent.failed, "") | searcher.reasons | (errors or {})
    is_over = dispatcher.over and (source is None or source.is_over(dispatcher))
    interrupted = errors is None or (not is_over and not searcher.stopped_by)
    return Outcome(
        epochs=spent.epochs, failures={name: ledger.failure(name) or reason for name, reason in failed.items()},
        interrupted=interrupted, stopped_by=searcher.stopped_by, notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _fit(
    searcher: PlanSearcher,
    config: Config,
    resources: Resources,
    callbacks: list[Any],
    cluster: Cluster | None,
    board: Board | None,
) -> dict[str, str] | None:
    """Run Tune until the searcher has nothing left. Returns the reasons of failed trials by name, None if interrupted.

    No object of Tune's may outlive this function: Ray is shut down next.
    """
    import ray
    from ray import tune

    store = config.ledger.store
    with contextlib.ExitStack() as watched:
        try:
            if cluster is None:
                start_ray(ray)
                watched.enter_context(node_watched())
            else:
                watched.enter_context(cluster.followed(searcher.dispatcher, board))
            watched.enter_context(sigterm_as_sigint())  # after Ray has set its own handler
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
                    name=f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",  # Ray overwrites a known name
                    storage_path=f"{store.root}/{config.ledger.run}/ray",
                    storage_filesystem=store.fs if "://" in store.uri else None,
                    stop=searcher.should_stop,
                    verbose=0,
                    callbacks=callbacks,
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                ),
            )
            return {_trial_name(result): _last_line(result.error) for result in tuner.fit() if result.error}
        except KeyboardInterrupt:
            return None
        except (EOFError, pickle.UnpicklingError) as error:  # Tune had no space left to write why a trial failed
            raise _no_space() from error


@dataclass(frozen=True, kw_only=True)
class Config:
    """Builds what a worker gets for a trial. marker: file that it must see in a cluster's storage before it trains.

    log: whether the worker's reports include rows for the loggers. silence: seconds without a step after which a trial
    is ended; None follows its pace, 0 is no limit. launch: id that tells attempts of this launch from earlier ones.
    """

    ledger: Ledger
    execution: Mapping[str, Any]
    marker: str | None = None
    log: bool = False
    silence: float | None = None
    launch: str = field(default_factory=lambda: uuid.uuid4().hex)

    def of(self, plan: Plan, trial: PlannedTrial) -> dict[str, Any]:
        """The config of a Ray trial. The task is one string: Tune copies, flattens and writes it with every result."""
        task = {
            "spec": trial.spec.canonical(), "key": trial.key, "run": self.ledger.run,
            "execution": dict(self.execution), "keep": plan.keep(trial), "marks": plan.rewind_steps(trial),
            "resumable": plan.policy != "none", "end": trial.end.key, "log": self.log,
            "silence": self.silence, "launch": self.launch,
        }  # fmt: skip
        return {
            "trial": trial.name, "storage": self.ledger.store.uri, "shared": self.marker,
            "task": json.dumps(task, default=str),
        }  # fmt: skip


def _no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _nobody(trial: str, result: Mapping[str, Any]) -> None:
    """Shows nothing: for a launch without a live view."""


def _recorder(
    ledger: Ledger, show: Callable[[str, Mapping[str, Any]], None], loggers: Loggers
) -> Callable[[PlannedTrial, Mapping[str, Any]], bool]:
    def record(trial: PlannedTrial, mark: Mapping[str, Any]) -> bool:
        result = ledger.record(trial, mark)
        if result is not None:
            show(trial.name, result)
            if loggers:
                loggers.recorded(trial.spec, ledger.read_record(trial.name))
        return result is not None

    return record


def _trainable(cluster: Cluster | None) -> Callable[[dict[str, Any]], None]:
    if cluster is None:
        from lth_trainable.trainable import train
    else:
        from sweeps.running.cluster import train_where_shared as train
    return train


def _counter(spent: Spent, notes: list[str]) -> Any:
    """A Tune callback that counts epochs and collects the workers' notes."""
    from ray import tune

    class Counter(tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            spent.stop(_trial_name(trial))  # the attempt of a worker that died
            spent.report(_trial_name(trial), 0)

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
            spent.report(_trial_name(trial), result.get("epochs_done", 0), result.get("level", 0))
            notes.extend(result.get("notes", ()))

    return Counter()


def _trial_name(trial: Any) -> str:
    """The name of the spec behind one of Tune's trials or results."""
    return str(trial.config["trial"])


def _last_line(error: BaseException) -> str:
    """The last line of an error that is not empty: Ray's report on a dead worker is long, and its reason comes last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
