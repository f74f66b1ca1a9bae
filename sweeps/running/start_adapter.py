"""What `ray.init` starts on this machine, changed through private names of Ray: one function for each change.

Seen to work with Ray 2.52 and 2.60. `tests/sweeps/running/test_start_adapter.py` fails where a new version of Ray has
changed one of the names. `ray_adapter.py` has the other private names.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

PRESTARTED, WORKER_COMMAND = "--num_prestart_python_workers=", "--python_worker_command="  # arguments of Ray's raylet


@contextlib.contextmanager
def with_idle_workers(count: int) -> Iterator[None]:
    """Let the Ray that `ray.init` starts in this block begin with this many workers, instead of one for each core."""
    with _argument_changed(PRESTARTED, lambda _: str(count)):
        yield


@contextlib.contextmanager
def with_workers_started_by(starter: Sequence[str]) -> Iterator[None]:
    """Let the Ray that `ray.init` starts in this block start workers with this command, followed by its own for them.

    Without a starter nothing changes.
    """
    if not starter:
        yield
        return
    with _argument_changed(WORKER_COMMAND, lambda plain: f"{subprocess.list2cmdline(starter)} {plain}"):
        yield


@contextlib.contextmanager
def _argument_changed(name: str, change: Callable[[str], str]) -> Iterator[None]:
    """Within this block an argument of the processes that Ray starts has another value."""
    from ray._private import services

    plain = services.ConsolePopen

    class Changed(plain):  # type: ignore[misc, valid-type]
        def __init__(self, command: Any, *args: Any, **more: Any) -> None:
            if not isinstance(command, str):
                command = [_changed(str(part), name, change) for part in command]
            super().__init__(command, *args, **more)

    services.ConsolePopen = Changed
    try:
        yield
    finally:
        services.ConsolePopen = plain


def _changed(part: str, name: str, change: Callable[[str], str]) -> str:
    return name + change(part.removeprefix(name)) if part.startswith(name) else part


UNUSED = ("start_api_server", "start_monitor", "start_log_monitor")  # methods of Ray's `Node`


@contextlib.contextmanager
def without_unused_processes() -> Iterator[None]:
    """Let the Ray that `ray.init` starts in this block do without three processes of which a sweep uses nothing.

    They are the server of the dashboard, which runs even without one, the monitor that would start more nodes, and the
    one that brings the output of workers to the driver. Ray waits for the first, one or two seconds.
    """
    from ray._private.node import Node

    plain = {name: getattr(Node, name) for name in UNUSED}
    for name in UNUSED:
        setattr(Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, method in plain.items():
            setattr(Node, name, method)


def _start_nothing(*_: Any, **__: Any) -> None:
    """In place of a method that starts a process."""
