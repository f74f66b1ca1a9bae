"""The Ray cluster of a sweep: how much its nodes can run, whether they share the storage, nodes that join or leave."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.text import plural
from lth_trainable.errors import StorageError, UserError
from lth_trainable.signals import undoing
from lth_trainable.store.store import Store
from lth_trainable.tune.config import task_of
from sweeps.planning.dispatch import Dispatcher
from sweeps.running.progress import Board
from sweeps.running.ray_adapter import bootstrap_address, shielded, use_own_token, wants_other_token
from sweeps.running.ray_process import WATCH_SECONDS, no_entry, quieten, silence_loggers
from sweeps.running.resources import Budget, OutOfTime, Resources
from sweeps.running.worker import train

SHARED = ".shared"  # a folder of the run that exists while a driver is running
BOOTSTRAP = "~/ray_bootstrap_config.yaml"  # what `ray up` leaves on the head that it starts
GROWING = "RAY_USAGE_STATS_KUBERAY_IN_USE"  # KubeRay sets it in its containers
CONNECT_SECONDS = 2.0
REACH_SECONDS = 10.0  # for a head to accept a connection
ANSWER_SECONDS = 120.0  # for a node to read and write a marker
NOTE_SECONDS = 30.0  # between two messages while waiting for a node


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The cluster that this process is connected to, for trials with these resources.

    notify: shows the user a message. marker: path in the storage of a file that every node has read (see `sharing`).
    """

    resources: Resources
    notify: Callable[[str], None]
    marker: str | None = None

    @classmethod
    def connect(cls, address: str, resources: Resources, notify: Callable[[str], None]) -> Cluster:
        """Connect to a running cluster. Raises `UserError` if there is none at `address`."""
        quieten()
        import ray

        silence_loggers()
        try:
            _check_answers(address)
            with shielded(()):  # it starts no processes, but replaces a handler
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"address: no Ray cluster answers at {address} ({_first_line(error)}); start one with "
                "`ray start --head`, or leave out the flag to run on this machine"
            ) from error
        return cls(resources=resources, notify=notify)

    # -- how much the nodes can run ----------------------------------------------------------------------------------

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive."""
        import ray

        return [node for node in ray.nodes() if node["Alive"]]

    def slots(self) -> int:
        """Number of trials that fit on the present nodes at the same time."""
        fit = sum(fitting(node["Resources"], self.resources) for node in self.nodes())
        return min(fit, self.resources.max_concurrent or fit)

    def check_room(self) -> None:
        """Raise `UserError` if no node can run a trial and none will be added: Ray would wait forever."""
        if not self.slots() and not may_grow():
            raise UserError(
                f"cluster: found no node with {_needs(self.resources)}; it has {self.shape()}; ask for less with "
                "--cpus-per-trial and --gpus-per-trial, or add a node"
            )

    def fingerprint(self, budget: Budget) -> dict[str, Any]:
        """The fingerprint that trials will have here.

        See `of_a_worker`.
        """
        return dict(self.of_a_worker(budget, _fingerprint, self.resources.execution()))

    def of_a_worker(self, budget: Budget, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function returns on a worker with a trial's resources, since the head may lack a GPU.

        Waits for one, which the autoscaler may have to start. Raises `OutOfTime` when the hours of the budget are over.
        """
        import ray

        resources = {"num_cpus": self.resources.cpus, "num_gpus": self.resources.ray_gpus}
        waiting = ray.remote(function).options(**resources).remote(*arguments)
        while not ray.wait([waiting], timeout=min(NOTE_SECONDS, budget.seconds_left() or NOTE_SECONDS))[0]:
            if budget.seconds_left() == 0:
                raise OutOfTime
            self.notify(f"waiting for a worker with {_needs(self.resources)}; the cluster has {self.shape()}")
        return ray.get(waiting)

    def shape(self) -> str:
        """Nodes, and GPUs in use of all: `3 nodes, 2/4 GPUs`."""
        import ray

        nodes = self.nodes()
        gpus = sum(node["Resources"].get("GPU", 0) for node in nodes)
        used = gpus - ray.available_resources().get("GPU", 0)
        return f"{plural(len(nodes), 'node')}, {max(0, used):g}/{gpus:g} GPUs"

    # -- whether they share the storage ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def sharing(self, store: Store, run: str) -> Iterator[Cluster]:
        """Check that all nodes share the storage. Yields the cluster with a marker file that later nodes check.

        Raises `UserError` for a storage that they do not share.
        """
        marker = f"{run}/{SHARED}/{uuid.uuid4().hex}"
        delete = functools.partial(store.delete_folder, f"{run}/{SHARED}")
        store.write(marker, marker.encode())
        try:
            with undoing(delete):
                self._check_shared(store, marker)
                yield replace(self, marker=marker)
        finally:
            delete()

    def _check_shared(self, store: Store, marker: str) -> None:
        """Check that every node reads what the driver wrote, and the driver what every node wrote."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = {}
        for node in self.nodes():
            there = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            task = ray.remote(_answer).options(num_cpus=0, scheduling_strategy=there)
            asked[node["NodeID"]] = task.remote(store.uri, marker, f"{marker}-{node['NodeID']}")
        hosts = {node["NodeID"]: node["NodeManagerAddress"] for node in self.nodes()}
        wrong = []
        for node_id, answer in asked.items():
            try:
                problem = ray.get(answer, timeout=ANSWER_SECONDS)
            except ray.exceptions.RayError as error:
                problem = _first_line(error)
            if problem is None and not store.exists(f"{marker}-{node_id}"):
                problem = "what it writes is not visible here"
            if problem is not None and node_id in {node["NodeID"] for node in self.nodes()}:  # else it has just died
                wrong.append(f"{hosts.get(node_id, node_id)}: {problem}")
        if wrong:
            raise not_shared(store.uri, "; ".join(wrong))

    # -- while the sweep runs ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def followed(self, dispatcher: Dispatcher, board: Board | None) -> Iterator[None]:
        """Follow nodes that join and leave: update the number of concurrent trials, the view and the size asked for."""
        over = threading.Event()

        def follow() -> None:
            asked = None
            while True:
                with contextlib.suppress(Exception):  # the head is busy: try again at the next look
                    dispatcher.slots = max(1, self.slots())
                    if board is not None:
                        board.cluster = self.shape()
                    asked = self._ask(math.ceil(len(dispatcher.waiting) / self.resources.replicas), asked)
                if over.wait(WATCH_SECONDS):
                    return

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            with contextlib.suppress(Exception):
                self._ask(0, None)

    def _ask(self, trials: int, asked: int | None) -> int:
        """Ask the autoscaler for room for this many trials; Tune itself only queues one at a time."""
        trials = min(trials, self.resources.max_concurrent or trials)
        if may_grow() and trials != asked:
            from ray.autoscaler.sdk import request_resources

            bundle = {"CPU": self.resources.cpus, **({"GPU": self.resources.ray_gpus} if self.resources.gpus else {})}
            request_resources(bundles=[bundle] * trials)
        return trials


def _check_answers(address: str) -> None:
    """Raise `OSError` or `ValueError` if nothing listens at `address`: Ray itself would retry for minutes.

    Raises `UserError` if it refuses the token of this process.
    """
    if address == "auto":
        use_own_token()
    found = None if "://" in address else bootstrap_address(address)
    if found is not None:
        host, _, port = found.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
        if wants_other_token(found):
            raise no_entry(found)


def fitting(node: Mapping[str, float], resources: Resources) -> int:
    """Number of trials that fit on a node at the same time."""
    fit = int(node.get("CPU", 0) // resources.cpus)
    return min(fit, int(node.get("GPU", 0)) * resources.on_a_gpu) if resources.gpus else fit


def may_grow() -> bool:
    """Whether an autoscaler manages the cluster: `ray up` started this head, or KubeRay these containers."""
    return Path(BOOTSTRAP).expanduser().exists() or GROWING in os.environ


def not_shared(storage: str, why: str) -> UserError:
    """The error for a storage that the nodes do not share."""
    return UserError(
        f"storage: {storage} is not shared by all nodes ({why}); expected one that every node reads and writes; "
        "choose a --storage on a network file system mounted at the same path on every node, or s3:// or gs://"
    )


def train_where_shared(config: dict[str, Any]) -> None:
    """`worker.train` on a cluster: a node that joined after the check is checked before it trains."""
    task = task_of(config)
    try:
        problem = _unseen(task["storage"], task["shared"])
    except StorageError as error:
        from ray import tune

        from lth_trainable.trainable import trouble_report

        tune.report(trouble_report(error))
        return
    if problem is not None:
        raise not_shared(task["storage"], f"{socket.gethostname()}: {problem}")
    train(config)


def _answer(storage: str, marker: str, answer: str) -> str | None:
    """On a node: read the marker and write an answer. Returns what is wrong, or None."""
    try:
        problem = _unseen(storage, marker)
        if problem is None:
            Store(storage).write(answer, b"seen")
    except (OSError, StorageError) as error:
        return f"it cannot read or write there ({_first_line(error)})"
    return problem


def _unseen(storage: str, marker: str) -> str | None:
    """Why the marker cannot be read on this node, or None if it can."""
    deadline = time.monotonic() + CONNECT_SECONDS  # a network file system may show a new file a moment later
    while True:
        try:
            Store(storage).read(marker)
            return None
        except FileNotFoundError:
            problem = "it does not see what the driver wrote"
        except OSError as error:
            problem = f"it cannot read there ({_first_line(error)})"
        if time.monotonic() > deadline:
            return problem
        time.sleep(0.2)


def _fingerprint(execution: dict[str, Any]) -> dict[str, Any]:
    from lth_trainable.training.execution import Execution, fingerprint

    return fingerprint(Execution(**execution))


def _needs(resources: Resources) -> str:
    cpus = plural(resources.cpus, "CPU")
    return f"{cpus} and {resources.gpus:g} GPU" if resources.gpus else cpus


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
