"""Run trials with Ray Tune: one Ray trial per spec, on warm workers, with retries. Finished trials are in the store."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import pickle
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lth_trainable import signals
from lth_trainable.errors import STOPPED
from lth_trainable.store.local_files import FOLDER, check_own
from lth_trainable.store.store import Store
from lth_trainable.store.trouble import ray_error
from lth_trainable.tune.config import task_of
from lth_trainable.tune.reports import parts_of
from sweeps.planning.dispatch import Dispatcher
from sweeps.planning.plan import PlannedTrial
from sweeps.running.cohorts import ALONE, Cohorts, Start, shapes_of
from sweeps.running.config import Config
from sweeps.running.deaths import reason_of_death
from sweeps.running.gpus import NO_GPUS, Gpus, resources_of
from sweeps.running.log_feed import NO_LOGGERS, Loggers
from sweeps.running.meanwhile import FOR_THE_END, importing
from sweeps.running.names import name_of, trial_folder, trial_name
from sweeps.running.needs import needs_of, warm_up_of
from sweeps.running.progress import Board, LiveView
from sweeps.running.ray_adapter import (
    drop_flag,
    lost_workers_as_dead,
    results_without_tables,
    set_flag,
    trials_on_idle_workers,
    uncounted_callbacks,
    workers_that_wait,
)
from sweeps.running.ray_process import (
    Workers,
    end_workers,
    quieten,
    ray_here,
    shut_down_ray,
    silence_loggers,
)
from sweeps.running.resources import Budget, Resources, Spent
from sweeps.running.stopping import LOOK_SECONDS, StopRequest, see_to_the_end
from sweeps.runs.health import Health
from sweeps.runs.ledger import Ledger

if TYPE_CHECKING:
    from sweeps.running.cluster import Cluster
    from sweeps.running.searcher import PlanSearcher, Source

RETRIES = 2
COVERED_IN_RAY = 1000  # of the trials that others have trained: the default of --max-covered-in-ray


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a launch. epochs: that it trained, unfinished trials included. failures: reason by trial name.

    interrupted: whether it ended early, by a signal or an error of Ray's. signal: its name. stopped_by: the limit that
    ended it early, or SIGUSR1, which means the same. notes: messages of the workers, each once.
    """

    epochs: int
    failures: Mapping[str, str]
    interrupted: bool
    signal: str | None = None
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
    health: Health | None = None,
    silence: float | None = None,
    covered_in_ray: int = COVERED_IN_RAY,
    mps: str = "auto",
    say: Callable[[str], None] = print,
    recorded: Callable[[str], None] = lambda trial: None,
) -> Outcome:
    """Train the trials that the dispatcher hands out, and store each. Raises `StorageError` if the storage fails.

    Finished trials stay stored, also after a signal. At a signal, when the budget's hours are over, and when the
    storage is in trouble, it ends within a minute, whatever the trials do (`stopping.py`).

    spent: counts the epochs. board: for the live view; None for no view. cluster: that this process is connected to;
    None to start Ray on this machine. source: of trials that are not in the plan yet. loggers: must be `running`.
    silence: see `Config`. covered_in_ray: see `PlanSearcher`. health: of the storage; trouble ends the launch. mps:
    whether trials that share a GPU of this machine do so by MPS, "auto" or "off"; say: called with what is to be told;
    recorded: called with each trial that is.
    """
    if cluster is None:
        quieten()
    silence_loggers()
    if ledger.store.is_local:
        check_own(ledger.store.root, f"{ledger.run}/ray", FOLDER)  # Tune follows links
    health = health or Health()
    request = StopRequest(budget, health=health)
    if request():  # planning has taken too long
        return Outcome(epochs=0, failures={}, interrupted=False, stopped_by=request.reason)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"  # Ray overwrites a known name
    config = Config(
        ledger=ledger, execution={**execution, **resources.execution()}, launch=name,
        marker=cluster.marker if cluster is not None else None, log=bool(loggers), silence=silence,
    )  # fmt: skip

    def show(trial: str, result: Mapping[str, Any]) -> None:
        if board is not None:
            board.show(trial, result)
        recorded(trial)

    with importing(("ray",)) if cluster is None else contextlib.nullcontext():  # while a daemon of MPS starts
        gpus = Gpus.ready(resources, mps) if cluster is None else NO_GPUS  # `_run` closes them
    for line in gpus.told:
        say(line)

    def config_of(trial: PlannedTrial, start: Start = ALONE) -> dict[str, Any]:
        place = gpus.packing.place(trial.name) if gpus.packing is not None and not start.recorded else None
        return config.of(dispatcher.plan, trial, place, start)

    cohorts = Cohorts(resources.replicas, shapes_of(ledger))

    notes: list[str] = []

    def begin() -> _Tuning:
        from sweeps.running.searcher import PlanSearcher  # Ray Tune, imported while the workers import too

        searcher = PlanSearcher(
            dispatcher, spent, budget, config_of, _recorder(ledger, show, loggers),
            source, show, request, health, covered_in_ray=covered_in_ray, packing=gpus.packing, cohorts=cohorts,
            stop_all=lambda: set_flag(name),
        )  # fmt: skip
        callbacks = [_counter(spent, notes, searcher), *([loggers.callback()] if loggers else [])]
        return _Tuning(searcher, lambda: _fit(searcher, config, resources, callbacks, cluster, request))

    with LiveView(board) if board is not None else contextlib.nullcontext():
        workers = _workers(resources, dispatcher, gpus, config.execution)
        tuning = _run(begin, request, name, dispatcher, cluster, board, gpus, workers)
    searcher = tuning.searcher
    health.check()
    if tuning.error is not None:
        raise _trouble(ledger.store, tuning.error)
    failed = dict.fromkeys(spent.failed, "") | searcher.reasons | _of(tuning.errors, spent.failed)
    notes += [*cohorts.notes, *(gpus.packing.notes if gpus.packing is not None else [])]
    is_over = dispatcher.over and (source is None or source.is_over(dispatcher))
    stopped_by = searcher.stopped_by or (None if is_over or request.signal else request.reason)
    if searcher.unlisted and not stopped_by and not request.signal:
        notes.append(
            f"{searcher.unlisted} trials that others had trained are not in Ray's own results of this launch "
            f"({ledger.path}/ray/{name}); --max-covered-in-ray (here {covered_in_ray}) says how many may be"
        )
    if request.signal and signals.exit_code(request.signal) == STOPPED:
        stopped_by = request.signal
    return Outcome(
        epochs=spent.epochs, failures={name: ledger.failure(name) or reason for name, reason in failed.items()},
        interrupted=not stopped_by and (request.signal is not None or not is_over), signal=request.signal,
        stopped_by=stopped_by, notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip


class _Tuning(threading.Thread):
    """Ray Tune, in a thread: what waits for it can stop waiting. errors: by name of the trials that failed.

    Tune sets handlers of signals only in a main thread. error: what Tune raised.
    """

    def __init__(self, searcher: PlanSearcher, fit: Callable[[], dict[str, str]]) -> None:
        super().__init__(daemon=True, name="Ray Tune")
        self.searcher = searcher
        self.fit: Callable[[], dict[str, str]] | None = fit
        self.errors: dict[str, str] = {}
        self.error: BaseException | None = None

    def run(self) -> None:
        assert self.fit is not None
        try:
            self.errors = self.fit()
        except BaseException as error:  # `launch` raises it in the thread of the command
            self.error = error
        finally:
            self.fit = None  # no object of Tune's may outlive its Ray

    def is_running(self) -> bool:
        """Wait a moment; then say whether it is running."""
        self.join(LOOK_SECONDS)
        return self.is_alive()


def _of(errors: Mapping[str, str], failed: Collection[str]) -> dict[str, str]:
    """The errors of trials that have failed: the Ray trial of a cohort that broke is not the end of its trials."""
    return {name: error for name, error in errors.items() if name in failed}


def _run(
    begin: Callable[[], _Tuning], request: StopRequest, launch: str, dispatcher: Dispatcher, cluster: Cluster | None,
    board: Board | None, gpus: Gpus, workers: Workers,
) -> _Tuning:  # fmt: skip
    """Start Ray, or follow the cluster, and run Tune until it has ended, or should have; returns what ran."""
    has_ended = True
    try:
        with (
            ray_here(workers) if cluster is None else cluster.followed(dispatcher, board),
            signals.asking(request.ask),  # after Ray has set its own handler
        ):
            tuning = begin()
            tuning.start()
            end = end_workers if cluster is None else _leave_to_tune
            with importing(FOR_THE_END):
                has_ended = see_to_the_end(tuning.is_running, request, lambda: set_flag(launch), end)
            if has_ended and cluster is not None:
                drop_flag(launch)
    finally:
        if has_ended:
            shut_down_ray(gpus.close)
        else:
            signals.hurry()
    return tuning


def _workers(resources: Resources, dispatcher: Dispatcher, gpus: Gpus, execution: Mapping[str, Any]) -> Workers:
    """The workers of this machine's Ray: one is ready for each trial that can begin, and not more."""
    specs = [trial.spec for trial in dispatcher.waiting.values()]
    return Workers(
        ready=min(resources.slots(), max(1, math.ceil(len(dispatcher.waiting) / resources.replicas))),
        resources=gpus.for_ray,
        needs=needs_of(specs, execution.get("data_root"), warm_up_of(specs, execution, gpus.packing)),
        environment={"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(resources.cpus)), **gpus.environment},
    )  # fmt: skip


def _fit(
    searcher: PlanSearcher,
    config: Config,
    resources: Resources,
    callbacks: list[Any],
    cluster: Cluster | None,
    request: StopRequest,
) -> dict[str, str]:
    """Run Tune until the searcher has nothing left, or the time is over. Returns the reasons of failed trials by name.

    No object of Tune's may outlive this function: Ray is shut down next.
    """
    from ray import tune

    def of_trial(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([resources_of(task_of(config)["place"], resources)])

    class AtRequest(tune.Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return searcher.should_stop(trial_id, result)

        def stop_all(self) -> bool:
            return request.is_over

    class Silent(tune.ProgressReporter):
        """Tune's own would clear the output of a notebook's cell, whatever `verbose` is."""

        def should_report(self, trials: Any, done: bool = False) -> bool:
            return False

    store = config.ledger.store
    tuner = tune.Tuner(
        tune.with_resources(_trainable(cluster), of_trial if cluster is None else resources.for_ray()),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=trial_name,
            trial_dirname_creator=trial_folder,
        ),
        run_config=tune.RunConfig(
            name=config.launch,
            storage_path=f"{store.root}/{config.ledger.run}/ray",
            storage_filesystem=store.fs if "://" in store.uri else None,
            stop=AtRequest(),
            verbose=0,
            progress_reporter=Silent(),
            callbacks=list(callbacks),  # Tune adds some of its own, which hold its trials
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    with contextlib.ExitStack() as changed:
        changed.enter_context(lost_workers_as_dead())
        changed.enter_context(uncounted_callbacks())
        changed.enter_context(results_without_tables())
        if cluster is None:
            changed.enter_context(trials_on_idle_workers())
            changed.enter_context(workers_that_wait(searcher.may_wait))
        results = tuner.fit()
    if not request.reason:
        searcher.unlisted = _list_earlier(results, searcher, config)
    return {name_of(result): reason_of_death(result.error) for result in results if result.error}


def _list_earlier(results: Any, searcher: PlanSearcher, config: Config) -> int:
    """Let Ray's results list the trials that are done without a Ray trial of this launch; returns how many are not.

    As many as there may still be Ray trials of what others have trained.
    """
    from sweeps.running.earlier import list_earlier

    dispatcher, listed = searcher.dispatcher, {name_of(result) for result in results}
    others = [t for t in dispatcher.plan.trials if t.name in dispatcher.done and t.name not in listed]
    chosen = others[: searcher.covered_in_ray]
    if chosen:
        configs = {trial.name: config.of(dispatcher.plan, trial) for trial in chosen}
        list_earlier(results, config.ledger, config.launch, chosen, configs)
    return len(others) - len(chosen)


def _leave_to_tune() -> None:
    """On a cluster Tune ends the workers, on whichever node they are."""


def _trouble(store: Store, error: BaseException) -> BaseException:
    """What is raised for an exception of Tune: a `StorageError` if it could not read or write its own files."""
    if isinstance(error, OSError):
        return ray_error(store, error)
    if isinstance(error, EOFError | pickle.UnpicklingError):  # no space was left to write why a trial failed
        return ray_error(store, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    return error


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
        from sweeps.running.worker import train
    else:
        from sweeps.running.cluster import train_where_shared as train
    return train


def _counter(spent: Spent, notes: list[str], searcher: PlanSearcher) -> Any:
    """A Tune callback that counts epochs and collects the workers' notes."""
    from ray import tune

    class Counter(tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            for name in searcher.open.get(trial.trial_id, ()):
                spent.stop(name)  # the attempt of a worker that died
                spent.report(name, 0)

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
            for name, part in parts_of(trial_name(trial), result).items():
                if name in searcher.open.get(trial.trial_id, ()):
                    spent.report(name, part.get("epochs_done", 0), part.get("level", 0))
            notes.extend(result.get("notes", ()))

    return Counter()
