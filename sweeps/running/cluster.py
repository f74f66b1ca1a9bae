"""The Ray cluster of a sweep: what its nodes can take, whether they share the storage, how they come and go."""

from __future__ import annotations

import contextlib
import logging
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
from lth_trainable.errors import UserError
from lth_trainable.store.store import Store
from sweeps.planning.dispatch import Dispatcher
from sweeps.running.progress import Board
from sweeps.running.ray_adapter import bootstrap_address
from sweeps.running.ray_process import WATCH_SECONDS, quieten, silence_loggers
from sweeps.running.resources import Resources

SHARED = ".shared"  # a folder of the run, there while a driver is at work
BOOTSTRAP = "~/ray_bootstrap_config.yaml"  # what `ray up` leaves on the head that it starts
GROWING = "RAY_USAGE_STATS_KUBERAY_IN_USE"  # set by KubeRay in its containers
CONNECT_SECONDS = 2.0
REACH_SECONDS = 10.0  # for a head to take a connection
ANSWER_SECONDS = 120.0  # for a node to read and write a marker
NOTE_SECONDS = 30.0  # between notes while a node is awaited


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The cluster that this process is connected to, for trials of these resources.

    say: tells a person something. marker: what every node has seen in the storage, while `sharing`.
    """

    resources: Resources
    say: Callable[[str], None]
    marker: str | None = None

    @classmethod
    def connect(cls, address: str, resources: Resources, say: Callable[[str], None]) -> Cluster:
        """Connect to a running cluster. Raises `UserError` where there is none at `address`."""
        quieten()
        import ray

        silence_loggers()
        try:
            _check_answers(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"address: no Ray cluster answers at {address} ({_first_line(error)}); start one with "
                "`ray start --head`, or leave the flag away for a Ray on this machine"
            ) from error
        return cls(resources=resources, say=say)

    # -- what the nodes can take -------------------------------------------------------------------------------------

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive."""
        import ray

        return [node for node in ray.nodes() if node["Alive"]]

    def slots(self) -> int:
        """Trials that fit on the nodes at once, as they are at this moment."""
        fit = sum(fitting(node["Resources"], self.resources) for node in self.nodes())
        return min(fit, self.resources.max_concurrent or fit)

    def check_room(self) -> None:
        """Raise `UserError` where no node can take a trial and none will come: Ray would wait for it for ever."""
        if not self.slots() and not may_grow():
            raise UserError(
                f"cluster: found no node with {_needs(self.resources)}; it has {self.shape()}; ask for less with "
                "--cpus-per-trial and --gpus-per-trial, or add a node"
            )

    def mark(self) -> dict[str, Any]:
        """The fingerprint of trials, from a worker with the resources of one: the head may have no GPU.

        Waits for such a worker, which the autoscaler may have to start.
        """
        import ray

        resources = {"num_cpus": self.resources.cpus, "num_gpus": self.resources.gpus}
        waiting = ray.remote(_fingerprint).options(**resources).remote(self.resources.execution())
        while not ray.wait([waiting], timeout=NOTE_SECONDS)[0]:
            self.say(f"waiting for a worker with {_needs(self.resources)}; the cluster has {self.shape()}")
        return dict(ray.get(waiting))

    def shape(self) -> str:
        """Nodes and GPUs, those in use first: `3 nodes, 2/4 GPUs`."""
        import ray

        nodes = self.nodes()
        gpus = sum(node["Resources"].get("GPU", 0) for node in nodes)
        used = gpus - ray.available_resources().get("GPU", 0)
        return f"{plural(len(nodes), 'node')}, {max(0, used):g}/{gpus:g} GPUs"

    # -- whether they share the storage ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def sharing(self, store: Store, run: str) -> Iterator[Cluster]:
        """Refuse a storage that the nodes do not share. Gives the cluster with the marker that later nodes look for."""
        marker = f"{run}/{SHARED}/{uuid.uuid4().hex}"
        store.write(marker, marker.encode())
        try:
            self._check_shared(store, marker)
            yield replace(self, marker=marker)
        finally:
            store.delete_folder(f"{run}/{SHARED}")

    def _check_shared(self, store: Store, marker: str) -> None:
        """Every node reads what the driver wrote, and the driver what each node wrote."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = {}
        for node in self.nodes():
            there = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            task = ray.remote(_answer).options(num_cpus=0, scheduling_strategy=there)
            asked[node["NodeID"]] = task.remote(store.place, marker, f"{marker}-{node['NodeID']}")
        hosts = {node["NodeID"]: node["NodeManagerAddress"] for node in self.nodes()}
        wrong = []
        for node_id, answer in asked.items():
            try:
                problem = ray.get(answer, timeout=ANSWER_SECONDS)
            except ray.exceptions.RayError as error:
                problem = _first_line(error)
            if problem is None and not store.exists(f"{marker}-{node_id}"):
                problem = "what it writes is not seen here"
            if problem is not None and node_id in {node["NodeID"] for node in self.nodes()}:  # else it has just died
                wrong.append(f"{hosts.get(node_id, node_id)}: {problem}")
        if wrong:
            raise not_shared(store.place, "; ".join(wrong))

    # -- while it runs -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def followed(self, dispatcher: Dispatcher, board: Board | None) -> Iterator[None]:
        """Follow nodes that come and go: how many trials at once, what the live view shows, how many to ask for."""
        over = threading.Event()

        def follow() -> None:
            asked = None
            while True:
                with contextlib.suppress(Exception):  # the head is busy: the next look says more
                    dispatcher.slots = max(1, self.slots())
                    if board is not None:
                        board.cluster = self.shape()
                    asked = self._ask(len(dispatcher.waiting), asked)
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
        """Ask the autoscaler for room for so many trials; Tune itself has one at a time waiting."""
        trials = min(trials, self.resources.max_concurrent or trials)
        if may_grow() and trials != asked:
            from ray.autoscaler.sdk import request_resources

            bundle = {"CPU": self.resources.cpus, **({"GPU": self.resources.gpus} if self.resources.gpus else {})}
            request_resources(bundles=[bundle] * trials)
        return trials


def _check_answers(address: str) -> None:
    """Raise `OSError` or `ValueError` where nothing listens at `address`: Ray itself would try for minutes."""
    found = None if "://" in address else bootstrap_address(address)
    if found is not None:
        host, _, port = found.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()


def fitting(node: Mapping[str, float], resources: Resources) -> int:
    """Trials that fit on a node at once."""
    fit = int(node.get("CPU", 0) // resources.cpus)
    return min(fit, int(node.get("GPU", 0)) * int(1 / resources.gpus)) if resources.gpus else fit


def may_grow() -> bool:
    """Whether an autoscaler looks after the cluster: `ray up` started this head, or KubeRay these containers."""
    return Path(BOOTSTRAP).expanduser().exists() or GROWING in os.environ


def not_shared(storage: str, why: str) -> UserError:
    """A storage that the nodes do not share, with the remedy."""
    return UserError(
        f"storage: {storage} is not shared by all nodes ({why}); expected one place that every node reads and writes; "
        "choose a --storage on a network file system mounted at the same path on every node, or s3:// or gs://"
    )


def train_where_shared(config: dict[str, Any]) -> None:
    """`trainable.train` on a cluster: a node that came after the check is checked before it trains."""
    from lth_trainable.trainable import train

    problem = _unseen(config["storage"], config["shared"])
    if problem is not None:
        raise not_shared(config["storage"], f"{socket.gethostname()}: {problem}")
    train(config)


def _answer(storage: str, marker: str, answer: str) -> str | None:
    """On a node: read the marker, write an answer; returns what is wrong."""
    problem = _unseen(storage, marker)
    if problem is None:
        try:
            Store(storage).write(answer, b"seen")
        except OSError as error:
            return f"it cannot write there ({_first_line(error)})"
    return problem


def _unseen(storage: str, marker: str) -> str | None:
    """Why a marker is not read here; None where it is."""
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
