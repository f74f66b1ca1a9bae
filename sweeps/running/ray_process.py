"""Ray's own processes: start, signals, what to do when one dies, shutdown."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from lth_trainable.errors import UserError
from sweeps.running.private_ray import private_folder, private_settings, set_for_ray
from sweeps.running.ray_adapter import dead_processes, read_environment_again

WATCH_SECONDS = 2.0
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new console output prints a box even if verbose=0
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results are in the store: no second copy as CSV and TensorBoard files
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # else workers start one after another; the searcher only offers what fits
}
_shutting_down: list[threading.Thread] = []
_at_shutdown = contextlib.ExitStack()  # what a Ray of this process leaves to be cleared away


def quieten() -> None:
    """Set the environment variables that keep Ray quiet, unless the user has set them. Call it before importing Ray."""
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})


def silence_loggers() -> None:
    """Let Ray log critical messages only: the sweep itself prints what the user needs."""
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def start_ray(ray: Any) -> None:
    """Start Ray on this machine for this process alone. Tries twice: half a minute may not be enough on a busy machine.

    Raises `UserError` if it does not start. `clear_away` undoes what is left of it after `ray.shutdown()`.
    """
    for is_last in (False, True):
        try:
            _at_shutdown.callback(read_environment_again)  # so that the next Ray is not expected to know this token
            folder = _at_shutdown.enter_context(private_folder())
            with set_for_ray(private_settings()):
                ray.init(
                    address="local",  # not a cluster that runs on this machine
                    include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL,
                    configure_logging=True, _temp_dir=str(folder),
                )  # fmt: skip
            return
        except UserError:
            raise
        except Exception as error:  # Ray has no exception class for this
            ray.shutdown()
            clear_away()
            if is_last:
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                raise UserError(
                    f"ray: found no Ray that starts on this machine ({reason}); expected one within half a minute; "
                    "stop other programs that keep the machine busy or fill its memory or /tmp, then run it again"
                ) from error


@contextlib.contextmanager
def sigterm_as_sigint() -> Iterator[None]:
    """Make SIGTERM end the sweep like Ctrl-C: Ray handles only Ctrl-C."""
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray starts the driver of a job with SIGINT blocked
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def node_watched() -> Iterator[None]:
    """End this process if a Ray process that it started dies, for example because memory ran out.

    Tune would wait forever for the workers that died with it.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            dead = dead_processes()
            if dead and not over.is_set():
                print(
                    f"error: Ray's own processes on this machine died ({', '.join(dead)}); "
                    "what is stored stays: run the same command again to continue",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def shut_down_ray() -> None:
    """Disconnect this process from Ray, in a thread: it takes a second, in which results can be gathered."""
    import ray

    def end() -> None:
        ray.shutdown()
        clear_away()

    gc.collect()  # a Ray handle that is garbage-collected after the shutdown crashes this process
    _shutting_down.append(threading.Thread(target=end))
    _shutting_down[-1].start()


def clear_away() -> None:
    """Remove the folder and forget the token of the Ray that has shut down."""
    _at_shutdown.close()


def wait_for_shutdown() -> None:
    """Wait until the Ray of an earlier launch has shut down: a new launch would connect to it while it ends."""
    while _shutting_down:
        _shutting_down.pop().join()
