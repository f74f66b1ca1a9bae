"""A Ray cluster of several nodes on this machine, whose nodes can be killed and added while a sweep runs on it.

Each node has a raylet and a folder of its own. A driver is attached to the raylet of one of them, as a driver on that
machine would be, and believes that its machine has that node's name.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sweeps.running.ray_adapter import read_environment_again
from tests.support.command import ROOT

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # as on every cluster that others can reach
QUICK = {  # a node that has died is noticed after a second
    "RAY_health_check_initial_delay_ms": "0", "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "2", "RAY_USAGE_STATS_ENABLED": "0",
}  # fmt: skip
DRIVER = """
import functools, socket, sys
import ray
from sweeps import lth_grid
from sweeps.runs import lock

name, folder = sys.argv[1:3]
socket.gethostname = lambda: name
ray.init = functools.partial(ray.init, _temp_dir=folder)  # the raylet whose folder this is
lock.BEAT_SECONDS, lock.SILENT_SECONDS = 0.5, 3.0  # or each driver on another node would wait for a minute
sys.exit(lth_grid.main(sys.argv[3:]))
"""


@dataclass
class Nodes:
    """The nodes of a cluster. alive: those with a CPU, by name; the head has none, and always lives."""

    cluster: Any
    folder: Path
    alive: dict[str, Any] = field(default_factory=dict)
    made: int = 0

    def add(self) -> str:
        """Add a node with one CPU; returns its name."""
        self.made += 1
        name = f"n{self.made}"
        self.alive[name] = self.cluster.add_node(num_cpus=1, num_gpus=0, temp_dir=str(self.folder / name))
        return name

    def kill(self, name: str) -> None:
        """kill -9 of the node's raylet; its workers end with it."""
        node = self.alive.pop(name)
        node.all_processes["raylet"][0].process.kill()
        self.cluster.remove_node(node, allow_graceful=False)

    def driver(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        """The command, with its driver on this node."""
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, name, str(self.folder / name), *arguments, "--address",
             self.cluster.address, "--json"],
            cwd=ROOT, env={**os.environ, **TOKEN}, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip


@contextlib.contextmanager
def nodes(number: int) -> Iterator[Nodes]:
    """A cluster of a head without CPUs and a number of nodes with one each."""
    from ray.cluster_utils import Cluster

    folder = Path(tempfile.mkdtemp(prefix="n", dir="/tmp"))  # a short name: sockets are in it
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**TOKEN, **QUICK}.items():
                patch.setenv(name, value)
            read_environment_again()
            patch.setattr("ray._private.utils.write_ray_address", lambda *_: None)  # others here are not to find it
            head = {"num_cpus": 0, "num_gpus": 0, "temp_dir": str(folder / "head")}
            cluster = Cluster(initialize_head=True, head_node_args=head)
            try:
                made = Nodes(cluster=cluster, folder=folder)
                for _ in range(number):
                    made.add()
                yield made
            finally:
                cluster.shutdown()
        read_environment_again()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The summary of a command that ends well."""
    out, _ = process.communicate(timeout=280)
    assert process.returncode == 0, out
    return dict(json.loads(out.strip().splitlines()[-1]))


def killed(process: subprocess.Popen[str]) -> None:
    """kill -9 of a command, if it still runs."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
