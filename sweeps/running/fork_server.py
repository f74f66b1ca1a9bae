"""A process that imports what trials need, once, and forks into Ray's workers, each time `fork_client.py` asks.

    python fork_server.py LISTENER

It imports while the command still plans and starts Ray. A worker is there at once then, and shares the memory of what
is imported, and of the data. This process uses no GPU, starts no thread, and does not import Ray, which reads its
environment once: so it can be forked, and each worker imports Ray for itself. LISTENER is the number of a socket that
the command has opened; nobody else can reach it. Standard input is a pipe that only the command holds: it brings
orders, and ends with the command. An order is a line of JSON: the command's `sys.path`, modules to import, arguments of
`load_dataset` for data to load, what workers train until their first trial, and whether the command's socket listens.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

LENGTH, READY, STARTED = 8, b"r", b"s"  # as in `fork_client.py`
WARM_UP = "sweeps.running.warm_up"  # what a worker does until its first trial, if that has been ordered
LIFELINE = 0
STREAMS = 3  # standard input, output and error
REQUEST_SECONDS = 5.0


def main(listener: socket.socket) -> dict[str, Any] | None:
    """Carry out orders, and fork on request once the socket listens; it seems to be readable before, too.

    Returns None when the command has ended; in a forked process, what it is to be.
    """
    own, listens, warm_up = sys.path[1:], False, None  # without the folder of this file
    with open(LIFELINE, "rb", buffering=0, closefd=False) as lifeline:
        while True:
            ready = select.select([LIFELINE, listener.fileno()] if listens else [LIFELINE], [], [])[0]
            if LIFELINE in ready:
                line = lifeline.readline()
                if not line.endswith(b"\n"):
                    return None
                order = json.loads(line)
                listens = carry_out(order, own) or listens
                warm_up = order["warm_up"] or warm_up
                continue
            with listener.accept()[0] as client:
                request = received(client)
                if request is not None and os.fork() == 0:
                    take_over(request)  # first: what the client has set from outside counts until it ends
                    client.sendall(STARTED)
                    return {**request, "warm_up": warm_up}
                for stream in request["streams"] if request is not None else ():
                    os.close(stream)


def carry_out(order: dict[str, Any], own: list[str]) -> bool:
    """Import, and load data. own: this process's `sys.path` otherwise. Returns whether there are workers to fork."""
    sys.path[:] = order["path"]
    gc.disable()  # it would take a quarter of the time
    try:
        import_all(order["modules"])
        load_all(order["data"])
    finally:
        gc.freeze()  # workers need not look through all this again, and their memory stays shared
        gc.enable()
        sys.path[:] = own
    if order["listens"]:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that ended workers do not stay as zombies
    return bool(order["listens"])


def import_all(modules: list[str]) -> None:
    """Import what is there."""
    for module in modules:
        if has_ended():
            break
        try:
            importlib.import_module(module)
        except Exception as error:  # the trial imports it again, fails, and its record says why
            print(f"fork server: {module}: {type(error).__name__}: {error}", file=sys.stderr)


def load_all(data: list[list[Any]]) -> None:
    """Load data sets for the workers, if their images are decoded already: workers are not to wait for that here."""
    if not data or has_ended():
        return
    from lth_trainable.data.cache import only_kept
    from lth_trainable.data.datasets import Dataset, load_dataset

    for name, root, *settings in data:
        try:
            with only_kept():
                found = load_dataset(name, None if root is None else Path(root), *settings)
            if isinstance(found, Dataset):
                found.normalise()
        except Exception as error:  # a worker loads it again, and its trial's record says why it cannot
            print(f"fork server: {name}: {type(error).__name__}: {error}", file=sys.stderr)


def has_ended() -> bool:
    """Whether the command has ended."""
    lifeline = select.poll()
    lifeline.register(LIFELINE, 0)
    return any(event & select.POLLHUP for _, event in lifeline.poll(0))


def received(client: socket.socket) -> dict[str, Any] | None:
    """What a worker is to be, with the numbers of its standard streams; None if the client does not wait any more."""
    streams: list[int] = []
    try:
        client.settimeout(REQUEST_SECONDS)
        client.sendall(READY)
        length, streams, *_ = socket.recv_fds(client, LENGTH, STREAMS)
        wanted, found = int.from_bytes(length, "big"), bytearray()
        while len(found) < wanted:
            part = client.recv(wanted - len(found))
            if not part:
                raise EOFError
            found += part
        if len(streams) != STREAMS:
            raise EOFError
        return {**json.loads(found), "streams": streams}
    except (OSError, EOFError):
        for stream in streams:
            os.close(stream)
        return None


def take_over(request: dict[str, Any]) -> None:
    """Give this process what the client's has: streams, folder, environment, signals."""
    for number, stream in enumerate(request["streams"]):  # the first takes the place of the lifeline
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    for name in set(os.environ) - set(request["environment"]):
        del os.environ[name]
    for name, value in request["environment"].items():
        if os.environ.get(name) != value:  # the others stay where they are: Ray's title of a process needs that
            os.environ[name] = value
    for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        is_ignored = int(signum) in request["ignored"]
        if is_ignored != (signal.getsignal(signum) is signal.SIG_IGN):
            signal.signal(signum, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    if request["oom"]:
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write(request["oom"])
        except OSError:  # it may not be lowered; then Ray could not have changed it either
            pass


def become(request: dict[str, Any]) -> None:
    """Run the script of Ray's worker, as Python would run it in a new process."""
    script, before = request["arguments"][0], request["environment"].get("PYTHONPATH", "")
    path = [os.path.dirname(script), *filter(None, before.split(os.pathsep))]
    sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
    sys.argv = request["arguments"]
    if request["warm_up"] is not None and WARM_UP in sys.modules:
        sys.modules[WARM_UP].begin(request["warm_up"])
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        found = main(listener)
    if found is not None:
        become(found)
