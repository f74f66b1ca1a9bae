"""The private names of Ray with which this project changes what `ray.init` starts, in the installed version."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import ray

from sweeps.running.ray_adapter import shielded
from sweeps.running.start_adapter import (
    PRESTARTED,
    UNUSED,
    WORKER_COMMAND,
    with_idle_workers,
    with_workers_started_by,
    without_unused_processes,
)

GONE = (
    "Ray {version} has no {name}: sweeps/running/start_adapter.py needs another way, or pyproject.toml a bound on Ray"
)


def test_ray_starts_as_many_workers_at_once_as_it_is_told() -> None:
    services = import_module("ray._private.services")
    source = Path(inspect.getfile(services)).read_text()
    assert PRESTARTED in source, GONE.format(version=ray.__version__, name=PRESTARTED)
    show = [sys.executable, "-c", "import sys; print(sys.argv[1:])", f"{PRESTARTED}64", "other"]

    def shown() -> str:
        return str(services.ConsolePopen(show, stdout=subprocess.PIPE, text=True).communicate()[0]).strip()

    with shielded(()), with_idle_workers(3):
        assert shown() == f"['{PRESTARTED}3', 'other']"
    assert shown() == f"['{PRESTARTED}64', 'other']"


def test_ray_starts_workers_with_another_command_before_its_own() -> None:
    services = import_module("ray._private.services")
    assert WORKER_COMMAND in Path(inspect.getfile(services)).read_text(), GONE.format(
        version=ray.__version__, name=WORKER_COMMAND
    )
    show = [sys.executable, "-c", "import sys; print(sys.argv[1:])", f"{WORKER_COMMAND}py worker.py"]

    def shown() -> str:
        return str(services.ConsolePopen(show, stdout=subprocess.PIPE, text=True).communicate()[0]).strip()

    with with_workers_started_by(["ask", "a b"]):
        assert shown() == f"['{WORKER_COMMAND}ask \"a b\" py worker.py']"
    with with_workers_started_by([]):
        assert shown() == f"['{WORKER_COMMAND}py worker.py']"


def test_processes_that_a_sweep_does_not_use_do_not_start() -> None:
    """`ray.init` calls these methods. What a Ray without them lacks would end `tests/end_to_end`."""
    node = import_module("ray._private.node").Node
    source = inspect.getsource(node)
    for name in UNUSED:
        assert f"self.{name}(" in source, GONE.format(version=ray.__version__, name=f"Node.{name}")
    plain = {name: getattr(node, name) for name in UNUSED}
    with without_unused_processes():
        assert object.__new__(node).start_api_server(include_dashboard=False, raise_on_failure=False) is None
    assert {name: getattr(node, name) for name in UNUSED} == plain
