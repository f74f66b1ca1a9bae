"""The fork server of this process: imports for the workers of its Ray, which start as copies of it."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sweeps.running import fork_client, fork_server
from sweeps.running.preload import PACKAGES

if TYPE_CHECKING:
    from sweeps.running.warm_up import WarmUp

AHEAD = (*(name for name in PACKAGES if name.split(".")[0] != "ray"), "pandas", "lth_trainable.training.run")
MARK = "LOTTERY_SWEEP_RAY"  # environment variable of all processes that this process starts for its Ray
MARKED = {MARK: uuid.uuid4().hex}
THREADS = "OMP_NUM_THREADS"  # read when torch and NumPy are imported
NO_TRAINING = {"-h", "--help", "--list", "--dry-run", "--plan-figure", "--on", "--cluster", "--address"}  # or not here
SOCKET = "f"  # short, because of the folders before it
END_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What workers need. modules: by name. data: arguments of `load_dataset`; the folder is a string here.

    warm_up: what each worker trains until its first trial (`warm_up.py`); None: nothing.
    """

    modules: tuple[str, ...] = ()
    data: tuple[tuple[Any, ...], ...] = ()
    warm_up: WarmUp | None = None


NOTHING = Needs()


@dataclass(frozen=True, kw_only=True)
class ForkServer:
    """A process that imports, and then forks. lifeline: it ends when this is closed. listener: not bound yet."""

    process: subprocess.Popen[bytes]
    lifeline: BinaryIO
    listener: socket.socket

    @classmethod
    def start(cls, environment: Mapping[str, str], blocked: Collection[signal.Signals]) -> ForkServer | None:
        """Start one with these variables, deaf to these signals, as Ray's processes are. None if there can be none.

        Then workers import for themselves.
        """
        if sys.platform != "linux" or sys.flags.no_site or sys.flags.isolated:
            return None
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        read, write = os.pipe()
        lifeline = os.fdopen(write, "wb", buffering=0)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", fork_server.__file__, str(listener.fileno())],
                stdin=read, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[listener.fileno()],
                env={**os.environ, **environment},
            )  # fmt: skip
        except OSError:  # no memory for another process: Ray will say so, if it needs to
            listener.close()
            lifeline.close()
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(read)
        server = cls(process=process, lifeline=lifeline, listener=listener)
        server.order(Needs(modules=AHEAD))
        return server

    def order(self, needs: Needs, listens: bool = False) -> None:
        """Have these things there before the next worker is forked. listens: from now on workers may be."""
        path = [os.path.abspath(entry) for entry in sys.path]
        order = {
            "path": path, "modules": needs.modules, "data": needs.data, "listens": listens,
            "warm_up": None if needs.warm_up is None else needs.warm_up.as_json(),
        }  # fmt: skip
        with contextlib.suppress(BrokenPipeError):  # it has ended: workers import for themselves
            self.lifeline.write(json.dumps(order).encode() + b"\n")

    def listen(self, folder: Path) -> list[str]:
        """Be there for clients, at a socket in this folder. Returns what comes before Ray's command for a worker."""
        path = str(folder / SOCKET)
        self.listener.bind(path)
        self.listener.listen(128)
        self.listener.close()  # so that a client notices if the server ends
        self.order(NOTHING, listens=True)
        return [sys.executable, "-I", "-S", fork_client.__file__, path]

    def close(self) -> None:
        """End the server. Workers that it has forked go on."""
        self.listener.close()
        self.lifeline.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # it still imports
            self.process.kill()
            self.process.wait()


_ahead: list[tuple[str, ForkServer]] = []  # started ahead, with its number of threads; at most one


def start_ahead(arguments: Sequence[str], blocked: Collection[signal.Signals]) -> None:
    """Start a fork server before the imports of a command with these arguments, which take a second or two.

    Only the process of a command may do so: the server ends with it.
    """
    flags = {argument.partition("=")[0] for argument in arguments}
    threads = os.environ.get(THREADS, "1")
    if flags & NO_TRAINING:
        return
    server = ForkServer.start({**MARKED, THREADS: threads}, blocked)
    if server is not None:
        _ahead.append((threads, server))
        atexit.register(_end_unused)


def _end_unused() -> None:
    """End a server that was started ahead of a command that trains nothing. It ends by itself, but later."""
    for _, server in _ahead:
        server.process.kill()


def server_for(environment: Mapping[str, str], blocked: Collection[signal.Signals]) -> ForkServer | None:
    """The fork server for workers with these variables: the one that was started ahead, if it has their threads."""
    while _ahead:
        threads, server = _ahead.pop()
        if threads == environment.get(THREADS, threads):
            return server
        server.close()
    return ForkServer.start({**environment, **MARKED}, blocked)
