"""Ray's own processes: start, what to do when one dies, shutdown."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lth_trainable.errors import FAILED, UserError
from lth_trainable.processes import Family, kill
from lth_trainable.signals import SIGNALS, end, undoing
from sweeps.running.forking import MARK, MARKED, NOTHING, ForkServer, Needs, server_for
from sweeps.running.meanwhile import FOR_TUNE, importing
from sweeps.running.preload import preloading
from sweeps.running.private_ray import private_folder, private_settings, remove, set_for_ray
from sweeps.running.ray_adapter import (
    dead_processes,
    is_connected,
    read_environment_again,
    shielded,
)
from sweeps.running.start_adapter import with_idle_workers, with_workers_started_by, without_unused_processes

WATCH_SECONDS, START_WATCH_SECONDS = 2.0, 0.2
CONTROL_STORE = "gcs_server"
HAS_PROC = Path("/proc/self/comm").exists()
# for the control store to be there while Ray starts, and to be there again (a start that has failed is tried again):
# without one Ray would wait for a minute, then end this process with messages of its own
CONTROL_STORE_SECONDS, CONTROL_STORE_AGAIN_SECONDS = 50.0, 15.0
DISCONNECT_SECONDS = 5.0
WORKER = b"ray::ImplicitFunc"  # how the command line of a worker with a trial begins; Ray's agents have another
_family = Family(MARK, MARKED[MARK])
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new console output prints a box even if verbose=0
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results are in the store: no second copy as CSV and TensorBoard files
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # else workers start one after another; the searcher only offers what fits
}
LOUD = ("ray", "ray.tune", "ray.data")  # loggers
WIDGETS = "ray.widgets.util"  # logger that recommends ipywidgets in a notebook, when Ray is imported

_shutting_down: list[threading.Thread] = []
_at_shutdown = contextlib.ExitStack()  # what a Ray of this process leaves to be cleared away


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The workers of a Ray on this machine. ready: how many start with it, before a trial needs them.

    environment: variables for them. resources: that Ray is told of, besides those that it finds. needs: what a fork
    server is to have there before.
    """

    ready: int = 0
    needs: Needs = NOTHING
    environment: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)


FEW = Workers()


def quieten() -> None:
    """Set the environment variables that keep Ray quiet, unless the user has set them. Call it before importing Ray."""
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    logging.getLogger(WIDGETS).setLevel(logging.CRITICAL)


def silence_loggers() -> None:
    """Let Ray log critical messages only: the sweep itself prints what the user needs."""
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """At the end of this block Ray's settings of this process are as before, for a Tuner of the user's own."""
    loggers = {name: logging.getLogger(name) for name in LOUD}
    levels, before = {name: logger.level for name, logger in loggers.items()}, {n: os.environ.get(n) for n in QUIET}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for name, logger in loggers.items():
            logger.setLevel(levels[name])


def refuse_other_ray() -> None:
    """Raise `UserError` if this process, a notebook for example, is connected to a Ray that is not a sweep's own."""
    wait_for_shutdown()
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        raise UserError(
            "ray: found this process connected to a Ray; expected none, because a sweep starts its own; call "
            "ray.shutdown() first, or use that cluster with address='auto'"
        )


def start_ray(ray: Any, workers: Workers = FEW, server: ForkServer | None = None) -> None:
    """Start Ray on this machine for this process alone. Tries twice: half a minute may not be enough on a busy machine.

    server: forks the workers; None: each imports for itself. Raises `UserError` if Ray does not start. `clear_away`
    undoes what is left of it after `ray.shutdown()`.
    """
    for is_last in (False, True):
        try:
            _at_shutdown.callback(read_environment_again)  # so that the next Ray is not expected to know this token
            folder = _at_shutdown.enter_context(private_folder())
            _at_shutdown.enter_context(undoing(functools.partial(remove, folder.parent)))
            settings = {**workers.environment, **preloading(folder.parent), **private_settings(), **MARKED}
            starter = server.listen(folder.parent) if server is not None else []
            server = None  # a second attempt goes without
            with (
                set_for_ray(settings), shielded(SIGNALS), without_unused_processes(),
                with_idle_workers(workers.ready), with_workers_started_by(starter),
            ):  # fmt: skip
                ray.init(
                    address="local",  # not a cluster that runs on this machine
                    include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL,
                    configure_logging=True, _temp_dir=str(folder), resources=dict(workers.resources),
                )  # fmt: skip
            return
        except UserError:
            raise
        except Exception as error:  # Ray has no exception class for this
            _shut_down()
            if is_last:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                raise UserError(
                    f"ray: found no Ray that starts on this machine ({reason}); expected one within half a minute; "
                    "stop other programs that keep the machine busy or fill its memory or /tmp, then run it again"
                ) from error


def no_entry(address: str) -> UserError:
    """The error for a cluster that this process has no valid token for."""
    return UserError(
        f"address: the cluster at {address} refuses this process, which does not know its token; expected the "
        "cluster's own; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the token (docs/security.md)"
    )


@contextlib.contextmanager
def ray_here(workers: Workers = FEW) -> Iterator[None]:
    """Ray on this machine for this process: started, watched, and ended with the process if a signal ends that."""
    server = server_for(workers.environment, SIGNALS)
    if server is not None:
        _at_shutdown.callback(server.close)
        server.order(workers.needs)
    import ray

    wait_for_shutdown()
    with undoing(lambda: kill(_family.look)), node_watched() as started:
        with importing(FOR_TUNE):
            start_ray(ray, workers, server)
        started.set()
        yield


def end_workers() -> None:
    """Kill the workers of this machine's Ray, whatever they do."""
    for pid in _family.look():
        with contextlib.suppress(OSError):  # it has ended
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(WORKER):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def node_watched() -> Iterator[threading.Event]:
    """End this process, and what is left of Ray, if a Ray process that it started dies: memory ran out, for example.

    Tune would wait forever for the workers that died with it, and so may `ray.init`. Gives the event that the caller
    sets once Ray has started: before, only the control store counts, without which Ray cannot start.
    """
    over, started = threading.Event(), threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + CONTROL_STORE_SECONDS
        while not over.wait(WATCH_SECONDS if started.is_set() else START_WATCH_SECONDS):
            pids, now = _family.look(), time.monotonic()
            if started.is_set():
                dead = dead_processes()
            else:
                if any(map(_is_control_store, pids)):
                    deadline = now + CONTROL_STORE_AGAIN_SECONDS
                dead = [CONTROL_STORE] if now > deadline and HAS_PROC else []
            if dead and not over.is_set():
                end(
                    f"error: Ray's own processes on this machine died ({', '.join(dead)}); what is stored stays: "
                    "run the same command again to continue",
                    FAILED,
                )  # fmt: skip

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield started
    finally:
        over.set()


def _is_control_store(pid: int) -> bool:
    """Whether this is Ray's control store. Only where there is a /proc."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == CONTROL_STORE
    except OSError:  # it has ended
        return False


def shut_down_ray(afterwards: Callable[[], None] = lambda: None) -> None:
    """Disconnect this process from Ray, in a thread: it takes a second, in which results can be gathered.

    afterwards: called there once Ray has ended.
    """
    gc.collect()  # a Ray handle that is garbage-collected after the shutdown crashes this process

    def shut_down() -> None:
        try:
            _shut_down()
        finally:
            afterwards()

    _shutting_down.append(threading.Thread(target=shut_down))
    _shutting_down[-1].start()


def _shut_down() -> None:
    """End Ray, and all of its processes on this machine: its agents, and workers that hang, would stay."""
    import ray

    _family.look()
    ending = threading.Thread(target=_kill_once_disconnected)
    ending.start()
    with undoing(lambda: kill(_family.look)):
        ray.shutdown()
        ending.join()
        clear_away()


def _kill_once_disconnected() -> None:
    """Kill Ray's processes when this one does not need them any more; `ray.shutdown` would wait for each of them."""
    deadline = time.monotonic() + DISCONNECT_SECONDS
    while is_connected() and time.monotonic() < deadline:
        time.sleep(0.02)
    kill(_family.look)


def clear_away() -> None:
    """Remove the folder and forget the token of the Ray that has shut down."""
    _at_shutdown.close()


def wait_for_shutdown() -> None:
    """Wait until the Ray of an earlier launch has shut down: a new launch would connect to it while it ends."""
    while _shutting_down:
        _shutting_down.pop().join()
