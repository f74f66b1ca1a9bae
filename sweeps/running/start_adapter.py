"""What `ray.init` starts on this machine, changed through private names of Ray: one function for each change.

Seen to work with Ray 2.52 and 2.60. `tests/sweeps/running/test_start_adapter.py` fails where a new version of Ray has
changed one of the names. `ray_adapter.py` has the other private names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

PRESTARTED = "--num_prestart_python_workers="


@contextlib.contextmanager
def with_idle_workers(count: int) -> Iterator[None]:
    """Let the Ray that `ray.init` starts in this block begin with this many workers, instead of one for each core."""
    from ray._private import services

    plain = services.ConsolePopen

    class Fewer(plain):  # type: ignore[misc, valid-type]
        def __init__(self, command: Any, *args: Any, **more: Any) -> None:
            if not isinstance(command, str):
                command = [f"{PRESTARTED}{count}" if str(part).startswith(PRESTARTED) else part for part in command]
            super().__init__(command, *args, **more)

    services.ConsolePopen = Fewer
    try:
        yield
    finally:
        services.ConsolePopen = plain


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
