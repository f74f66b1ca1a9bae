"""Ray's own process: how it starts, what it is told of signals, what happens when it dies, how it ends."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from lth_trainable.errors import UserError
from sweeps.running.ray_adapter import dead_processes

WATCH_SECONDS = 2.0
LOCAL = {"RAY_AUTH_MODE": "disabled"}  # a local Ray needs no token, and asks for one loudly; a cluster may have one
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new console output prints a box even when told to be quiet
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the store has the results; no second copy in CSV and TensorBoard
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # else workers start one after another; the searcher offers what fits
}
_shutting_down: list[threading.Thread] = []


def quieten(more: Mapping[str, str] = MappingProxyType({})) -> None:
    """Set the environment of a quiet Ray, where a person has not set it otherwise. Before Ray is imported."""
    os.environ.update({name: os.environ.get(name, value) for name, value in {**QUIET, **more}.items()})


def silence_loggers() -> None:
    """Only critical messages of Ray's: what a person needs, the sweep says."""
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def start_ray(ray: Any) -> None:
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


@contextlib.contextmanager
def sigterm_as_sigint() -> Iterator[None]:
    """A polite kill ends the sweep as Ctrl-C does: Ray handles only the latter."""
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray starts the driver of a job with it blocked
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def node_watched() -> Iterator[None]:
    """End this process when the node that it started dies, as by the system's killer of large processes.

    Tune would wait for ever for the workers that died with it.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            dead = dead_processes()
            if dead and not over.is_set():
                print(
                    f"error: Ray's own processes on this machine died ({', '.join(dead)}); "
                    "what is stored stays: the same command goes on",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def shut_down_ray() -> None:
    """End this process's connection to Ray in a thread: it takes a second, in which the results can be gathered."""
    import ray

    gc.collect()  # a handle of Ray's that is collected after the shutdown takes this process with it
    _shutting_down.append(threading.Thread(target=ray.shutdown))
    _shutting_down[-1].start()


def wait_for_shutdown() -> None:
    """Until no earlier launch of this process holds a Ray: a new one would get it in its last moments."""
    while _shutting_down:
        _shutting_down.pop().join()
