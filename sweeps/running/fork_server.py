"""A process that imports what trials need, once, and forks into Ray's workers, each time `fork_client.py` asks.

    python fork_server.py LISTENER

It imports while the command still plans and starts Ray. A worker is there at once then, and shares the memory of what
is imported. This process uses no GPU, starts no thread, and does not import Ray, which reads its environment once: so
it can be forked, and each worker imports Ray for itself. LISTENER is the number of a
socket that the command has opened; nobody else can reach it. Standard input is a pipe that only the command holds: it
brings one line of JSON, the command's `sys.path` and the modules to import, and ends with the command.
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
from typing import Any

LENGTH, READY, STARTED = 8, b"r", b"s"  # as in `fork_client.py`
LIFELINE = 0
STREAMS = 3  # standard input, output and error
REQUEST_SECONDS = 5.0


def main(listener: socket.socket) -> dict[str, Any] | None:
    """Import, then fork on request. Returns None when the command has ended; in a forked process, what it is to be."""
    own = sys.path[1:]  # without the folder of this file
    with open(LIFELINE, "rb", buffering=0, closefd=False) as lifeline:
        order = json.loads(lifeline.readline())
    sys.path[:] = order["path"]
    import_all(order["modules"])
    sys.path[:] = own
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that ended workers do not stay as zombies
    while True:
        ready = select.select([LIFELINE, listener.fileno()], [], [])[0]
        if LIFELINE in ready:
            return None
        with listener.accept()[0] as client:
            request = received(client)
            if request is not None and os.fork() == 0:
                take_over(request)  # first: what the client has set from outside counts until it ends
                client.sendall(STARTED)
                return request
            for stream in request["streams"] if request is not None else ():
                os.close(stream)


def import_all(modules: list[str]) -> None:
    """Import, without Python's garbage collector, which would take a quarter of the time."""
    gc.disable()
    for module in modules:
        if select.select([LIFELINE], [], [], 0)[0]:  # the command has ended
            break
        try:
            importlib.import_module(module)
        except Exception as error:  # the trial imports it again, fails, and its record says why
            print(f"fork server: {module}: {type(error).__name__}: {error}", file=sys.stderr)
    gc.freeze()  # workers need not look through all this again, and their memory stays shared
    gc.enable()


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
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        found = main(listener)
    if found is not None:
        become(found)
