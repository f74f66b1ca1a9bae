"""What Ray starts for a worker: asks the fork server for one. Without an answer it becomes an ordinary worker itself.

    python -I -S fork_client.py SOCKET PYTHON .../default_worker.py ARGUMENTS

What follows SOCKET is Ray's own command. SOCKET is where `fork_server.py` listens. Only the standard library is
imported. The forked process has what this one has: arguments, environment, folder, signals, standard streams.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

READY, STARTED = b"r", b"s"  # said by the server: send a request; and by the worker that it has forked
WAIT_SECONDS = 40.0  # for the server to have imported everything; Ray waits for 60 s for a worker
SETUP, SCRIPT = "setup_worker.py", "default_worker.py"
KIND, LANGUAGE, ENVIRONMENT = "--worker-type=", "--language=", "--serialized-runtime-env-context"
OOM = "/proc/self/oom_score_adj"  # Ray sets it from outside, for the process that it starts
LENGTH = 8  # bytes that say how long a request is


def main(path: str, command: list[str]) -> None:
    """Have the worker forked, or become it."""
    try:
        arguments = arguments_of(command)
        is_forked = arguments is not None and ask(path, arguments)
    except OSError:  # no server, or it has ended
        is_forked = False
    if not is_forked:
        os.execv(command[0], command)


def arguments_of(command: list[str]) -> list[str] | None:
    """Script and arguments of the worker that this command starts; None if that is no plain worker for trials.

    Ray sets up an environment first, with a script of its own, where a worker has one; without one, that does nothing.
    """
    if any(part.startswith(ENVIRONMENT) for part in command):
        return None
    arguments = command[1:]
    if os.path.basename(arguments[0]) == SETUP:
        arguments = [part for part in arguments[1:] if not part.startswith(LANGUAGE)]
    kinds = [part.removeprefix(KIND) for part in arguments if part.startswith(KIND)]
    return arguments if os.path.basename(arguments[0]) == SCRIPT and kinds in ([], ["WORKER"]) else None


def ask(path: str, arguments: list[str]) -> bool:
    """Ask the server at this socket for a worker with these arguments. False if it has none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.settimeout(WAIT_SECONDS)
        server.connect(path)
        if server.recv(1) != READY:
            return False
        request = json.dumps(of_this_process(arguments)).encode()
        socket.send_fds(server, [len(request).to_bytes(LENGTH, "big")], [0, 1, 2])
        server.sendall(request)
        return server.recv(1) == STARTED


def of_this_process(arguments: list[str]) -> dict[str, object]:
    """What the forked process takes over."""
    try:
        with open(OOM) as file:
            oom = file.read().strip()
    except OSError:
        oom = ""
    return {
        "arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd(), "oom": oom,
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "ignored": [int(s) for s in sorted(signal.valid_signals()) if signal.getsignal(s) is signal.SIG_IGN],
    }  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
