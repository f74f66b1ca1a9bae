"""While a command is at work nobody else gets in: no second driver on its run, no client without its token."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.command import ONE_WORKER, grid, running
from tests.support.doors import (
    Door,
    asked,
    browsed,
    doors,
    environment_of,
    methods,
    processes_of,
    refused_to_another_user,
)

SMALL = ("--epochs", "2", "--sparsity", "64", "--rewind-epoch", "0", "--seeds", "1", *ONE_WORKER)
WRONG = "0" * 64
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
CLIENT = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print('in')"


def until_a_worker_listens(session: int) -> list[Door]:
    """All doors of the sweep, once one of them is a worker's."""
    deadline = time.monotonic() + 120
    while not any(door.process.startswith("ray::I") for door in doors(session)):
        assert time.monotonic() < deadline, "no worker starts"
        time.sleep(0.2)
    return doors(session)


def token_of(session: int) -> str:
    """As root or as the user himself one can read it, in the environment of the workers."""
    tokens = set()
    for pid in processes_of(session):
        with contextlib.suppress(OSError):
            tokens.add(environment_of(pid).get("RAY_AUTH_TOKEN"))
    assert None in tokens, "the driver has it in its environment no longer"
    (token,) = tokens - {None}
    assert token is not None
    return token


def told_in_a_file(token: str, *folders: Path) -> list[str]:
    found = subprocess.run(["grep", "-rlF", token, *map(str, folders)], capture_output=True, text=True, check=False)
    return found.stdout.splitlines()


def told_on_a_command_line(token: str, session: int) -> bool:
    lines = []
    for pid in processes_of(session):
        with contextlib.suppress(OSError):
            lines.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    return len(lines) > 3 and any(token.encode() in line for line in lines)


def client(address: str, token: str) -> subprocess.Popen[str]:
    """Another process that wants to use this Ray. It looks on the loopback interface, as Ray itself does here."""
    known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, address], env={**os.environ, **known}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.slow
def test_while_a_driver_is_at_work_nobody_else_gets_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # whatever a cluster's user has set
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    before = set(Path("/tmp").glob("lth-*"))
    with running(tmp_path, *SMALL) as driver:
        found = until_a_worker_listens(driver.pid)
        os.kill(driver.pid, signal.SIGSTOP)  # so that the sweep does not end meanwhile
        assert {door.host for door in found} <= set(LOOPBACK), found

        token = token_of(driver.pid)
        (folder,) = (p for p in set(Path("/tmp").glob("lth-*")) - before if told_by(driver.pid, p))
        assert folder.stat().st_mode & 0o777 == 0o700
        assert not told_in_a_file(token, tmp_path, folder) and not told_on_a_command_line(token, driver.pid)

        others = [door for door in found if door.process != "python"]  # the driver itself is stopped
        refused = {"gRPC": 0, "HTTP": 0}
        for door in others:
            for known in (None, WRONG):
                answers = asked(door.port, methods(), known)
                assert set(answers) <= {"UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE"}, (door, answers)
                if set(answers) == {"UNAVAILABLE"}:
                    assert browsed(door.port, "/api/actors", known) in (401, 403), door
                    refused["HTTP"] += 1
                refused["gRPC"] += answers["UNAUTHENTICATED"]
        assert refused["HTTP"] >= 2 and refused["gRPC"] > 100, refused
        (gcs,) = (door.port for door in others if door.process == "gcs_server")
        reading = [("ray.rpc.InternalKVGcsService", "InternalKVGet")]
        assert asked(gcs, reading, token) == {"OK": 1}, "who knows the token gets in"

        guess, knows = client(f"127.0.0.1:{gcs}", WRONG), client(f"127.0.0.1:{gcs}", token)
        sockets = list(folder.glob("r/session_*/sockets/*"))
        assert {path.name for path in sockets} == {"raylet", "plasma_store"}
        if os.getuid() == 0:
            assert all(refused_to_another_user(path) for path in sockets)

        code, _, out, err = grid(tmp_path, *SMALL)
        assert code == 2 and err.startswith("error: digits: found another driver at work on it"), out + err
        assert knows.communicate(timeout=100)[0].endswith("in\n")
        said, _ = guess.communicate(timeout=100)
        assert guess.returncode == 1 and "in\n" not in said and "ConnectionError" in said, said
    assert (tmp_path / "digits" / "driver.json").exists(), "the killed driver left its mark"
    assert folder.exists(), "and its folder"
    code, _, out, err = grid(tmp_path, *SMALL)
    assert code == 0, out + err
    assert not (tmp_path / "digits" / "driver.json").exists() and not folder.exists()
    assert not {p for p in set(Path("/tmp").glob("lth-*")) - before if told_by(driver.pid, p)}


def told_by(pid: int, folder: Path) -> bool:
    """Whether a folder is that of a driver's Ray: the number of the process is in the session's name."""
    return bool(list(folder.glob(f"r/session_*_{pid}")))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_doors_that_this_test_looks_for_are_found() -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, start_new_session=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        assert [(door.host, door.port) for door in doors(server.pid)] == [("127.0.0.1", port)]
        server.communicate("\n")
    assert ("ray.rpc.CoreWorkerService", "PushTask") in methods() and len(methods()) > 100
